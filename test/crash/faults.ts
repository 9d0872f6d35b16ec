/** The n-th operation that changes a simulated disk fails, each time in another way. */
import type { Fault } from '../simulated-file.ts';
import type { SimulatedFiles } from '../simulated-files.ts';

const faults: readonly Fault[] = [
  { code: 'EIO' },
  { code: 'ENOSPC' },
  { code: 'EINTR' },
  { code: 'ENOSPC', half: true },
  { code: 'EIO', half: true },
];

export interface FailedOperation {
  /** Which it was: `datasync /state/vda.hrl`; null: there were fewer. */
  fired: string | null;
  readonly fault: Fault;
}

/** Counts from 1, over `where`. */
export function failAt(
  files: SimulatedFiles,
  n: number,
  where: (filePath: string) => boolean = () => true,
): FailedOperation {
  const fault = faults[n % faults.length] ?? { code: 'EIO' };
  const failed: FailedOperation = { fired: null, fault };
  let count = 0;
  files.fault = (operation, filePath) => {
    if (!where(filePath)) return null;
    count += 1;
    if (count !== n) return null;
    failed.fired = `${operation} ${filePath}: ${fault.code}`;
    return fault;
  };
  return failed;
}

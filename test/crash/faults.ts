/** The n-th operation that changes a simulated disk fails, each time in another way; and who hears of it, and when. */
import { expect } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import type { Files } from '../../src/posix/files.ts';
import { heardFiles, type FileFault } from '../../src/posix/heard-files.ts';
import type { Fault, Operation } from '../simulated-file.ts';
import type { SimulatedFiles } from '../simulated-files.ts';

const faults: readonly Fault[] = [
  { code: 'EIO' },
  { code: 'ENOSPC' },
  { code: 'EINTR' },
  { code: 'ENOSPC', wrote: 'half' },
  { code: 'EIO', wrote: 'half' },
];

/** A fault nobody hears of for longer is as good as hidden. */
const silentMsMax = 1000;

/** Listens at the door of a simulated disk as every role listens at its own. */
export class Listener {
  readonly heard: FileFault[] = [];
  heardMs = Infinity;

  /** The files as a role gets them. */
  readonly at = (files: Files): Files =>
    heardFiles(files, (fault) => {
      this.heardMs = Math.min(this.heardMs, systemClock.monotonicMs());
      this.heard.push(fault);
    });
}

export interface FailedOperation {
  /** Which it was: `datasync /state/vda.hrl: EIO`; null: there were fewer. */
  fired: string | null;
  /** Of the file, `kindOf` its path. */
  kind: string;
  /** Fails unless it was in the metric and the log of its role within a second. */
  readonly expectHeard: () => void;
  readonly listener: Listener;
}

/** In the first turn each operation fails in one of the ways, in all of them together in every way. */
export const allTurns: readonly number[] = faults.map((_, turn) => turn);

/** Counts from 1, over `where`. */
export function failAt(
  files: SimulatedFiles,
  n: number,
  where: (filePath: string) => boolean = () => true,
  listener = new Listener(),
  turn = 0,
): FailedOperation {
  const fault = faults[(n + turn) % faults.length] ?? { code: 'EIO' };
  let firedMs = 0;
  const failed: FailedOperation = {
    fired: null,
    kind: '',
    listener,
    expectHeard: () => {
      const { heard, heardMs } = listener;
      expect(heard, `${failed.fired}: who heard of it`).toEqual([expect.objectContaining({ code: fault.code })]);
      expect(heardMs - firedMs, `${failed.fired}: ms until it was heard`).toBeLessThan(silentMsMax);
    },
  };
  const fired = (operation: Operation, filePath: string): void => {
    failed.fired = `${operation} ${filePath}: ${fault.code}`;
    failed.kind = kindOf(filePath);
    firedMs = systemClock.monotonicMs();
  };
  files.failNth(n, fault, fired, where);
  return failed;
}

/** Which durable file of a role a path is, or is on its way to become. */
function kindOf(filePath: string): string {
  const name = filePath.slice(filePath.lastIndexOf('/') + 1).replace(/\.new$/, '');
  const [, suffix] = /(\.seg|\.seg\.spare|\.leaves|\.overlay|\.hrl|\.scratch)$/.exec(name) ?? [];
  if (suffix !== undefined) return suffix.slice(1);
  if (/\/leaves\/\d+$/.test(filePath)) return 'leaves';
  return name;
}

/** What processes cost and what they waited for, as the operating system counts it. */
import { readFile } from 'node:fs/promises';

const clockTicksPerSecond = 100;

export interface CpuSeconds {
  /** User and system, all its threads. */
  readonly own: number;
  /** Of its children that ended and were waited for, with theirs. */
  readonly waited: number;
}

/** Fields 14 to 17 of proc_pid_stat(5). @throws Error when there is no such process. */
export async function cpuSecondsOf(pid: number | 'self'): Promise<CpuSeconds> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = text
    .slice(text.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const seconds = (at: number): number => ((fields[at] ?? Number.NaN) + (fields[at + 1] ?? 0)) / clockTicksPerSecond;
  return { own: seconds(11), waited: seconds(13) };
}

/** Whether it has children that still run or were not waited for yet; false where the kernel does not list them. */
export async function hasChildren(pid: number): Promise<boolean> {
  return (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '')).trim() !== '';
}

/**
 * Seconds since the start of the machine in which somebody on it waited for a disk, also because too much was written that is not on it yet
 * (Documentation/accounting/psi.rst in Linux); null where the kernel does not count them.
 */
export async function diskWaitSeconds(): Promise<number | null> {
  const text = await readFile('/proc/pressure/io', 'utf8').catch(() => '');
  const total = /^some .*total=(\d+)$/m.exec(text)?.[1];
  return total === undefined ? null : Number(total) / 1e6;
}

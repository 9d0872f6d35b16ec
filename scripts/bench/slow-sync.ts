/**
 * A disk whose syncs take their time, as one behind a network does, without a hook in the product: the program runs under `strace`, which holds every
 * `fsync` and `fdatasync` back for so long after it is done. Syncs that run side by side wait side by side. Other system calls pass by a filter in
 * the kernel, at about 2 µs each; the tracer is a process of its own, so what it needs is in nobody's CPU time.
 */
import { missingPrograms, runProgram } from '../demo/programs.ts';

/** What the goals are set for, milliseconds. */
export const modelledSyncMs = 10;

/** Words before a program that make it run so, keeping its process id; or, as a text, why that is not possible here. */
export async function slowSync(ms: number): Promise<readonly string[] | string> {
  if ((await missingPrograms('strace')).length > 0) return 'strace is not installed';
  const calls = 'fsync,fdatasync';
  const delay = ['-e', `trace=${calls}`, '-e', `inject=${calls}:delay_exit=${ms * 1000}`];
  const words = ['strace', '-D', '-f', '--seccomp-bpf', '-qq', '-o', '/dev/null', ...delay];
  try {
    const [program = '', ...args] = words;
    await runProgram(program, [...args, process.execPath, '--version']);
    return words;
  } catch {
    return 'strace may not trace here';
  }
}

/** Entry of a worker thread of the survey: one task is some runs of blocks (`hash-runs.ts`), its leaves go back by transfer. */
import { move } from 'piscina';
import { systemClock } from '../kit/clock.ts';
import { isProblem, messageOf, systemCode } from '../kit/problem.ts';
import { posixFiles, type File } from '../posix/files.ts';
import { hashRuns, type HashFailure, type HashTask } from './hash-runs.ts';

/** The file of the last task: tasks of one disk come in a row. */
let open: { readonly path: string; readonly file: File } | null = null;

async function fileOf(path: string, inode: bigint): Promise<File> {
  if (open?.path === path && open.file.facts().inode === inode) return open.file;
  const before = open;
  open = null;
  await before?.file.close();
  open = { path, file: await posixFiles.open(path, 'read') };
  return open.file;
}

/** The leaves, or what is wrong: an error that is thrown across threads loses its code. */
export default async function hash(task: HashTask): Promise<unknown> {
  // Memory that native calls let go of is freed when the event loop turns.
  await systemClock.turn();
  try {
    const { buffer } = hashRuns(await fileOf(task.path, task.inode), task);
    return move(buffer);
  } catch (error) {
    const code = isProblem(error) ? error.code : systemCode(error);
    if (code === undefined) throw error;
    return { code, message: messageOf(error) } satisfies HashFailure;
  }
}

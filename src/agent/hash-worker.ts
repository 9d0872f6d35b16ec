/** Entry of a worker thread of the survey: one task is some runs of blocks (`hash-runs.ts`), its leaves go back by transfer. */
import { move } from 'piscina';
import { systemClock } from '../kit/clock.ts';
import { posixFiles, type File } from '../posix/files.ts';
import { hashRuns, type HashTask } from './hash-runs.ts';

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

export default async function hash(task: HashTask): Promise<unknown> {
  // Memory that native calls let go of is freed when the event loop turns.
  await systemClock.turn();
  const { buffer } = hashRuns(await fileOf(task.path, task.inode), task);
  return move(buffer as ArrayBuffer);
}

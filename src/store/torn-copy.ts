/** Where the copy of a torn end goes: beside the file, never over an older copy. */
import type { Files } from '../posix/files.ts';

/** `<path>.torn`, `<path>.torn.2`, … : the first that is free. */
export async function tornCopyName(files: Files, path: string): Promise<string> {
  let name = `${path}.torn`;
  for (let n = 2; await files.exists(name); n += 1) name = `${path}.torn.${n}`;
  return name;
}

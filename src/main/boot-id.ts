/** Identity of this boot of the machine: tells a killed process from a power loss (store/FORMAT.md, Index). */
import type { Files } from '../posix/files.ts';

const bootIdFile = '/proc/sys/kernel/random/boot_id';

/** Where the system has none, an empty text: an index that was not closed cleanly is then rebuilt. */
export async function readBootId(files: Files): Promise<string> {
  if (!(await files.exists(bootIdFile))) return '';
  return (await files.readWhole(bootIdFile)).toString('utf8').trim();
}

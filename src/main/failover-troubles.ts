/** Which disks of a failover take no writes now, for who lists it: what the process that serves it says, and whether there is room again since. */
import type { DiskTrouble } from '../cli/failover-roles.ts';
import { lockHolder } from '../posix/lock.ts';
import type { Failover, FailoverDirectory } from '../recovery/failover-directory.ts';
import { toldTroubles, inWords } from '../recovery/overlay-trouble.ts';
import type { Parts } from './parts.ts';

/** By number of the disk. */
export async function diskTroubles(
  { files, clock }: Parts,
  place: FailoverDirectory,
  { spaceBytes }: Failover,
): Promise<ReadonlyMap<number, DiskTrouble>> {
  const holder = await lockHolder(files, clock, place.path).catch(() => null);
  const found = new Map<number, DiskTrouble>();
  for (const [no, trouble] of toldTroubles(holder?.says)) {
    // A machine that waits for room writes nothing until somebody tells it to go on: so we look ourselves.
    if (trouble.why === 'file-system' && (await files.freeBytes(place.path)) >= trouble.bytes) continue;
    found.set(no, inWords(trouble, spaceBytes));
  }
  return found;
}

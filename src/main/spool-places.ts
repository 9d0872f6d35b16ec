/**
 * Where in the spool's directory which process writes: alone `<spool>/<machine>`, as one of several `<spool>/+shard-<i>/<machine>`; no machine's name
 * begins with `+`. A start with another number of processes than the last one carries what others left to the first of its own, where it
 * drains under the instance and the epoch it was filled in, as after any other restart. The rename is not synced: a lost spool costs nothing but sending again.
 */
import * as path from 'node:path';
import type { Files } from '../posix/files.ts';

const shardPattern = /^\+shard-[1-9]\d*$/;
const machinePattern = /^[a-z0-9]/;

/** @param index of the shard, from 1; 0: the only process. */
export function spoolPlace(spool: string, index: number): string {
  return index === 0 ? spool : path.join(spool, `+shard-${index}`);
}

/** Before any process of the start looks into the spool. @param of how many there are. */
export async function carrySpools(files: Files, spool: string, of: number): Promise<void> {
  const places = of === 1 ? [spool] : Array.from({ length: of }, (_, at) => spoolPlace(spool, at + 1));
  const [first = spool] = places;
  const names = await files.list(spool);
  const left = names.filter((name) => shardPattern.test(name)).map((name) => path.join(spool, name));
  const others = [spool, ...left].filter((place) => !places.includes(place));
  for (const place of others) {
    const machines = (await files.list(place)).filter((name) => machinePattern.test(name));
    if (machines.length > 0) await files.makeDirectory(first);
    for (const machine of machines) await carry(files, machine, place, places);
    if (place !== spool) await files.removeTree(place);
  }
}

/** Of a machine that is in two places, what a process of this start has is what drains. */
async function carry(files: Files, machine: string, from: string, places: readonly string[]): Promise<void> {
  for (const place of places) {
    if (await files.exists(path.join(place, machine))) {
      await files.removeTree(path.join(from, machine));
      return;
    }
  }
  await files.rename(path.join(from, machine), path.join(places[0] ?? from, machine));
}

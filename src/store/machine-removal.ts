/**
 * Deleting a replica. Renamed first, durably, then removed piece by piece: whatever dies in between, there is the whole machine or none, and
 * the rest of it is removed when a target next starts on the directory. Nobody reads it or starts from it meanwhile: its turn is held against those
 * who would start it, and readers and we give way to one another (`points-in-use.ts`, invariant 5).
 */
import * as path from 'node:path';
import type { Clock } from '../kit/clock.ts';
import { Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import type { Files } from '../posix/files.ts';
import { listFailoverIds } from './failover-ids.ts';
import { isMachine, machinePaths, machinesName } from './machine-directory.ts';
import { heldSinceMs, holdForRemoval, type PointsHold } from './points-in-use.ts';

/** No machine can be named like this. */
const removedPrefix = '.removed-';

interface Place {
  readonly files: Files;
  readonly clock: Clock;
  /** The target's directory. */
  readonly data: string;
  readonly machine: string;
}

/**
 * Keeps all others away from the machine until it is given back; its turn is held. Null: what is there is no machine any more.
 * @throws Problem `in-use`: it is started, or its points are being read.
 */
export async function holdAlone(place: Place & { readonly random: Random }): Promise<PointsHold | null> {
  const { files, data, machine } = place;
  const hold = (await isMachine(files, data, machine)) ? await holdForRemoval(place) : null;
  try {
    await refuseRemovalInUse(place);
    return hold;
  } catch (error) {
    await hold?.release();
    throw error;
  }
}

async function refuseRemovalInUse(place: Place): Promise<void> {
  const { files, data, machine } = place;
  const failovers = await listFailoverIds(files, data, machine);
  if (failovers.length > 0) {
    throw new Problem('in-use', `machine ${machine} is started from its replica: ${failovers.join(', ')}`, {
      remedy: `run tidemark failover cleanup or cancel first, then the replica is deleted`,
      retryable: true,
    });
  }
  const sinceMs = await heldSinceMs(place);
  if (sinceMs !== null) {
    throw new Problem('in-use', `points of ${machine} are being read since ${new Date(sinceMs).toISOString()}`, {
      remedy: 'end the export or verification that reads them, or wait for it, then the replica is deleted',
      retryable: true,
    });
  }
}

/** The machine's store is closed and is not opened meanwhile. Nothing happens when there is no such machine. */
export async function removeMachine(files: Files, data: string, machine: string): Promise<void> {
  const { directory } = machinePaths(data, machine);
  const machines = path.join(data, machinesName);
  const gone = path.join(machines, `${removedPrefix}${machine}`);
  // What an earlier attempt left.
  await files.removeTree(gone);
  if (!(await files.exists(directory))) return;
  await files.rename(directory, gone);
  await files.syncDirectory(machines);
  await files.removeTree(gone);
}

/** Removes what a stop left of removed machines. Before any machine is opened. */
export async function finishRemovals(files: Files, data: string): Promise<void> {
  const machines = path.join(data, machinesName);
  for (const name of await files.list(machines))
    if (name.startsWith(removedPrefix)) await files.removeTree(path.join(machines, name));
}

/**
 * Deleting a replica. Renamed first, durably, then removed piece by piece: whatever dies in between, there is the whole machine or none, and
 * the rest of it is removed when a target next starts on the directory.
 */
import * as path from 'node:path';
import { Problem } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import { machinePaths, machinesName } from './machine-directory.ts';

/** No machine can be named like this. */
const removedPrefix = '.removed-';

/** @throws Problem `in-use` when the machine is started from its replica. */
export async function refuseRemovalInUse(files: Files, data: string, machine: string): Promise<void> {
  const { directory } = machinePaths(data, machine);
  const failovers = await files.list(path.join(directory, 'failovers'));
  if (failovers.length > 0) {
    throw new Problem('in-use', `machine ${machine} is started from its replica: ${failovers.join(', ')}`, {
      remedy: `run tidemark failover cleanup or cancel first, then the replica is deleted`,
    });
  }
}

/** The machine's store is closed and is not opened meanwhile. Nothing happens when there is no such machine. */
export async function removeMachine(files: Files, data: string, machine: string): Promise<void> {
  const { directory } = machinePaths(data, machine);
  if (!(await files.exists(directory))) return;
  const machines = path.join(data, machinesName);
  const gone = path.join(machines, `${removedPrefix}${machine}`);
  await files.removeTree(gone);
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

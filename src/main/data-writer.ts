/**
 * How a command has a record written into a machine's `points.log`, which has one writer: the target that runs on the directory, asked by its
 * socket, or, when none runs, the command itself with the directory locked. A directory that is locked by somebody who does not answer (a target
 * that starts, another command) is tried again for a while.
 */
import { isProblem, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { machinePaths, openDataDirectory, readMachineFacts } from '../store/machine-directory.ts';
import { PointsLog } from '../store/points-log.ts';
import type { Aside } from '../store/points-record.ts';
import { askTarget } from '../target/admin-client.ts';
import { lockIdentity, type Parts } from './parts.ts';

/** Resolves when the record is durable. @throws Problem `locked`, `bad-record`, `full`, `unreachable`, `points-log-sync-failed`. */
export async function writeAside(parts: Parts, data: string, machine: string, entry: Aside): Promise<void> {
  const { clock } = parts;
  const deadlineMs = clock.monotonicMs() + limits.admin.silentMs;
  for (;;) {
    const locked = await appendHere(parts, data, machine, entry);
    if (locked === null || (await askTarget(data, { machine, entry }))) return;
    if (clock.monotonicMs() > deadlineMs) throw locked;
    await clock.sleep(limits.admin.pollMs);
  }
}

/** Null: it is written; else who has the directory. */
async function appendHere(parts: Parts, data: string, machine: string, entry: Aside): Promise<Problem | null> {
  const { files, clock } = parts;
  const identity = lockIdentity(clock, 'command');
  let directory;
  try {
    directory = await openDataDirectory({ files, clock, path: data, identity });
  } catch (error) {
    if (isProblem(error) && error.code === 'locked') return error;
    throw error;
  }
  try {
    const facts = await readMachineFacts(files, data, machine);
    if (!facts) throw new Problem('not-found', `${data} holds no machine ${machine}`);
    const path = machinePaths(data, machine).pointsLog;
    const log = await PointsLog.open({ files, path, machineId: Buffer.from(facts.id, 'hex') });
    try {
      await log.append(entry);
    } finally {
      await log.close();
    }
    return null;
  } finally {
    await directory.close();
  }
}

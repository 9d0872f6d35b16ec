/**
 * The machine that a command runs on a test (`--boot`), for who removes the test and says that all of it is gone.
 *
 * Invariant: the command locks the directory of its evidence, looks then whether the test is still there, and starts the machine then; the lock is
 * given back when the machine has ended. Who removes a test does that first, durably, and looks for the lock then. So at least one of the two sees the other.
 */
import * as path from 'node:path';
import type { MachineOfVault } from '../cli/failover-roles.ts';
import { isProblem, Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { acquireLock, type Lock } from '../posix/lock.ts';
import { machinePaths } from '../store/machine-directory.ts';
import { lockIdentity, type Parts } from './parts.ts';

type Place = Pick<MachineOfVault, 'data' | 'machine'>;

/** With the point, not with the failover: it outlives that. */
export function evidenceOf({ data, machine }: Place, point: number, id: string): string {
  return path.join(machinePaths(data, machine).boots, String(point), id);
}

/** Before the machine is started. Makes the directory if it is missing. */
export async function lockMachine(parts: Parts, evidence: string, id: string): Promise<Lock> {
  await parts.files.makeDirectory(evidence);
  return lockOf(parts, evidence, id);
}

function lockOf({ files, clock }: Parts, evidence: string, id: string): Promise<Lock> {
  return acquireLock(files, clock, evidence, lockIdentity(clock, `machine of failover ${id}`));
}

/** Resolves when no machine runs on this test, which is removed. @throws Problem `locked`: it does not end. */
export async function machineEnded(parts: Parts, place: Place, id: string): Promise<void> {
  const { files, clock } = parts;
  const { boots } = machinePaths(place.data, place.machine);
  // The command looks so often, and its machine has so long to end.
  const deadlineMs = clock.monotonicMs() + limits.recovery.failoverLookMs + limits.recovery.failoverStopMs;
  for (const point of await files.list(boots)) {
    while (await isRunning(parts, path.join(boots, point, id), id)) {
      if (clock.monotonicMs() > deadlineMs) throw stillRunning(place, id);
      await clock.sleep(limits.recovery.failoverPollMs);
    }
  }
}

async function isRunning(parts: Parts, evidence: string, id: string): Promise<boolean> {
  try {
    const lock = await lockOf(parts, evidence, id);
    await lock.release();
    return false;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    if (isProblem(error) && error.code === 'locked') return true;
    throw error;
  }
}

function stillRunning({ machine }: Place, id: string): Problem {
  return new Problem('locked', `${id} of ${machine} was removed, and the machine that was started from it still runs`, {
    remedy: 'end the command that runs it, and its qemu process',
    retryable: true,
  });
}

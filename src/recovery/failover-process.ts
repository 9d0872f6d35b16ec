/**
 * The end of a process that serves a failover, and who it is. Nothing is signalled that is not it: the process that holds the directory locked
 * says its number itself, and its command line names the failover.
 */
import type { Clock } from '../kit/clock.ts';
import { isProblem, Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import { lockHolder, type Lock, type LockIdentity } from '../posix/lock.ts';
import type { FailoverDirectory } from './failover-directory.ts';

/** Whether somebody serves it now. */
export async function isServed(place: FailoverDirectory, clock: Clock, identity: LockIdentity): Promise<boolean> {
  const lock = await free(place, clock, identity);
  await lock?.release();
  return lock === null;
}

/**
 * Ends the process that serves the failover, by SIGTERM and in the end by SIGKILL. Its directory is locked by the caller then: nobody starts
 * to serve it before the lock is given back. @throws Problem `locked` when it does not end,
 * `EPERM` when it is another user's.
 */
export async function endServing(
  place: FailoverDirectory,
  { files, clock }: { readonly files: Files; readonly clock: Clock },
  identity: LockIdentity,
): Promise<Lock> {
  const { failoverStopMs, failoverPollMs } = limits.recovery;
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const deadlineMs = clock.monotonicMs() + failoverStopMs;
    let told = false;
    while (clock.monotonicMs() < deadlineMs) {
      const lock = await free(place, clock, identity);
      if (lock) return lock;
      told ||= await signalServer(place, { files, clock }, signal);
      await clock.sleep(failoverPollMs);
    }
  }
  throw new Problem('locked', `the process that serves failover ${place.id} does not end`, {
    remedy: `end the process named in ${place.path}/process.json, then ask again`,
  });
}

async function free(place: FailoverDirectory, clock: Clock, identity: LockIdentity): Promise<Lock | null> {
  try {
    return await place.lock(clock, identity);
  } catch (error) {
    if (isProblem(error) && error.code === 'locked') return null;
    throw error;
  }
}

/** Whether there was one to be told. */
async function signalServer(
  place: FailoverDirectory,
  { files, clock }: { readonly files: Files; readonly clock: Clock },
  signal: 'SIGTERM' | 'SIGKILL',
): Promise<boolean> {
  const pid = (await lockHolder(files, clock, place.path))?.pid ?? (await place.process())?.pid;
  if (pid === undefined) return false;
  const words = await files.readWhole(`/proc/${pid}/cmdline`).catch(() => Buffer.alloc(0));
  const isServer = words.toString('utf8').split('\0').includes(place.id);
  if (!isServer) return false;
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (systemCode(error) === 'EPERM') throw another(place, pid, error);
    if (systemCode(error) !== 'ESRCH') throw error;
  }
  return true;
}

function another({ id }: FailoverDirectory, pid: number, cause: unknown): Problem {
  return new Problem('EPERM', `failover ${id} is served by process ${pid} of another user, who must end it`, {
    remedy: 'run this command as that user, or as root',
    cause,
  });
}

/**
 * What a target does with the failovers in its directory. When it starts: what was being made or removed is removed, tests whose process is gone
 * have ended, unplanned failovers are served again. While it runs: an unplanned failover whose process died is served again. One machine that can
 * not be put in order keeps no other from it, and is tried again after a while.
 */
import type { Vault } from '../cli/roles.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import { lockHolder } from '../posix/lock.ts';
import { listFailovers, type FailoverDirectory } from '../recovery/failover-directory.ts';
import { isServed } from '../recovery/failover-process.ts';
import { listMachines } from '../store/machine-directory.ts';
import { reportRunning } from './failover.ts';
import { inTurn, removeFailover, served, type Turn } from './failover-turn.ts';
import type { Parts } from './parts.ts';

/** Until `signal` aborts. Never rejects. */
export async function watchFailovers(parts: Parts, place: Vault, logger: Logger, signal: AbortSignal): Promise<void> {
  const { failoverLookMs, failoverRetryMs } = limits.recovery;
  const { clock } = parts;
  await keepFailovers(parts, place, logger, signal);
  /** Machine → when it is tried again. */
  const laterMs = new Map<string, number>();
  for (;;) {
    await clock.sleep(failoverLookMs, signal).catch(() => undefined);
    await eachMachine(parts, place, signal, async (machine) => {
      if (clock.monotonicMs() < (laterMs.get(machine) ?? 0)) return;
      try {
        if (await isAnyDown(parts, place.data, machine))
          await inTurn(parts, { ...place, machine }, (turn) => serveAgain(turn, logger));
        laterMs.delete(machine);
      } catch (error) {
        laterMs.set(machine, clock.monotonicMs() + failoverRetryMs);
        logger.error({ machine, error }, 'an unplanned failover of this machine is down and could not be served again');
      }
    });
    if (signal.aborted) return;
  }
}

/** What is done once, when a target starts. Never rejects. Stops between two machines when `signal` aborts. */
export async function keepFailovers(parts: Parts, place: Vault, logger: Logger, signal: AbortSignal): Promise<void> {
  await eachMachine(parts, place, signal, async (machine) => {
    try {
      if ((await listFailovers(parts.files, place.data, machine)).length === 0) return;
      await inTurn(parts, { ...place, machine }, (turn) => keep(turn, logger));
    } catch (error) {
      logger.error({ machine, error }, 'the failovers of this machine could not be put in order');
    }
  });
}

async function eachMachine(
  { files }: Parts,
  { data }: Vault,
  signal: AbortSignal,
  act: (machine: string) => Promise<void>,
): Promise<void> {
  for (const machine of await listMachines(files, data).catch(() => [])) {
    if (signal.aborted) return;
    await act(machine);
  }
}

/** Whether an unplanned failover was promised and nobody holds it. Takes nothing: commands go on meanwhile. */
async function isAnyDown({ files, clock }: Parts, data: string, machine: string): Promise<boolean> {
  for (const each of (await listFailovers(files, data, machine)).filter(isUnplanned)) {
    const state = (await each.read())?.state;
    if (state !== 'running' && state !== 'committed') continue;
    if ((await lockHolder(files, clock, each.path)) === null) return true;
  }
  return false;
}

function isUnplanned({ id }: FailoverDirectory): boolean {
  return id.startsWith('unplanned-');
}

/** The open one, where there is one. */
async function serveAgain(turn: Turn, logger: Logger): Promise<void> {
  const { parts, place, points } = turn;
  const open = points.failover;
  for (const each of await listFailovers(parts.files, place.data, place.machine)) {
    if (each.id !== open?.id) continue;
    const process = await served(turn, each);
    await reportRunning(turn, each, process, open.step === 'committed' ? 'committed' : 'running');
    logger.info({ machine: place.machine, failover: each.id, pid: process.pid }, 'an unplanned failover is served');
  }
}

async function keep(turn: Turn, logger: Logger): Promise<void> {
  const { parts, place, identity } = turn;
  const removed = [...turn.removed];
  for (const each of await listFailovers(parts.files, place.data, place.machine)) {
    if (isUnplanned(each) || (await isServed(each, parts.clock, identity))) continue;
    await removeFailover(turn, each);
    removed.push(each.id);
  }
  if (removed.length > 0) logger.info({ machine: place.machine, removed }, 'failovers that had ended were removed');
  await serveAgain(turn, logger);
}

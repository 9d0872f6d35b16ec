/**
 * What a target that starts does with the failovers in its directory: what was being made or removed is removed, tests whose process is gone have
 * ended, unplanned failovers are served again. One machine that can not be put in order keeps no other from it.
 */
import type { Vault } from '../cli/roles.ts';
import type { Logger } from '../observe/logger.ts';
import { listFailovers } from '../recovery/failover-directory.ts';
import { isServed } from '../recovery/failover-process.ts';
import { listMachines } from '../store/machine-directory.ts';
import { reportRunning } from './failover.ts';
import { inTurn, removeFailover, served, type Turn } from './failover-turn.ts';
import type { Parts } from './parts.ts';

/** Never rejects. Stops between two machines when `signal` aborts. */
export async function keepFailovers(parts: Parts, place: Vault, logger: Logger, signal: AbortSignal): Promise<void> {
  const machines = await listMachines(parts.files, place.data).catch(() => []);
  for (const machine of machines) {
    if (signal.aborted) return;
    try {
      if ((await listFailovers(parts.files, place.data, machine)).length === 0) continue;
      await inTurn(parts, { ...place, machine }, (turn) => keep(turn, logger));
    } catch (error) {
      logger.error({ machine, error }, 'the failovers of this machine could not be put in order');
    }
  }
}

async function keep(turn: Turn, logger: Logger): Promise<void> {
  const { parts, place, identity } = turn;
  const removed = [...turn.removed];
  const open = turn.points.failover;
  for (const each of await listFailovers(parts.files, place.data, place.machine)) {
    if (each.id === open?.id) {
      const process = await served(turn, each);
      await reportRunning(turn, each, process, open.step === 'committed' ? 'committed' : 'running');
      logger.info({ machine: place.machine, failover: each.id, pid: process.pid }, 'an unplanned failover is served');
    } else if (each.id.startsWith('test-') && !(await isServed(each, parts.clock, identity))) {
      await removeFailover(turn, each);
      removed.push(each.id);
    }
  }
  if (removed.length > 0) logger.info({ machine: place.machine, removed }, 'failovers that had ended were removed');
}

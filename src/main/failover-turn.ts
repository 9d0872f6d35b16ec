/**
 * What commands and a starting target do alike with the failovers of one machine while they hold its turn: see what `points.log` says, start and end
 * the serving process, finish what somebody who was killed had begun (FAILOVER.md).
 */
import { fileURLToPath } from 'node:url';
import type { MachineOfVault } from '../cli/failover-roles.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { startDetached, type DetachedProgram } from '../posix/detached.ts';
import { lockHolder, type LockIdentity } from '../posix/lock.ts';
import {
  listFailovers,
  takeFailoverTurn,
  type Failover,
  type FailoverDirectory,
  type FailoverProcess,
} from '../recovery/failover-directory.ts';
import { endServing, isServed } from '../recovery/failover-process.ts';
import { machinePaths, readMachineFacts } from '../store/machine-directory.ts';
import { readPoints } from '../store/points-log.ts';
import type { FailoverBody } from '../store/points-record.ts';
import type { PointsView } from '../store/points-view.ts';
import { lockIdentity, type Closers, type Parts } from './parts.ts';
import { closing, storeFacts } from './point-access.ts';

export interface Turn {
  readonly parts: Parts;
  readonly place: MachineOfVault;
  readonly identity: LockIdentity;
  readonly closers: Closers;
}

/** @throws Problem `not-found`: no store, or no such machine; `locked`. */
export function inTurn<T>(parts: Parts, place: MachineOfVault, work: (turn: Turn) => Promise<T>): Promise<T> {
  const { files, clock } = parts;
  const { data, machine } = place;
  return closing(async ({ closers }) => {
    await storeFacts(parts, data);
    if (!(await readMachineFacts(files, data, machine))) {
      throw new Problem('not-found', `${data} holds no machine ${machine}`, {
        remedy: 'run tidemark points to see which there are',
      });
    }
    const identity = lockIdentity(clock, 'failover command');
    const lock = await takeFailoverTurn({ files, clock, data, machine }, identity);
    closers.add(() => lock.release());
    return work({ parts, place, identity, closers });
  });
}

/** What `points.log` says now. */
export async function pointsOf({ parts, place }: Pick<Turn, 'parts' | 'place'>): Promise<PointsView> {
  const { files } = parts;
  const facts = await readMachineFacts(files, place.data, place.machine);
  const machineId = Buffer.from(facts?.id ?? '', 'hex');
  const path = machinePaths(place.data, place.machine).pointsLog;
  return (await readPoints({ files, path, machineId })).view;
}

/** The one of this id; null: there is none. */
export async function failoverNamed({ parts, place }: Turn, id: string): Promise<FailoverDirectory | null> {
  const all = await listFailovers(parts.files, place.data, place.machine);
  return all.find((each) => each.id === id) ?? null;
}

/**
 * Removes what is over: what was being removed, what was killed while it was made, and an unplanned failover that never began or was cancelled.
 * @returns the ids.
 */
export async function sweep(turn: Turn): Promise<string[]> {
  const { files } = turn.parts;
  const open = (await pointsOf(turn)).failover;
  const removed: string[] = [];
  for (const place of await listFailovers(files, turn.place.data, turn.place.machine)) {
    const failover = await place.read().catch(() => 'damaged' as const);
    if (failover === 'damaged' || !isOver(failover, place.id, open)) continue;
    await removeFailover(turn, place);
    removed.push(place.id);
  }
  return removed;
}

/** The turn is held, so whoever had it as `starting` is gone. */
function isOver(failover: Failover | null, id: string, open: FailoverBody | null): boolean {
  if (failover === null || failover.state === 'ending') return true;
  return failover.kind === 'test' ? failover.state === 'starting' : open?.id !== id;
}

export async function removeFailover({ parts, identity }: Turn, place: FailoverDirectory): Promise<void> {
  const lock = await endServing(place, parts, identity);
  try {
    await place.remove();
  } finally {
    await lock.release();
  }
}

/** The process that serves it: the one there is, or a new one. @throws Problem its own reason when it does not come up. */
export async function served(turn: Turn, place: FailoverDirectory): Promise<FailoverProcess> {
  const { parts, identity } = turn;
  const { files, clock } = parts;
  const { failoverStartMs, failoverPollMs } = limits.recovery;
  let child: DetachedProgram | null = null;
  const over: string[] = [];
  const deadlineMs = clock.monotonicMs() + failoverStartMs;
  while (over.length === 0 && clock.monotonicMs() < deadlineMs) {
    // Asked again and again: one that was killed may hold its lock a moment longer.
    if (child === null && !(await isServed(place, clock, identity))) {
      child = startDetached(process.execPath, wordsFor(turn, place), place.log);
      void child.ended.then((how) => over.push(how));
    }
    const found = await place.process();
    // What an earlier process left there is not believed.
    const pid = child?.pid ?? (await lockHolder(files, clock, place.path))?.pid;
    if (found && found.pid === pid) return found;
    await clock.sleep(failoverPollMs);
  }
  const [why = `not within ${failoverStartMs / 1000} s`] = over;
  throw await notServed(turn, place, why);
}

function wordsFor({ place: { data, vault, machine } }: Turn, place: FailoverDirectory): string[] {
  return [programPath(), 'failover', 'serve', machine, place.id, '--data', data, '--vault', vault];
}

/** Beside this directory, with its extension: `.ts` when sources run, `.js` when the compiled tree runs. */
function programPath(): string {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  return fileURLToPath(new URL(`../main.${extension}`, import.meta.url));
}

/** What the process said last is the problem of whoever waited for it. */
async function notServed({ parts }: Turn, place: FailoverDirectory, why: string): Promise<Problem> {
  const text = (await parts.files.readWhole(place.log).catch(() => Buffer.alloc(0))).toString('utf8');
  const said = text.slice(-limits.recovery.failoverLogBytes).trim();
  const [, message, code, remedy] = /(?:^|\n)tidemark: (.*) \(([a-z-]+)\)(?:\n +(.*))?$/.exec(said) ?? [];
  if (message !== undefined && code !== undefined)
    return new Problem(code, `failover ${place.id} can not be served: ${message}`, { remedy: remedy ?? '' });
  return new Problem('unreachable', `failover ${place.id} can not be served (${why}): ${said}`, {
    remedy: `read ${place.log}, where it is still there, then ask again`,
    retryable: true,
  });
}

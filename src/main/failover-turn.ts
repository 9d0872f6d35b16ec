/**
 * What commands and a target do alike with the failovers of one machine while they hold its turn: see what `points.log` says, start and end the
 * serving process, finish what somebody who was killed had begun (FAILOVER.md). Nobody works in a turn before directory and log agree.
 */
import { fileURLToPath } from 'node:url';
import type { MachineOfVault } from '../cli/failover-roles.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { startDetached, type DetachedProgram } from '../posix/detached.ts';
import { lockHolder, type LockIdentity } from '../posix/lock.ts';
import {
  listFailovers,
  takeFailoverTurn,
  type FailoverDirectory,
  type FailoverProcess,
} from '../recovery/failover-directory.ts';
import { endServing, isServed } from '../recovery/failover-process.ts';
import { machinePaths, readMachineFacts } from '../store/machine-directory.ts';
import { readPoints, type PointsReading } from '../store/points-log.ts';
import type { PointsView } from '../store/points-view.ts';
import { writeAside } from './data-writer.ts';
import { machineEnded } from './failover-booted.ts';
import { isOver, lostSteps } from './failover-standing.ts';
import { lockIdentity, type Closers, type Parts } from './parts.ts';
import { closing, storeFacts } from './point-access.ts';

interface Held {
  readonly parts: Parts;
  readonly place: MachineOfVault;
  readonly identity: LockIdentity;
  readonly closers: Closers;
}

export interface Turn extends Held {
  /** What `points.log` said when the turn began. */
  readonly points: PointsView;
  /** What was over then, and is removed. */
  readonly removed: readonly string[];
}

/** @throws Problem `not-found`: no store, or no such machine; `locked`; `damaged`: `points.log`, so that nothing can be told to be over; `full`. */
export function inTurn<T>(parts: Parts, place: MachineOfVault, work: (turn: Turn) => Promise<T>): Promise<T> {
  const { files, clock } = parts;
  const { data, machine } = place;
  return closing(async ({ closers }) => {
    await refuseUnknown(parts, data, machine);
    const identity = lockIdentity(clock, 'failover command');
    const lock = await takeFailoverTurn({ files, clock, data, machine }, identity).catch(async (error: unknown) => {
      if (systemCode(error) === 'ENOENT') await refuseUnknown(parts, data, machine);
      throw error;
    });
    closers.add(() => lock.release());
    // Who had the turn before may have deleted it.
    await refuseUnknown(parts, data, machine);
    const held = { parts, place, identity, closers };
    const points = await agreedPoints(held);
    return work({ ...held, points, removed: await sweep(held, points) });
  }).catch((error: unknown) => {
    throw asFull(data, error);
  });
}

/** What a step of a failover ended with, where that is no room for what it writes. */
export function asFull(where: string, error: unknown): unknown {
  const code = isProblem(error) ? undefined : systemCode(error);
  if (code !== 'ENOSPC' && code !== 'EDQUOT') return error;
  return new Problem('full', `${where}: ${messageOf(error)}`, { remedy: 'make room there', cause: error });
}

/** @throws Problem `not-found`: no store, or no such machine. */
export async function refuseUnknown(parts: Parts, data: string, machine: string): Promise<void> {
  await storeFacts(parts, data);
  if (await readMachineFacts(parts.files, data, machine)) return;
  throw new Problem('not-found', `${data} holds no machine ${machine}`, {
    remedy: 'run tidemark points to see which there are',
  });
}

/** What `points.log` says now. @throws Problem `damaged`: what it says of failovers may be behind the damage. */
async function pointsOf({ parts, place: { data, machine } }: Held): Promise<PointsView> {
  const { pointsLog } = machinePaths(data, machine);
  const { view, length, tail } = await pointsSaid(parts, data, machine);
  if (tail !== 'damaged') return view;
  throw new Problem('damaged', `${pointsLog} is damaged at byte ${length}: what it says of failovers is not known`, {
    remedy:
      'restore the file from a copy; failovers that are served go on, and points before the damage can be exported',
  });
}

/** For who only looks: as much as can be read. */
export async function pointsSaid({ files }: Parts, data: string, machine: string): Promise<PointsReading> {
  const facts = await readMachineFacts(files, data, machine);
  const machineId = Buffer.from(facts?.id ?? '', 'hex');
  return readPoints({ files, path: machinePaths(data, machine).pointsLog, machineId });
}

/** What `points.log` says when it says as much of failovers as their directories do: steps that it lost are written again. */
async function agreedPoints(held: Held): Promise<PointsView> {
  const { parts, place } = held;
  const points = await pointsOf(held);
  const lost = await lostSteps(parts.files, place, points);
  if (!lost) return points;
  const { id, point, createdMs: atMs, generation: was } = lost.failover;
  if (!points.point(point)) {
    throw new Problem('damaged', `failover ${id} runs from point ${point}, and points.log has no such point`, {
      remedy: 'it is an old one: restore a newer copy of points.log',
    });
  }
  const generation = points.generation + (lost.steps.includes('begun') ? 1 : 0);
  // First, so that what is cancelled afterwards is not older than what it cancels.
  if (generation !== was) await lost.place.write({ ...lost.failover, generation });
  for (const step of lost.steps)
    await writeAside(parts, place.data, place.machine, {
      type: 'failover',
      body: { id, step, generation, point, atMs },
    });
  return pointsOf(held);
}

/** The one of this id; null: there is none. */
export async function failoverNamed({ parts, place }: Turn, id: string): Promise<FailoverDirectory | null> {
  const all = await listFailovers(parts.files, place.data, place.machine);
  return all.find((each) => each.id === id) ?? null;
}

/** Removes what is over. @returns the ids. */
async function sweep(held: Held, points: PointsView): Promise<string[]> {
  const removed: string[] = [];
  for (const place of await listFailovers(held.parts.files, held.place.data, held.place.machine)) {
    const failover = await place.read().catch(() => 'damaged' as const);
    if (failover === 'damaged' || !isOver(place.id, failover, points)) continue;
    await removeFailover(held, place);
    removed.push(place.id);
  }
  return removed;
}

/** All of it is gone when this resolves, also a machine that a command ran on it. */
export async function removeFailover(
  { parts, identity, place: machine }: Held,
  place: FailoverDirectory,
): Promise<void> {
  const lock = await endServing(place, parts, identity);
  try {
    await place.remove();
  } finally {
    await lock.release();
  }
  await machineEnded(parts, machine, place.id);
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

/**
 * Which points a machine need not keep any longer. Pure; `points.log` keeps what was decided (RETIRED), fold acts on it.
 *
 * Invariants:
 *  1. Always kept: the newest point, the newest proven one, pinned ones, those in use, the one a failover stands on, and those of which is not known
 *     yet whether they are whole (neither proven nor damaged).
 *  2. Age counts back from the newest point, not from now: a machine whose source is gone keeps its window, when it is needed most.
 *  3. Age is the smaller one by two clocks, the source's at the cut and the target's at the commit: one that jumps ahead retires nothing.
 *  4. What is retired twice is the same as once: thinning keeps, of each fixed interval, the first app-consistent point, else the first one.
 */
import { limits } from '../limits.ts';
import type { PointBody } from './points-record.ts';
import type { PointsView } from './points-view.ts';
import type { InUse } from './points-in-use.ts';

export interface RetentionPolicy {
  /** How far back points are kept; null: all of them. */
  readonly hours: number | null;
  /** Of points older than `afterHours` one per `everyMinutes` is kept. Absent: all in the window. */
  readonly thinning?: { readonly afterHours: number; readonly everyMinutes: number } | undefined;
}

export const keepAll: RetentionPolicy = { hours: null };

const hourMs = 3_600_000;
const minuteMs = 60_000;

/** Points to retire, as runs `[first, last]`, ascending. */
export function pointsToRetire(view: PointsView, policy: RetentionPolicy, inUse: InUse): [number, number][] {
  const newest = view.kept.at(-1);
  if (!newest) return [];
  const firsts = policy.thinning ? firstOfEach(view.kept, policy.thinning.everyMinutes * minuteMs) : null;
  const isDue = (point: PointBody): boolean => {
    const age = ageMs(point, newest);
    if (policy.hours !== null && age > policy.hours * hourMs) return true;
    return policy.thinning !== undefined && age > policy.thinning.afterHours * hourMs && firsts?.has(point) === false;
  };
  const proven = view.kept.findLast(({ point }) => view.stateOf(point) === 'proven');
  const isHeld = (point: PointBody): boolean =>
    point === newest ||
    point === proven ||
    view.isPinned(point.point) ||
    view.failover?.point === point.point ||
    view.stateOf(point.point) === 'committed' ||
    inUse(point.point);
  return runsOf(view.kept.filter((point) => isDue(point) && !isHeld(point)).map(({ point }) => point));
}

/** Invariant 3. */
function ageMs(point: PointBody, newest: PointBody): number {
  return Math.min(newest.cutTimeMs - point.cutTimeMs, newest.committedMs - point.committedMs);
}

/** Invariant 4. */
function firstOfEach(points: readonly PointBody[], intervalMs: number): ReadonlySet<PointBody> {
  const chosen = new Map<number, PointBody>();
  for (const point of points) {
    const interval = Math.floor(point.cutTimeMs / intervalMs);
    const before = chosen.get(interval);
    if (!before || (before.consistency !== 'app' && point.consistency === 'app')) chosen.set(interval, point);
  }
  return new Set(chosen.values());
}

function runsOf(points: readonly number[]): [number, number][] {
  const runs: [number, number][] = [];
  for (const point of points) {
    const run = runs.at(-1);
    if (run?.[1] === point - 1) run[1] = point;
    else if (runs.length < limits.store.retiredRunsMax) runs.push([point, point]);
  }
  return runs;
}

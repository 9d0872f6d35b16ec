/**
 * What the directory of a failover and `points.log` say together: whether it is over, and what one of them says that the other one lost (FAILOVER.md).
 *
 * Invariants:
 *  1. What was served to somebody as unplanned (`running`, `committed`) is over only by a `cancelled` of its own that is not older than it is.
 *     A log that does not name it proves nothing: the log may be an old copy, or have lost its end.
 *  2. `running` is written after a durable `begun`, `committed` after a durable `committed`. So a step that the log misses was written, and is written again.
 */
import { Problem } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import { listFailovers, type Failover, type FailoverDirectory } from '../recovery/failover-directory.ts';
import type { PointsView } from '../store/points-view.ts';

/** Null: there is no `failover.json`. The turn is held, so whoever had it as `starting` is gone. */
export function isOver(id: string, failover: Failover | null, points: PointsView): boolean {
  const isOpen = points.failover?.id === id;
  if (failover === null) return !isOpen;
  if (failover.state === 'ending') return true;
  if (failover.state === 'starting') return !isOpen;
  if (failover.kind === 'test') return false;
  const last = points.lastOfFailover(id);
  return last?.step === 'cancelled' && last.generation > failover.generation;
}

interface LostSteps {
  readonly place: FailoverDirectory;
  readonly failover: Failover;
  /** In their order. */
  readonly steps: readonly ('begun' | 'committed')[];
}

/**
 * What the log misses of the newest unplanned failover; null: nothing. Looks without taking anything.
 * @throws Problem `damaged`: there is one that the log does not name, and its `failover.json` can not be understood.
 */
export async function lostSteps(
  files: Files,
  { data, machine }: { readonly data: string; readonly machine: string },
  points: PointsView,
): Promise<LostSteps | null> {
  const open = points.failover;
  for (const place of (await listFailovers(files, data, machine)).reverse()) {
    if (!place.id.startsWith('unplanned-') || (open && open.id !== place.id)) continue;
    const failover = await place.read().catch((error: unknown) => {
      if (points.lastOfFailover(place.id)) return null;
      throw error;
    });
    if (!failover || failover.state === 'starting' || isOver(place.id, failover, points)) continue;
    const happened = failover.state === 'committed' ? (['begun', 'committed'] as const) : (['begun'] as const);
    const steps = open ? happened.slice(open.step === 'begun' ? 1 : 2) : happened;
    if (steps.length > 0) return { place, failover, steps };
  }
  return null;
}

/** Why the source is refused though the log does not say that the machine was started elsewhere; null: it was not. @throws as `lostSteps`. */
export async function startedElsewhere(
  files: Files,
  place: { readonly data: string; readonly machine: string },
  points: PointsView,
): Promise<Problem | null> {
  const lost = await lostSteps(files, place, points);
  if (!lost?.steps.includes('begun')) return null;
  const { id, point, generation } = lost.failover;
  return new Problem(
    'failed-over',
    `${place.machine} was started from its replica: failover ${id} of point ${point} made the replica the primary, ` +
      `generation ${generation}; points.log lost the record of it`,
    {
      remedy: `go on with it: tidemark failover unplanned ${place.machine}; or take it back with tidemark failover cancel`,
    },
  );
}

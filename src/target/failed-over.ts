/** Why a machine's source is refused once the machine was started from its replica (C9): what it writes from then on would diverge. */
import { Problem } from '../kit/problem.ts';
import type { PointsView } from '../store/points-view.ts';

/** Null: the source is the primary. The evidence is in the message, because it is all that travels. */
export function failedOver(machine: string, { failover }: PointsView): Problem | null {
  if (!failover) return null;
  const { id, point, generation, step, atMs } = failover;
  const since = new Date(atMs).toISOString();
  return new Problem(
    'failed-over',
    `${machine} was started from its replica: failover ${id} (${step} ${since}) of point ${point} made the replica the primary, ` +
      `generation ${generation}`,
    { remedy: `stop the source; or, to go on with it, take that back with tidemark failover cancel ${machine}` },
  );
}

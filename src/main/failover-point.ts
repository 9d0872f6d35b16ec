/** Which point a failover is made of. */
import type { FailoverRequest } from '../cli/failover-roles.ts';
import { Problem } from '../kit/problem.ts';
import type { PointBody } from '../store/points-record.ts';
import type { PointsView } from '../store/points-view.ts';

/** @throws Problem `not-found` (none, or retired), `damaged`. */
export function choosePointFor(machine: string, points: PointsView, wanted: FailoverRequest['point']): PointBody {
  const { kept } = points;
  const proven = kept.filter(({ point }) => points.stateOf(point) === 'proven');
  const remedy = rangeOf(machine, kept, proven.at(-1));
  if (typeof wanted === 'number') return byNumber(machine, points, wanted, remedy);
  if (wanted === 'latest') return byNumber(machine, points, kept.at(-1)?.point ?? 1, remedy);
  const atMs = typeof wanted === 'object' ? wanted.atMs : Number.POSITIVE_INFINITY;
  const found = proven.findLast(({ cutTimeMs }) => cutTimeMs <= atMs);
  if (found) return found;
  const when = typeof wanted === 'object' ? ` at or before ${new Date(atMs).toISOString()}` : '';
  throw new Problem('not-found', `machine ${machine} has no proven point${when}`, { remedy });
}

function byNumber(machine: string, points: PointsView, wanted: number, remedy: string): PointBody {
  const found = points.point(wanted);
  if (!found) throw new Problem('not-found', `machine ${machine} has no point ${wanted}`, { remedy });
  if (points.isRetired(wanted)) throw points.retiredProblem(machine, wanted);
  if (points.stateOf(wanted) === 'damaged')
    throw new Problem('damaged', `point ${wanted} of ${machine} is damaged`, { remedy });
  return found;
}

function rangeOf(machine: string, kept: readonly PointBody[], newest: PointBody | undefined): string {
  const first = kept[0];
  if (!first) return 'it has no points yet';
  const range = `it has points ${first.point} to ${kept.at(-1)?.point ?? first.point}`;
  const cut = newest && `, the newest proven one is ${newest.point} (${new Date(newest.cutTimeMs).toISOString()})`;
  return `${range}${cut ?? ', none of them proven yet: name one with --point'}; see tidemark points ${machine}`;
}

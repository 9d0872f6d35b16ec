/** What points say about a disk's layers. Pure. */
import type { PointBody } from './points-record.ts';
import type { PointsView } from './points-view.ts';
import { endOfExtents, type Position } from './segment-format.ts';

/**
 * The highest seq of the disk that `point` or one before it lists; 0 when none does. Seqs rise and all durable layers are listed by the
 * next point, so a read at the point sees exactly the records up to it (FORMAT.md, Index).
 */
export function maxSeqAt(view: PointsView, diskNo: number, point: number): number {
  return view.listedSeq(diskNo, point);
}

/** How far `point`, or one before it that added anything, relies on the log; null: nothing was ever added. */
export function markAt(view: PointsView, point: number): Position | null {
  for (let number = point; number >= 1; number -= 1) {
    const mark = endOfExtents(view.point(number)?.extents ?? []);
    if (mark) return mark;
  }
  return null;
}

/**
 * Whether the batches of all layers since the point are still known: it is kept, and no segment was removed that may have held one of them. What was
 * moved is in no batch.
 */
export function canTellSince(view: PointsView, point: number): boolean {
  if (!view.point(point) || view.isRetired(point)) return false;
  const mark = markAt(view, point)?.segment ?? 0;
  for (const segment of view.removed) if (segment >= mark) return false;
  return true;
}

/** How far the points up to the first that is neither proven nor damaged rely on the log: what lies below will not be looked at as theirs again. */
export function settledMark(view: PointsView): Position | null {
  const unsettled = view.kept.find(({ point }) => view.stateOf(point) === 'committed');
  return markAt(view, unsettled ? unsettled.point - 1 : view.points.length);
}

/** The newest point that holds the disk, with what it says about it. */
export function newestWith(
  view: PointsView,
  diskNo: number,
): { point: PointBody; disk: PointBody['disks'][number] } | null {
  for (let number = view.points.length; number >= 1; number -= 1) {
    const point = view.point(number);
    const disk = point?.disks.find((each) => each.no === diskNo);
    if (point && disk) return { point, disk };
  }
  return null;
}

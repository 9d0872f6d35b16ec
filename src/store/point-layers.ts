/** What points say about a disk's layers. Pure. */
import type { PointBody } from './points-record.ts';
import type { PointsView } from './points-view.ts';

/**
 * The highest seq of the disk that `point` or one before it lists; 0 when none does. Seqs rise and all durable layers are listed by the
 * next point, so a read at the point sees exactly the records up to it (FORMAT.md, Index).
 */
export function maxSeqAt(view: PointsView, diskNo: number, point: number): number {
  for (let number = point; number >= 1; number -= 1) {
    const layers = view.point(number)?.disks.find((disk) => disk.no === diskNo)?.layers ?? null;
    if (layers !== null) return layers.last;
  }
  return 0;
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

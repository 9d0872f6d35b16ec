/**
 * The blocks that a point's own layers hold: what a proof of it has to look at. By the batches, as long as these are known; where compaction emptied a segment
 * that may have held some, by the records, all of the disk's: a point that was healed is proven long after.
 */
import type { IndexReader } from './index-reader.ts';
import { markAt } from './point-layers.ts';
import type { PointsView } from './points-view.ts';

interface DiskBlocks {
  readonly no: number;
  readonly blockCount: number;
}

/** Each block once, in no promised order. */
export function* blocksOfPoint(
  index: IndexReader,
  view: PointsView,
  disk: DiskBlocks,
  point: number,
): Generator<number> {
  const layers = view.point(point)?.disks.find(({ no }) => no === disk.no)?.layers ?? null;
  if (layers === null) return;
  const seen = new Uint8Array(Math.ceil(disk.blockCount / 8));
  const isNew = (block: number): boolean => {
    const bit = 1 << (block & 7);
    const before = seen[block >>> 3] ?? 0;
    seen[block >>> 3] = before | bit;
    return (before & bit) === 0;
  };
  if (hasAllBatches(view, point)) {
    for (const { blocks } of index.batchesOf(disk.no, layers.first, layers.last))
      for (const block of blocks) if (isNew(block)) yield block;
    return;
  }
  for (const { block, seq } of index.versionsOf(disk.no))
    if (seq >= layers.first && seq <= layers.last && isNew(block)) yield block;
}

/** No segment was removed of those written between the point before and this one. */
function hasAllBatches(view: PointsView, point: number): boolean {
  const first = markAt(view, point - 1)?.segment ?? 0;
  const last = markAt(view, point)?.segment ?? 0;
  for (const segment of view.removed) if (segment >= first && segment <= last) return false;
  return true;
}

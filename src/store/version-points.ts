/**
 * Which points read which record of a block. A point reads the newest record up to the highest seq it, or one before it, lists (FORMAT.md, Index); so the
 * points that read one record follow one another. Pure, over an index.
 */
import type { RecordLookup } from './index-reader.ts';
import type { PointsView } from './points-view.ts';

export interface KeptPoint {
  readonly point: number;
  /** The highest seq of the disk that it, or one before it, lists. */
  readonly maxSeq: number;
}

export interface VersionKey {
  readonly diskNo: number;
  readonly block: number;
  readonly seq: number;
}

/** The kept points that hold the disk, ascending. */
export function keptPointsOf(view: PointsView, diskNo: number): KeptPoint[] {
  const kept: KeptPoint[] = [];
  let maxSeq = 0;
  for (const { point, disks } of view.points) {
    const listed = disks.find(({ no }) => no === diskNo);
    if (!listed) continue;
    maxSeq = listed.layers?.last ?? maxSeq;
    if (!view.isRetired(point)) kept.push({ point, maxSeq });
  }
  return kept;
}

/** Those of the points that read the block as of this record; none: it is of no use to them by itself. */
export function readersOf(index: RecordLookup, kept: readonly KeptPoint[], version: VersionKey): readonly KeptPoint[] {
  const { diskNo, block, seq } = version;
  const reads = ({ maxSeq }: KeptPoint): boolean => index.lookup(diskNo, block, maxSeq)?.seq === seq;
  const first = partition(kept, 0, ({ maxSeq }) => maxSeq >= seq);
  return kept.slice(
    first,
    partition(kept, first, (point) => !reads(point)),
  );
}

/** The first index from `low` on at which `isBehind` holds; before it it never does, behind it always. */
function partition(kept: readonly KeptPoint[], low: number, isBehind: (point: KeptPoint) => boolean): number {
  let [from, end] = [low, kept.length];
  while (from < end) {
    const middle = (from + end) >>> 1;
    const point = kept[middle];
    if (point && !isBehind(point)) from = middle + 1;
    else end = middle;
  }
  return from;
}

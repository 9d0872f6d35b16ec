/**
 * From stored bytes that are gone or do not check to the blocks whose records lay there. The index still knows them: it is a cache of its own and is
 * asked before anything empties it.
 */
import type { IndexReader } from './index-reader.ts';
import type { IndexBatch, IndexEntry } from './index-codec.ts';
import type { PointsView } from './points-view.ts';
import type { LostRange } from './segment-survey.ts';

export interface LostBlocks {
  /** The point that lists the records. */
  readonly point: number;
  readonly diskNo: number;
  readonly blocks: readonly number[];
}

/** Blocks of committed points with records in the ranges, without those on record as damaged at that point already. */
export function lostBlocks(index: IndexReader, view: PointsView, ranges: readonly LostRange[]): LostBlocks[] {
  if (ranges.length === 0) return [];
  const bySegment = new Map<number, LostRange[]>();
  for (const range of ranges) bySegment.set(range.segment, [...(bySegment.get(range.segment) ?? []), range]);
  const found: LostBlocks[] = [];
  for (const { point, disks } of view.points) {
    for (const { no, layers } of disks) {
      const known = view.damaged.get(point)?.get(no);
      const blocks = new Set<number>();
      for (const batch of layers === null ? [] : index.batchesOf(no, layers.first, layers.last)) {
        for (const block of lostOf(index, no, batch, bySegment.get(batch.segment) ?? []))
          if (known?.has(block) !== true) blocks.add(block);
      }
      if (blocks.size > 0) found.push({ point, diskNo: no, blocks: [...blocks].sort((a, b) => a - b) });
    }
  }
  return found;
}

/** Without its rows nothing of a batch can be told again; otherwise the records whose payload is hit. */
function lostOf(index: IndexReader, diskNo: number, batch: IndexBatch, ranges: readonly LostRange[]): number[] {
  if (ranges.length === 0) return [];
  const entries = [...batch.blocks].flatMap((block) => index.get(diskNo, block, batch.seq) ?? []);
  const payloads = entries.reduce((first, entry) => Math.min(first, entry.payloadOffset), Infinity);
  if (hits(ranges, batch.entryOffset, payloads)) return [...batch.blocks];
  const isLost = ({ payloadOffset, storedLength }: IndexEntry): boolean =>
    storedLength > 0 && hits(ranges, payloadOffset, payloadOffset + storedLength);
  return entries.filter(isLost).map(({ block }) => block);
}

function hits(ranges: readonly LostRange[], from: number, to: number): boolean {
  return ranges.some(({ offset, length }) => offset < to && offset + length > from);
}

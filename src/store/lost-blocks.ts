/**
 * From stored bytes that are gone or do not check to the blocks whose records lay there. The index still knows them: it is a cache of its own and is
 * asked before anything empties it.
 */
import type { IndexReader } from './index-reader.ts';
import { readRecord, type IndexBatch, type IndexEntry } from './index-codec.ts';
import { maxSeqAt } from './point-layers.ts';
import type { PointsView } from './points-view.ts';
import type { LostRange } from './segment-survey.ts';

export interface LostBlocks {
  /** The point that lists the records. */
  readonly point: number;
  readonly diskNo: number;
  readonly blocks: readonly number[];
}

/** Blocks of kept points with records in the ranges, without those on record as damaged at that point already. */
export function lostBlocks(index: IndexReader, view: PointsView, ranges: readonly LostRange[]): LostBlocks[] {
  if (ranges.length === 0) return [];
  const bySegment = new Map<number, LostRange[]>();
  for (const range of ranges) bySegment.set(range.segment, [...(bySegment.get(range.segment) ?? []), range]);
  const found = new FoundBlocks(view);
  const numbers = new Set<number>();
  for (const { point, disks } of view.kept) {
    for (const { no, layers } of disks) {
      numbers.add(no);
      for (const batch of layers === null ? [] : index.batchesOf(no, layers.first, layers.last))
        for (const block of lostOf(index, no, batch, bySegment.get(batch.segment) ?? [])) found.add(point, no, block);
    }
  }
  for (const no of numbers) takeLostRecords(index, found, no, bySegment);
  return found.all();
}

/** What was found, by point and disk; each block once, and none that is on record. */
class FoundBlocks {
  readonly view: PointsView;
  readonly #found = new Map<string, { point: number; diskNo: number; blocks: Set<number> }>();

  constructor(view: PointsView) {
    this.view = view;
  }

  add(point: number, diskNo: number, block: number): void {
    if (this.view.damaged.get(point)?.get(diskNo)?.has(block) === true) return;
    const key = `${point}/${diskNo}`;
    const found = this.#found.get(key) ?? { point, diskNo, blocks: new Set<number>() };
    found.blocks.add(block);
    this.#found.set(key, found);
  }

  all(): LostBlocks[] {
    const sorted = [...this.#found.values()].sort((a, b) => a.point - b.point || a.diskNo - b.diskNo);
    return sorted.map((found) => ({ ...found, blocks: [...found.blocks].sort((a, b) => a - b) }));
  }
}

/**
 * Records that no batch of a kept point tells of: listed by a point that is retired, or moved. Each whose payload is hit is told of the first kept point that
 * reads the block through it, and that is the first one up to which it counts (`live-records.ts`). Goes through all of the index.
 */
function takeLostRecords(
  index: IndexReader,
  found: FoundBlocks,
  diskNo: number,
  bySegment: ReadonlyMap<number, readonly LostRange[]>,
): void {
  const { view } = found;
  for (const { block, seq, value } of index.rawRecords(diskNo, 0)) {
    const { segment, payloadOffset, storedLength } = readRecord(block, seq, value);
    if (storedLength === 0 || !hits(bySegment.get(segment) ?? [], payloadOffset, payloadOffset + storedLength))
      continue;
    const reader = view.kept.find(({ point }) => maxSeqAt(view, diskNo, point) >= seq);
    if (reader) found.add(reader.point, diskNo, block);
  }
}

/** Without its rows nothing of a batch can be told again; otherwise the records whose payload is hit. */
function lostOf(index: IndexReader, diskNo: number, batch: IndexBatch, ranges: readonly LostRange[]): number[] {
  if (ranges.length === 0) return [];
  const known = [...batch.blocks].flatMap((block) => index.get(diskNo, block, batch.seq) ?? []);
  // Those that were moved, or repaired, do not need what lies here.
  const entries = known.filter(({ segment }) => segment === batch.segment);
  const payloads = entries.reduce((first, entry) => Math.min(first, entry.payloadOffset), Infinity);
  if (hits(ranges, batch.entryOffset, payloads)) return entries.map(({ block }) => block);
  const isLost = ({ payloadOffset, storedLength }: IndexEntry): boolean =>
    storedLength > 0 && hits(ranges, payloadOffset, payloadOffset + storedLength);
  return entries.filter(isLost).map(({ block }) => block);
}

function hits(ranges: readonly LostRange[], from: number, to: number): boolean {
  return ranges.some(({ offset, length }) => offset < to && offset + length > from);
}

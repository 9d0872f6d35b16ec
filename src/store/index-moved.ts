/**
 * What a MOVED entry changes in the index. While it is written, the records are there and get another place. At a replay any of them may be missing,
 * because the segment it was first written to is gone: then it is put in between those that are there, and the page maps above it are made anew.
 */
import type { MovedBody, MovedRow } from './segment-moved.ts';
import {
  derivePages,
  layerKey,
  movedValue,
  readRecord,
  recordKey,
  recordValueBytesMax,
  writeRecord,
} from './index-codec.ts';
import { mendedPages, type IndexChange } from './index-pages.ts';
import type { IndexReader, LogPosition } from './index-reader.ts';
import type { RecordIndex } from './record-index.ts';
import { entryHeaderBytes, type Position } from './segment-format.ts';

function placeOf(row: MovedRow, at: Position): { segment: number; payloadOffset: number } {
  return { segment: at.segment, payloadOffset: at.offset + entryHeaderBytes + row.payloadOffset };
}

function layersOf(diskNo: number, moved: MovedBody): IndexChange[] {
  return [...moved.layers].map(([seq, body]) => ({
    store: 'layers',
    key: layerKey(diskNo, seq),
    value: Buffer.from(body),
  }));
}

/** The records, which are in the index, lie at `at` now. One that is not any more was dead. */
export function movedPlaces(index: IndexReader, diskNo: number, moved: MovedBody, at: Position): IndexChange[] {
  const changes = layersOf(diskNo, moved);
  for (const row of moved.rows) {
    const value = index.getRaw(diskNo, row.block, row.seq);
    // A version that was repaired has no place.
    if (!value || readRecord(row.block, row.seq, value).segment === 0) continue;
    const key = recordKey(diskNo, row.block, row.seq);
    changes.push({ store: 'records', key, value: movedValue(value, placeOf(row, at)) });
  }
  return changes;
}

/** Applies the entry at `at` in its turn of a replay. Begun twice it does the same: the position moves with the last step. */
export async function replayMoved(
  index: RecordIndex,
  diskNo: number,
  moved: MovedBody,
  at: Position,
  end: LogPosition,
): Promise<void> {
  const reader = await index.reader();
  const changes = layersOf(diskNo, moved);
  for (const row of moved.rows) {
    const { block, seq } = row;
    const value = reader.getRaw(diskNo, block, seq);
    const key = recordKey(diskNo, block, seq);
    changes.push({
      store: 'records',
      key,
      value: value ? movedValue(value, placeOf(row, at)) : newValue(reader, diskNo, row, at),
    });
  }
  index.rewrite(changes);
  await mendBlocks(index, diskNo, new Set(moved.rows.map(({ block }) => block)), end);
}

/** Makes the page maps of these blocks anew and moves the position, in one transaction. */
async function mendBlocks(
  index: RecordIndex,
  diskNo: number,
  blocks: Iterable<number>,
  end: LogPosition,
): Promise<void> {
  const reader = await index.reader();
  const mended: IndexChange[] = [];
  for (const block of blocks) mended.push(...mendedPages(reader, diskNo, block));
  await index.room();
  index.rewrite(mended, end);
}

function newValue(reader: IndexReader, diskNo: number, row: MovedRow, at: Position): Buffer {
  const room = Buffer.allocUnsafeSlow(recordValueBytesMax);
  const below = reader.lookupRaw(diskNo, row.block, row.seq - 1);
  const pages = derivePages(row.pageMask, row.seq, below);
  return room.subarray(0, writeRecord(room, 0, row, placeOf(row, at), pages));
}

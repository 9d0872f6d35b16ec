/**
 * Page maps made anew, for a block of which a record came or went out of order: at a replay, a record that was moved comes after those written
 * behind it (MOVED), and a layer is dropped long after (a DROP that was moved). Pure, over an index.
 *
 * That the maps of what points need do not depend on which dead records are there: a page of a record is held by the newest record up to it that has the
 * page. Fold keeps every holder that a live map names, and of pages that are zeros the all-zero record they come from (`live-records.ts`). So between a
 * holder and who names it there never was another one with that page, and whatever else is missing or left over changes nothing.
 */
import { fullMask } from '../disk/page-mask.ts';
import { derivePages, readRecord, recordKey, recordValueBytesMax, writeRecord } from './index-codec.ts';
import type { IndexReader } from './index-reader.ts';

/** A change of the index as it is; without a value the key goes. */
export interface IndexChange {
  readonly store: 'records' | 'batches' | 'layers' | 'nodes';
  readonly key: Buffer;
  readonly value?: Buffer;
}

/**
 * The records of the block whose page maps are not what those below them say, as they should be.
 * @param instead by seq: what some of the records, which are there, are about to be.
 */
export function mendedPages(
  index: IndexReader,
  diskNo: number,
  block: number,
  instead?: ReadonlyMap<number, Buffer>,
): IndexChange[] {
  const changes: IndexChange[] = [];
  let below: { seq: number; value: Buffer } | undefined;
  for (const { seq, value: stored } of index.rawRecords(diskNo, block, block + 1)) {
    const value = instead?.get(seq) ?? stored;
    const record = readRecord(block, seq, value);
    let mended = value;
    if (record.pageMask !== fullMask) {
      const pages = derivePages(record.pageMask, seq, below);
      const room = Buffer.allocUnsafeSlow(recordValueBytesMax);
      mended = room.subarray(0, writeRecord(room, 0, record, record, pages));
      if (!mended.equals(value)) changes.push({ store: 'records', key: recordKey(diskNo, block, seq), value: mended });
    }
    below = { seq, value: mended };
  }
  return changes;
}

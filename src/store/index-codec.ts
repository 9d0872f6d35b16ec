/**
 * Keys and values of the index (FORMAT.md, Index). Keys are big-endian, so LMDB's byte order is (disk, block, seq) order; values are
 * little-endian. Pure: bytes in, values out. What is read here is a cache that anybody may have damaged, so whoever uses an entry to
 * read bounds its lengths first (`point-reader.ts`).
 *
 * Page map rule: for a partial record (mask ≠ 0xffff) the map says for each of the 16 pages which record holds it as of this
 * record: its own seq where the mask says so, else what the predecessor's map said, or the predecessor itself if it was whole. A
 * page of an all-zero or missing predecessor is 255, zeros: no record has to be read for it.
 */
import { fullMask } from '../disk/page-mask.ts';
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';

const { pagesPerBlock, leafBytes } = limits.disk;
const twoTo32 = 2 ** 32;
const entryBytes = 76;
const tagBytes = 16;
/** In a page map: no record holds this page, it is zeros. */
const zeroPage = 255;
const zeroCodec = 3;

/** What a row says of a record; the SEALED row of the wire fits as it is. */
export interface IndexRow {
  readonly block: number;
  /** 16 bits, not 0. */
  readonly pageMask: number;
  readonly codec: number;
  readonly storedLength: number;
  readonly rawLength: number;
  readonly nonce: number;
  /** 32 bytes. */
  readonly leaf: Uint8Array;
  /** 16 bytes. */
  readonly tag: Uint8Array;
}

export interface IndexEntry extends IndexRow {
  readonly seq: number;
  readonly segment: number;
  /** Of the sealed payload in the segment file. */
  readonly payloadOffset: number;
  /** Partial records: 16 entries, the seq that holds each page, or null for zeros. Whole records: null. */
  readonly pages: readonly (number | null)[] | null;
}

/** Where a batch lies and which blocks it holds. */
export interface IndexBatch {
  readonly seq: number;
  readonly batch: number;
  readonly segment: number;
  readonly entryOffset: number;
  /** Ascending. */
  readonly blocks: Uint32Array;
}

export const recordKeyBytes = 14;

function writeSeq(into: Buffer, at: number, seq: number): void {
  into.writeUInt32BE(Math.floor(seq / twoTo32), at);
  into.writeUInt32BE(seq % twoTo32, at + 4);
}

function readSeq(from: Buffer, at: number): number {
  return from.readUInt32BE(at) * twoTo32 + from.readUInt32BE(at + 4);
}

/** `into` has 14 bytes; returned for convenience. */
export function writeRecordKey(into: Buffer, diskNo: number, block: number, seq: number): Buffer {
  into.writeUInt16BE(diskNo, 0);
  into.writeUInt32BE(block, 2);
  writeSeq(into, 6, seq);
  return into;
}

export function recordKey(diskNo: number, block: number, seq: number): Buffer {
  return writeRecordKey(Buffer.allocUnsafe(recordKeyBytes), diskNo, block, seq);
}

/** Sorts before every record of the block and behind every record of the block before it. */
export function blockStartKey(diskNo: number, block: number): Buffer {
  const key = Buffer.allocUnsafe(6);
  key.writeUInt16BE(diskNo, 0);
  key.writeUInt32BE(block, 2);
  return key;
}

/** Sorts behind everything of the disk, in every database. */
export function diskEndKey(diskNo: number): Buffer {
  const key = Buffer.alloc(recordKeyBytes + 2, 0xff);
  key.writeUInt16BE(diskNo, 0);
  return key;
}

export function readRecordKey(key: Buffer): { readonly block: number; readonly seq: number } {
  return { block: key.readUInt32BE(2), seq: readSeq(key, 6) };
}

export function layerKey(diskNo: number, seq: number): Buffer {
  const key = Buffer.allocUnsafe(10);
  key.writeUInt16BE(diskNo, 0);
  writeSeq(key, 2, seq);
  return key;
}

export function readLayerKeySeq(key: Buffer): number {
  return readSeq(key, 2);
}

export function batchKey(diskNo: number, seq: number, batch: number): Buffer {
  const key = Buffer.allocUnsafe(14);
  key.writeUInt16BE(diskNo, 0);
  writeSeq(key, 2, seq);
  key.writeUInt32BE(batch, 10);
  return key;
}

export function readBatchKeyNumber(key: Buffer): number {
  return key.readUInt32BE(10);
}

/** Bytes a record's value takes at most: its entry and a page map of 16 seqs. */
export const recordValueBytesMax = entryBytes + 1 + pagesPerBlock * 8 + pagesPerBlock;

/**
 * Writes a record's value at `at`; returns the bytes written. `pages` as in IndexEntry.
 */
export function writeRecord(
  into: Buffer,
  at: number,
  row: IndexRow,
  place: { readonly segment: number; readonly payloadOffset: number },
  pages: readonly (number | null)[] | null,
): number {
  invariant(row.leaf.byteLength === leafBytes && row.tag.byteLength === tagBytes, 'a leaf has 32 bytes, a tag 16');
  into.writeUInt32LE(place.segment, at);
  into.writeUInt32LE(place.payloadOffset, at + 4);
  into.writeUInt32LE(row.storedLength, at + 8);
  into.writeUInt32LE(row.rawLength, at + 12);
  into.writeUInt16LE(row.pageMask, at + 16);
  into[at + 18] = row.codec;
  into[at + 19] = 0;
  into.writeUInt32LE(row.nonce % twoTo32, at + 20);
  into.writeUInt32LE(Math.floor(row.nonce / twoTo32), at + 24);
  into.set(row.tag, at + 28);
  into.set(row.leaf, at + 44);
  return entryBytes + (pages === null ? 0 : writePageMap(into, at + entryBytes, pages));
}

/** Where a record lies, changed in a copy of its value: all else is as it was. */
export function movedValue(value: Buffer, place: { readonly segment: number; readonly payloadOffset: number }): Buffer {
  const moved = Buffer.from(value);
  moved.writeUInt32LE(place.segment, 0);
  moved.writeUInt32LE(place.payloadOffset, 4);
  return moved;
}

function writePageMap(into: Buffer, at: number, pages: readonly (number | null)[]): number {
  const seqs: number[] = [];
  const indices = pages.map((seq) => {
    if (seq === null) return zeroPage;
    const known = seqs.indexOf(seq);
    return known >= 0 ? known : seqs.push(seq) - 1;
  });
  into[at] = seqs.length;
  seqs.forEach((seq, index) => {
    into.writeUInt32LE(seq % twoTo32, at + 1 + index * 8);
    into.writeUInt32LE(Math.floor(seq / twoTo32), at + 5 + index * 8);
  });
  into.set(indices, at + 1 + seqs.length * 8);
  return 1 + seqs.length * 8 + pagesPerBlock;
}

function readPageMap(from: Buffer): (number | null)[] {
  const count = from.readUInt8(entryBytes);
  const indices = entryBytes + 1 + count * 8;
  const seqAt = (at: number): number => from.readUInt32LE(at) + from.readUInt32LE(at + 4) * twoTo32;
  const pages: (number | null)[] = [];
  for (let page = 0; page < pagesPerBlock; page += 1) {
    const index = from.readUInt8(indices + page);
    pages.push(index < count ? seqAt(entryBytes + 1 + index * 8) : null);
  }
  return pages;
}

/** Fields are copies or views into `value`, which must not be reused by its owner. */
export function readRecord(block: number, seq: number, value: Buffer): IndexEntry {
  return {
    block,
    seq,
    segment: value.readUInt32LE(0),
    payloadOffset: value.readUInt32LE(4),
    storedLength: value.readUInt32LE(8),
    rawLength: value.readUInt32LE(12),
    pageMask: value.readUInt16LE(16),
    codec: value.readUInt8(18),
    nonce: value.readUInt32LE(20) + value.readUInt32LE(24) * twoTo32,
    tag: value.subarray(28, 44),
    leaf: value.subarray(44, 76),
    pages: value.byteLength > entryBytes ? readPageMap(value) : null,
  };
}

/** The page map of a record with `pageMask` in layer `seq` over its predecessor; null for a whole record. Rule in the head. */
export function derivePages(
  pageMask: number,
  seq: number,
  predecessor: { readonly seq: number; readonly value: Buffer } | undefined,
): (number | null)[] | null {
  if (pageMask === fullMask) return null;
  const below = predecessor && predecessor.value.byteLength > entryBytes ? readPageMap(predecessor.value) : null;
  const whole = predecessor && predecessor.value.readUInt8(18) !== zeroCodec ? predecessor.seq : null;
  const pages: (number | null)[] = [];
  for (let page = 0; page < pagesPerBlock; page += 1) {
    const own = (pageMask & (1 << page)) !== 0;
    pages.push(own ? seq : below ? (below[page] ?? null) : whole);
  }
  return pages;
}

export function writeBatch(batch: Omit<IndexBatch, 'seq' | 'batch' | 'blocks'>, rows: readonly IndexRow[]): Buffer {
  const value = Buffer.allocUnsafeSlow(12 + rows.length * 4);
  value.writeUInt32LE(batch.segment, 0);
  value.writeUInt32LE(batch.entryOffset, 4);
  value.writeUInt32LE(rows.length, 8);
  rows.forEach((row, index) => value.writeUInt32LE(row.block, 12 + index * 4));
  return value;
}

export function readBatch(seq: number, batch: number, value: Buffer): IndexBatch {
  const count = value.readUInt32LE(8);
  const blocks = new Uint32Array(count);
  for (let index = 0; index < count; index += 1) blocks[index] = value.readUInt32LE(12 + index * 4);
  return { seq, batch, segment: value.readUInt32LE(0), entryOffset: value.readUInt32LE(4), blocks };
}

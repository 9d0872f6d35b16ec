/**
 * SEALED: sealed records from a process server (PROTOCOL.md). The same bytes are a BATCH entry's body in a segment
 * (`store/FORMAT.md`), so this codec serves the wire and the store alike. Zero-copy.
 */
import { fullMask, pageCount } from '../disk/page-mask.ts';
import { limits } from '../limits.ts';
import { protocolError } from './codes.ts';
import { readU64, viewOf, writeU64 } from './frame.ts';

export const sealedHeaderBytes = 64;
export const sealedRowBytes = 72;
export const codec = { raw: 0, lz4: 1, zstd: 2, zero: 3 } as const;

export interface SealedRow {
  readonly block: number;
  readonly pageMask: number;
  readonly codec: number;
  /** Bytes of sealed payload. */
  readonly storedLength: number;
  /** Bytes of the pages before compression. */
  readonly rawLength: number;
  readonly nonce: number;
  /** 32 bytes, a view. */
  readonly leaf: Uint8Array;
  /** 16 bytes, a view. */
  readonly tag: Uint8Array;
  /** Where the payload lies in the body. */
  readonly payloadOffset: number;
}

export interface SealedHeader {
  readonly seq: number;
  readonly batch: number;
  readonly count: number;
  readonly plainBytes: number;
  /** 32 bytes, a view: BLAKE3 of everything after the header. */
  readonly digest: Uint8Array;
}

/** What rows are checked against. */
export interface RowBounds {
  readonly blockCount: number;
  readonly pageSize: number;
}

/** @throws Problem `protocol-error`. */
export function decodeSealedHeader(body: Uint8Array): SealedHeader {
  if (body.byteLength < sealedHeaderBytes) throw protocolError('a SEALED has no header');
  const view = viewOf(body);
  const count = view.getUint32(12, true);
  if (count < 1 || count > limits.wire.batchRecordsMax) throw protocolError(`a SEALED of ${count} records`);
  return {
    seq: readU64(view, 0),
    batch: view.getUint32(8, true),
    count,
    plainBytes: view.getUint32(16, true),
    digest: body.subarray(24, 56),
  };
}

/** @throws Problem `protocol-error`. */
export function checkSealedRow(row: SealedRow, bounds: RowBounds, previous: number): void {
  const refuse = (what: string): never => {
    throw protocolError(`SEALED block ${row.block}: ${what}`);
  };
  if (row.block >= bounds.blockCount) refuse(`the disk has ${bounds.blockCount} blocks`);
  if (row.block <= previous) refuse(`comes after block ${previous}`);
  if (row.pageMask === 0) refuse('empty page mask');
  if (row.codec === codec.zero) {
    if (row.pageMask !== fullMask || row.rawLength !== 0 || row.storedLength !== 0)
      refuse('a zero record has a payload');
    return;
  }
  if (row.codec > codec.zero) refuse(`unknown codec ${row.codec}`);
  if (row.rawLength !== pageCount(row.pageMask) * bounds.pageSize) refuse(`raw length ${row.rawLength}`);
  if (row.storedLength < 1 || row.storedLength > row.rawLength) refuse(`stored length ${row.storedLength}`);
  if (row.codec === codec.raw && row.storedLength !== row.rawLength) refuse('stored raw but of another length');
}

/** The row at `at`, not checked. */
export function readSealedRow(body: Uint8Array, at: number, payloadOffset: number): SealedRow {
  const view = viewOf(body);
  return {
    block: view.getUint32(at, true),
    pageMask: view.getUint16(at + 4, true),
    codec: view.getUint8(at + 6),
    storedLength: view.getUint32(at + 8, true),
    rawLength: view.getUint32(at + 12, true),
    nonce: readU64(view, at + 16),
    leaf: body.subarray(at + 24, at + 56),
    tag: body.subarray(at + 56, at + 72),
    payloadOffset,
  };
}

/**
 * All rows, checked. `totalBytes` is the body's full length when `body` holds only its header and rows (a reader that did not load
 * the payloads); by default the body is whole. @throws Problem `protocol-error`.
 */
export function decodeSealedRows(
  body: Uint8Array,
  bounds: RowBounds,
  totalBytes: number = body.byteLength,
): SealedRow[] {
  const { count } = decodeSealedHeader(body);
  const table = sealedHeaderBytes + count * sealedRowBytes;
  if (body.byteLength < table) throw protocolError(`a SEALED of ${count} records has ${body.byteLength} bytes`);
  const view = viewOf(body);
  const rows: SealedRow[] = [];
  let previous = -1;
  let payloadOffset = table;
  for (let at = sealedHeaderBytes; at < table; at += sealedRowBytes) {
    const row = readSealedRow(body, at, payloadOffset);
    if (view.getUint8(at + 7) !== 0) throw protocolError(`SEALED block ${row.block}: reserved byte is not 0`);
    checkSealedRow(row, bounds, previous);
    rows.push(row);
    previous = row.block;
    payloadOffset += row.storedLength;
  }
  if (payloadOffset !== totalBytes) throw protocolError(`a SEALED says ${payloadOffset} bytes and has ${totalBytes}`);
  return rows;
}

export function writeSealedHeader(into: Uint8Array, at: number, header: SealedHeader): void {
  const view = viewOf(into);
  into.fill(0, at, at + sealedHeaderBytes);
  writeU64(view, at, header.seq);
  view.setUint32(at + 8, header.batch, true);
  view.setUint32(at + 12, header.count, true);
  view.setUint32(at + 16, header.plainBytes, true);
  into.set(header.digest, at + 24);
}

export function writeSealedRow(into: Uint8Array, at: number, row: Omit<SealedRow, 'payloadOffset'>): void {
  const view = viewOf(into);
  view.setUint32(at, row.block, true);
  view.setUint16(at + 4, row.pageMask, true);
  view.setUint8(at + 6, row.codec);
  view.setUint8(at + 7, 0);
  view.setUint32(at + 8, row.storedLength, true);
  view.setUint32(at + 12, row.rawLength, true);
  writeU64(view, at + 16, row.nonce);
  into.set(row.leaf, at + 24);
  into.set(row.tag, at + 56);
}

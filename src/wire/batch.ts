/**
 * BATCH: plain records from an agent (PROTOCOL.md). Decoding is zero-copy: one pass checks every row against the geometry and the
 * message's real length, then records are read through accessors.
 */
import { invariant } from '../kit/invariant.ts';
import type { Geometry } from '../disk/geometry.ts';
import { fullMask, pageCount } from '../disk/page-mask.ts';
import { limits } from '../limits.ts';
import { protocolError } from './codes.ts';
import { frameHeaderBytes, frameRoomBytes, frameType, readU64, viewOf, writeFrameHeader, writeU64 } from './frame.ts';

export const batchHeaderBytes = 16;
export const batchRecordBytes = 48;

export interface BatchRecord {
  readonly block: number;
  readonly pageMask: number;
  /** 32 bytes, a view. */
  readonly leaf: Uint8Array;
  /** The pages of the mask one after another, a view; empty when the block is all zero. */
  readonly payload: Uint8Array;
}

export interface Batch {
  readonly seq: number;
  /** Number of this batch within its layer, from 0. */
  readonly batch: number;
  readonly count: number;
  readonly payloadBytes: number;
  readonly firstBlock: number;
  readonly lastBlock: number;
}

/** Checks everything that can be checked without keys. @throws Problem `protocol-error`. */
export function decodeBatch(body: Uint8Array, geometry: Geometry): Batch {
  if (body.byteLength < batchHeaderBytes) throw protocolError('a BATCH has no header');
  const view = viewOf(body);
  const count = view.getUint32(12, true);
  if (count < 1 || count > limits.wire.batchRecordsMax) throw protocolError(`a BATCH of ${count} records`);
  const table = batchHeaderBytes + count * batchRecordBytes;
  if (body.byteLength < table) throw protocolError(`a BATCH of ${count} records has ${body.byteLength} bytes`);
  const payloadBytes = body.byteLength - table;
  if (payloadBytes > limits.wire.batchPayloadBytesMax)
    throw protocolError(`a BATCH with ${payloadBytes} bytes of payload`);
  let sum = 0;
  let previous = -1;
  for (let at = batchHeaderBytes; at < table; at += batchRecordBytes) {
    const block = view.getUint32(at, true);
    const mask = view.getUint16(at + 4, true);
    const length = view.getUint32(at + 8, true);
    if (block >= geometry.blockCount) throw protocolError(`block ${block} of a disk of ${geometry.blockCount}`);
    if (block <= previous) throw protocolError(`block ${block} after block ${previous}`);
    if (mask === 0) throw protocolError(`block ${block} with an empty page mask`);
    if (view.getUint16(at + 6, true) !== 0 || view.getUint32(at + 12, true) !== 0)
      throw protocolError('reserved bytes are not 0');
    const zero = length === 0 && mask === fullMask;
    if (!zero && length !== pageCount(mask) * geometry.pageSize)
      throw protocolError(`block ${block}: ${length} bytes for its mask`);
    previous = block;
    sum += length;
  }
  if (sum !== payloadBytes) throw protocolError(`a BATCH says ${sum} bytes of payload and has ${payloadBytes}`);
  return {
    seq: readU64(view, 0),
    batch: view.getUint32(8, true),
    count,
    payloadBytes,
    firstBlock: view.getUint32(batchHeaderBytes, true),
    lastBlock: previous,
  };
}

/** The records of a body that `decodeBatch` accepted; header and rows are read from `table`, which may be a copy of them. */
export function* batchRecords(body: Uint8Array, table = body): Generator<BatchRecord> {
  const view = viewOf(table);
  const count = view.getUint32(12, true);
  let payloadAt = batchHeaderBytes + count * batchRecordBytes;
  for (let index = 0; index < count; index += 1) {
    const at = batchHeaderBytes + index * batchRecordBytes;
    const length = view.getUint32(at + 8, true);
    yield {
      block: view.getUint32(at, true),
      pageMask: view.getUint16(at + 4, true),
      leaf: table.subarray(at + 16, at + 48),
      payload: body.subarray(payloadAt, payloadAt + length),
    };
    payloadAt += length;
  }
}

const rowsBytesMax = limits.wire.batchRecordsMax * batchRecordBytes;
/** Payload begins here in a builder's slab, so that header and rows, however many, can stand right before it, and room before them. */
const payloadStart = frameRoomBytes + frameHeaderBytes + batchHeaderBytes + rowsBytesMax;

/**
 * Builds BATCH frames in one slab of its own, one at a time: records are added in ascending block order, `finish` puts header and rows
 * before the payload, which is never copied again. The frame is the builder's memory: valid until `clear`.
 */
export class BatchBuilder {
  readonly #slab = new Uint8Array(payloadStart + limits.wire.batchPayloadBytesMax);
  readonly #rows = new Uint8Array(rowsBytesMax);
  readonly #rowView = viewOf(this.#rows);
  #payloadBytes = 0;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  get payloadBytes(): number {
    return this.#payloadBytes;
  }

  /** Whether a record with `bytes` of payload still fits. */
  fits(bytes: number): boolean {
    const { batchRecordsMax, batchPayloadBytesMax } = limits.wire;
    return this.#count < batchRecordsMax && this.#payloadBytes + bytes <= batchPayloadBytesMax;
  }

  /** Adds a record; `fill` copies its `bytes` of payload into the buffer at the offset and returns how many it copied. */
  add(
    block: number,
    pageMask: number,
    leaf: Uint8Array,
    bytes: number,
    fill: (into: Uint8Array, at: number) => number,
  ): void {
    invariant(this.fits(bytes), 'a record is added only if it fits');
    const at = this.#count * batchRecordBytes;
    this.#rowView.setUint32(at, block, true);
    this.#rowView.setUint16(at + 4, pageMask, true);
    this.#rowView.setUint32(at + 8, bytes, true);
    this.#rows.set(leaf, at + 16);
    if (bytes > 0) {
      invariant(fill(this.#slab, payloadStart + this.#payloadBytes) === bytes, 'a record fills what it announced');
    }
    this.#payloadBytes += bytes;
    this.#count += 1;
  }

  /** The frame: a view with `frameRoomBytes` before it, valid until `clear`. */
  finish(disk: number, seq: number, batch: number): Uint8Array {
    const rowBytes = this.#count * batchRecordBytes;
    const start = payloadStart - rowBytes - batchHeaderBytes - frameHeaderBytes;
    const frame = this.#slab.subarray(start, payloadStart + this.#payloadBytes);
    const view = viewOf(frame);
    writeU64(view, frameHeaderBytes, seq);
    view.setUint32(frameHeaderBytes + 8, batch, true);
    view.setUint32(frameHeaderBytes + 12, this.#count, true);
    frame.set(this.#rows.subarray(0, rowBytes), frameHeaderBytes + batchHeaderBytes);
    writeFrameHeader(frame, frameType.batch, disk);
    return frame;
  }

  /** Empty again. The frame given out before must not be in use any more. */
  clear(): void {
    this.#count = 0;
    this.#payloadBytes = 0;
  }
}

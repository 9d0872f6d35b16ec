/**
 * MOVED: records that compaction took out of another segment, as they were sealed (FORMAT.md, "Segment"). Pure.
 *
 * `u64 0, u32 layers, u32 rows, u64 0, 32 bytes BLAKE3 of all after the first 64 bytes, u64 0`, then `layers` × LAYER body, `rows` × (`u64 seq` ‖ SEALED
 * row), then the payloads in the order of the rows.
 *
 * An entry brings the LAYER bodies of its rows: whoever has the entry can read its records whatever became of the segments around it. It brings no page
 * maps: these follow from the records that are there (`index-pages.ts`), so stored ones could only be wrong.
 */
import { digest } from '../kernels/hash.ts';
import { isProblem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { readU64, viewOf, writeU64 } from '../wire/frame.ts';
import {
  checkSealedRow,
  readSealedRow,
  sealedHeaderBytes,
  sealedRowBytes,
  writeSealedRow,
  type SealedRow,
} from '../wire/sealed.ts';
import { decodeLayerBody, layerBodyBytes } from './segment-format.ts';

export const movedRowBytes = 8 + sealedRowBytes;

export interface MovedHeader {
  readonly layers: number;
  readonly rows: number;
}

export interface MovedRow extends SealedRow {
  readonly seq: number;
}

export interface MovedBody {
  /** LAYER bodies, by seq. */
  readonly layers: ReadonlyMap<number, Uint8Array>;
  /** In the order of their payloads. `payloadOffset` is within the body. */
  readonly rows: readonly MovedRow[];
}

/** Bytes before the payloads. */
export function movedTableBytes({ layers, rows }: MovedHeader): number {
  return sealedHeaderBytes + layers * layerBodyBytes + rows * movedRowBytes;
}

export function decodeMovedHeader(prefix: Uint8Array): MovedHeader | null {
  if (prefix.byteLength < sealedHeaderBytes) return null;
  const view = viewOf(prefix);
  const header = { layers: view.getUint32(8, true), rows: view.getUint32(12, true) };
  return movedTableBytes(header) <= limits.wire.frameBytesMax ? header : null;
}

/**
 * What the tables say; null when they can not be right. `body` may end where the payloads begin.
 * @param pageSize of the disk; null: row lengths are bounded by the body alone.
 */
export function decodeMoved(body: Uint8Array, pageSize: number, bodyLength: number): MovedBody | null {
  const header = decodeMovedHeader(body);
  if (!header || body.byteLength < movedTableBytes(header)) return null;
  const layers = new Map<number, Uint8Array>();
  let at = sealedHeaderBytes;
  for (; layers.size < header.layers; at += layerBodyBytes) {
    const bytes = body.slice(at, at + layerBodyBytes);
    const layer = decodeLayerBody(bytes);
    if (!layer || layers.has(layer.seq)) return null;
    layers.set(layer.seq, bytes);
  }
  const view = viewOf(body);
  const rows: MovedRow[] = [];
  let payloadOffset = movedTableBytes(header);
  for (; rows.length < header.rows; at += movedRowBytes) {
    const row = { seq: readU64(view, at), ...readSealedRow(body, at + 8, payloadOffset) };
    if (!isSound(row, pageSize)) return null;
    rows.push(row);
    payloadOffset += row.storedLength;
  }
  return payloadOffset === bodyLength ? { layers, rows } : null;
}

function isSound(row: MovedRow, pageSize: number): boolean {
  try {
    checkSealedRow(row, { blockCount: 2 ** 32 - 1, pageSize }, -1);
    return true;
  } catch (error) {
    if (isProblem(error)) return false;
    throw error;
  }
}

export interface RowToMove {
  readonly row: Omit<MovedRow, 'payloadOffset'>;
  readonly payload: Uint8Array;
}

/** @param layers LAYER bodies, those of all rows among them. */
export function encodeMoved(layers: readonly Uint8Array[], rows: readonly RowToMove[]): Uint8Array {
  const table = movedTableBytes({ layers: layers.length, rows: rows.length });
  const body = new Uint8Array(rows.reduce((bytes, { payload }) => bytes + payload.byteLength, table));
  const view = viewOf(body);
  view.setUint32(8, layers.length, true);
  view.setUint32(12, rows.length, true);
  let at = sealedHeaderBytes;
  for (const layer of layers) {
    body.set(layer, at);
    at += layerBodyBytes;
  }
  let payloadAt = table;
  for (const { row, payload } of rows) {
    writeU64(view, at, row.seq);
    writeSealedRow(body, at + 8, row);
    at += movedRowBytes;
    body.set(payload, payloadAt);
    payloadAt += payload.byteLength;
  }
  body.set(digest(body.subarray(sealedHeaderBytes)), 24);
  return body;
}

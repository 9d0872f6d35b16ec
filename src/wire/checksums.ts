/**
 * Checksums of a disk by range, for a comparison of source and replica (PROTOCOL.md, "Comparing a disk"): ASK and its answer CHECKSUMS,
 * the source's CHECKSUMS and its answer DIFFERENT.
 *
 * A *level* is `leaves` (one checksum per block) or `nodes` (one per 1,024 blocks, `disk/merkle.ts`); `first` and `count` number leaves or nodes.
 */
import { limits } from '../limits.ts';
import { protocolError } from './codes.ts';
import { encodeFrame, frameType, viewOf } from './frame.ts';

const headerBytes = 16;
const hashBytes = limits.disk.leafBytes;
/** Of the longest CHECKSUMS body. */
export const checksumsBytesMax = headerBytes + limits.wire.checksumsPerFrameMax * hashBytes;

export type ChecksumLevel = 'leaves' | 'nodes';

export interface ChecksumRange {
  readonly level: ChecksumLevel;
  readonly first: number;
  /** 1 to `limits.wire.checksumsPerFrameMax`. */
  readonly count: number;
}

export interface Checksums extends ChecksumRange {
  /** count × 32 bytes; when decoded a view into the body. */
  readonly hashes: Uint8Array;
}

export interface Difference extends ChecksumRange {
  /** Numbers of those that differ, ascending. */
  readonly differing: readonly number[];
  /** The target's checksums of those, in the same order, 32 bytes each. Empty at the level of nodes. */
  readonly hashes: Uint8Array;
}

/** How many leaves or nodes a disk has: bounds every range. */
export type ChecksumBounds = Readonly<Record<ChecksumLevel, number>>;

const levels = { leaves: 0, nodes: 1 } as const;

function writeHeader(body: Uint8Array, range: ChecksumRange): void {
  const view = viewOf(body);
  view.setUint8(0, levels[range.level]);
  view.setUint32(4, range.first, true);
  view.setUint32(8, range.count, true);
}

function readHeader(name: string, body: Uint8Array, bounds: ChecksumBounds): ChecksumRange {
  if (body.byteLength < headerBytes) throw protocolError(`${name} has no header`);
  const view = viewOf(body);
  const code = view.getUint8(0);
  if (code > 1) throw protocolError(`${name} of level ${code}`);
  const level = code === levels.nodes ? 'nodes' : 'leaves';
  const first = view.getUint32(4, true);
  const count = view.getUint32(8, true);
  if (count === 0 || count > limits.wire.checksumsPerFrameMax) throw protocolError(`${name} of ${count} ${level}`);
  if (first + count > bounds[level]) {
    throw protocolError(`${name} of ${level} ${first} to ${first + count - 1}; the disk has ${bounds[level]}`);
  }
  return { level, first, count };
}

export function encodeChecksums(disk: number, message: Checksums): Uint8Array {
  const body = new Uint8Array(headerBytes + message.hashes.byteLength);
  writeHeader(body, message);
  body.set(message.hashes, headerBytes);
  return encodeFrame(frameType.checksums, disk, body);
}

/** @throws Problem `protocol-error`. */
export function decodeChecksums(body: Uint8Array, bounds: ChecksumBounds): Checksums {
  const range = readHeader('CHECKSUMS', body, bounds);
  if (body.byteLength !== headerBytes + range.count * hashBytes) {
    throw protocolError(`CHECKSUMS of ${range.count} ${range.level} has ${body.byteLength} bytes`);
  }
  return { ...range, hashes: body.subarray(headerBytes) };
}

export function encodeAsk(disk: number, range: ChecksumRange): Uint8Array {
  const body = new Uint8Array(headerBytes);
  writeHeader(body, range);
  return encodeFrame(frameType.ask, disk, body);
}

/** @throws Problem `protocol-error`. */
export function decodeAsk(body: Uint8Array, bounds: ChecksumBounds): ChecksumRange {
  if (body.byteLength !== headerBytes) throw protocolError(`ASK has ${body.byteLength} bytes`);
  return readHeader('ASK', body, bounds);
}

/** Body: the header, one bit per checksum (least significant first), then at the level of leaves 32 bytes per set bit. */
export function encodeDifference(disk: number, message: Difference): Uint8Array<ArrayBuffer> {
  const bitmapBytes = Math.ceil(message.count / 8);
  const body = new Uint8Array(headerBytes + bitmapBytes + message.hashes.byteLength);
  writeHeader(body, message);
  for (const number of message.differing) {
    const bit = number - message.first;
    const at = headerBytes + (bit >>> 3);
    body[at] = (body[at] ?? 0) | (1 << (bit & 7));
  }
  body.set(message.hashes, headerBytes + bitmapBytes);
  return encodeFrame(frameType.different, disk, body);
}

/** @throws Problem `protocol-error`. */
export function decodeDifference(body: Uint8Array, bounds: ChecksumBounds): Difference {
  const range = readHeader('DIFFERENT', body, bounds);
  const hashesAt = headerBytes + Math.ceil(range.count / 8);
  if (body.byteLength < hashesAt) throw protocolError(`DIFFERENT of ${range.count} has no whole bitmap`);
  const differing: number[] = [];
  for (let bit = 0; bit < (hashesAt - headerBytes) * 8; bit += 1) {
    if (((body[headerBytes + (bit >>> 3)] ?? 0) & (1 << (bit & 7))) === 0) continue;
    if (bit >= range.count) throw protocolError('DIFFERENT has a bit behind its last checksum');
    differing.push(range.first + bit);
  }
  const expected = range.level === 'leaves' ? differing.length * hashBytes : 0;
  if (body.byteLength !== hashesAt + expected) {
    throw protocolError(`DIFFERENT with ${differing.length} ${range.level} has ${body.byteLength} bytes`);
  }
  return { ...range, differing, hashes: body.subarray(hashesAt) };
}

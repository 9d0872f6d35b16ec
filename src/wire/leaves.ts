/** LEAVES: (block, leaf) pairs the client lays over its leaf file; the last frame after an OPENED is flagged. */
import { limits } from '../limits.ts';
import { protocolError } from './codes.ts';
import { encodeFrame, frameType, viewOf } from './frame.ts';

const headerBytes = 8;
const pairBytes = 4 + limits.disk.leafBytes;
const lastFlag = 1;

export type LeafPair = readonly [block: number, leaf: Uint8Array];

export interface Leaves {
  readonly last: boolean;
  /** Leaves are views into the body. */
  readonly pairs: readonly LeafPair[];
}

export function encodeLeaves(disk: number, message: Leaves): Uint8Array {
  const body = new Uint8Array(headerBytes + message.pairs.length * pairBytes);
  const view = viewOf(body);
  view.setUint32(0, message.last ? lastFlag : 0, true);
  view.setUint32(4, message.pairs.length, true);
  let at = headerBytes;
  for (const [block, leaf] of message.pairs) {
    view.setUint32(at, block, true);
    body.set(leaf, at + 4);
    at += pairBytes;
  }
  return encodeFrame(frameType.leaves, disk, body);
}

/** @throws Problem `protocol-error`; `blockCount` bounds the block numbers. */
export function decodeLeaves(body: Uint8Array, blockCount: number): Leaves {
  if (body.byteLength < headerBytes) throw protocolError('a LEAVES has no header');
  const view = viewOf(body);
  const flags = view.getUint32(0, true);
  const count = view.getUint32(4, true);
  if (flags > lastFlag) throw protocolError(`LEAVES flags ${flags}`);
  if (count > limits.wire.leavesPerFrameMax || body.byteLength !== headerBytes + count * pairBytes) {
    throw protocolError(`a LEAVES of ${count} pairs has ${body.byteLength} bytes`);
  }
  const pairs: LeafPair[] = [];
  for (let at = headerBytes; at < body.byteLength; at += pairBytes) {
    const block = view.getUint32(at, true);
    if (block >= blockCount) throw protocolError(`LEAVES names block ${block} of ${blockCount}`);
    pairs.push([block, body.subarray(at + 4, at + pairBytes)]);
  }
  return { last: flags === lastFlag, pairs };
}

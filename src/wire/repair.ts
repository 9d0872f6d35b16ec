/** REPAIR: blocks the client must send whole in its next layer, because what is stored of them failed a check. */
import { limits } from '../limits.ts';
import { protocolError } from './codes.ts';
import { encodeFrame, frameType, viewOf } from './frame.ts';

export function encodeRepair(disk: number, blocks: readonly number[]): Uint8Array {
  const body = new Uint8Array(4 + blocks.length * 4);
  const view = viewOf(body);
  view.setUint32(0, blocks.length, true);
  blocks.forEach((block, index) => view.setUint32(4 + index * 4, block, true));
  return encodeFrame(frameType.repair, disk, body);
}

export function decodeRepair(body: Uint8Array, blockCount: number): number[] {
  if (body.byteLength < 4) throw protocolError('a REPAIR has no header');
  const view = viewOf(body);
  const count = view.getUint32(0, true);
  if (count > limits.wire.repairsPerFrameMax || body.byteLength !== 4 + count * 4) {
    throw protocolError(`a REPAIR of ${count} blocks has ${body.byteLength} bytes`);
  }
  const blocks: number[] = [];
  for (let index = 0; index < count; index += 1) {
    const block = view.getUint32(4 + index * 4, true);
    if (block >= blockCount) throw protocolError(`REPAIR names block ${block} of ${blockCount}`);
    blocks.push(block);
  }
  return blocks;
}

/** DURABLE: the first `batches` batches of a layer are on stable storage (C1). Cumulative. */
import { protocolError } from './codes.ts';
import { encodeFrame, frameType, readU64, viewOf, writeU64 } from './frame.ts';

export interface Durable {
  readonly seq: number;
  readonly batches: number;
}

export function encodeDurable(disk: number, message: Durable): Uint8Array {
  const body = new Uint8Array(16);
  const view = viewOf(body);
  writeU64(view, 0, message.seq);
  view.setUint32(8, message.batches, true);
  return encodeFrame(frameType.durable, disk, body);
}

export function decodeDurable(body: Uint8Array): Durable {
  if (body.byteLength !== 16) throw protocolError(`a DURABLE of ${body.byteLength} bytes`);
  const view = viewOf(body);
  return { seq: readU64(view, 0), batches: view.getUint32(8, true) };
}

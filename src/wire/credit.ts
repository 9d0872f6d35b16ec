/** CREDIT: so many more bytes of BATCH or SEALED bodies may be sent. */
import { protocolError } from './codes.ts';
import { encodeFrame, frameType, noDisk, readU64, viewOf, writeU64 } from './frame.ts';

export function encodeCredit(bytes: number): Uint8Array {
  const body = new Uint8Array(8);
  writeU64(viewOf(body), 0, bytes);
  return encodeFrame(frameType.credit, noDisk, body);
}

export function decodeCredit(body: Uint8Array): number {
  if (body.byteLength !== 8) throw protocolError(`a CREDIT of ${body.byteLength} bytes`);
  return readU64(viewOf(body), 0);
}

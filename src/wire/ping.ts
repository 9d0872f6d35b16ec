/** PING and PONG: a token that comes back. Either side may ask. */
import { protocolError } from './codes.ts';
import { encodeFrame, frameType, noDisk, readU64, viewOf, writeU64 } from './frame.ts';

export function encodePing(kind: 'ping' | 'pong', token: number): Uint8Array {
  const body = new Uint8Array(8);
  writeU64(viewOf(body), 0, token);
  return encodeFrame(frameType[kind], noDisk, body);
}

/** The token of a PING or PONG body. */
export function decodePing(body: Uint8Array): number {
  if (body.byteLength !== 8) throw protocolError(`a PING of ${body.byteLength} bytes`);
  return readU64(viewOf(body), 0);
}

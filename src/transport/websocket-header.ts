/**
 * The header of an RFC 6455 frame (§5.2), as we send it: FIN set, one frame per message. A client must mask, and does, with 0
 * (PROTOCOL.md): the RFC asks for it because of proxies that read along, and none can read TLS.
 *
 *   u8 FIN ‖ RSV ‖ opcode · u8 MASK ‖ length (≤ 125), 126 + u16, or 127 + u64 · 4 bytes of mask if MASK
 *
 * Reading it back is `websocket-reader.ts`.
 */

export const opcodes = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;

/** Opcodes from here on are control frames (§5.5): at most `controlBytesMax` bytes, never fragmented. */
export const firstControlOpcode = 8;
export const controlBytesMax = 125;

/** In the place of a length: it follows in 2, or in 8 bytes. */
export const length16 = 126;
export const length64 = 127;
export const maskBytes = 4;

/** Bytes of the header in front of `payloadBytes` bytes; at most `frameRoomBytes`. */
export function headerBytesOf(payloadBytes: number, masked: boolean): number {
  const length = payloadBytes <= controlBytesMax ? 2 : payloadBytes <= 0xffff ? 4 : 10;
  return length + (masked ? maskBytes : 0);
}

/** Writes the header of `payloadBytes` bytes (up to 4 GiB) at the start of `into`. */
export function writeHeader(into: Uint8Array, opcode: number, payloadBytes: number, masked: boolean): void {
  const view = new DataView(into.buffer, into.byteOffset, into.byteLength);
  const end = headerBytesOf(payloadBytes, masked);
  const maskBit = masked ? 0x80 : 0;
  view.setUint8(0, 0x80 | opcode);
  if (payloadBytes <= controlBytesMax) view.setUint8(1, maskBit | payloadBytes);
  else if (payloadBytes <= 0xffff) {
    view.setUint8(1, maskBit | length16);
    view.setUint16(2, payloadBytes);
  } else {
    view.setUint8(1, maskBit | length64);
    view.setUint32(2, 0);
    view.setUint32(6, payloadBytes);
  }
  if (masked) view.setUint32(end - maskBytes, 0);
}

/** Whether a close frame may carry `code` (§7.4, and what IANA registered since). */
export function isCloseCode(code: number): boolean {
  const registered = code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code);
  return registered || (code >= 3000 && code <= 4999);
}

/** The payload of a close frame: the code and as much of the reason as it can carry, never half a character. */
export function closePayload(code: number, reason: string): Uint8Array {
  const textBytesMax = controlBytesMax - 2;
  let text = reason.slice(0, textBytesMax);
  while (Buffer.byteLength(text) > textBytesMax) text = text.slice(0, -1);
  return Buffer.concat([Uint8Array.of(code >> 8, code & 0xff), Buffer.from(text.toWellFormed())]);
}

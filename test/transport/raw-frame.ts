/** RFC 6455 frames by hand, right or wrong, to be held against `src/transport/websocket-header.ts`, of which nothing is used here. */
interface Parts {
  readonly final?: boolean;
  readonly opcode?: number;
  readonly reserved?: number;
  readonly mask?: readonly number[] | null;
  readonly payload?: Uint8Array;
  /** What the header says instead of the payload's length. */
  readonly length?: bigint;
}

/** A frame by hand; by default a client's whole binary message. */
export function rawFrame(parts: Parts = {}): Buffer {
  const { final = true, opcode = 2, reserved = 0, mask = [1, 2, 3, 4], payload = new Uint8Array(0) } = parts;
  const length = parts.length ?? BigInt(payload.byteLength);
  const head = Buffer.alloc(length < 126n ? 2 : length < 65_536n ? 4 : 10);
  head[0] = (final ? 0x80 : 0) | (reserved << 4) | opcode;
  head[1] = (mask ? 0x80 : 0) | (length < 126n ? Number(length) : length < 65_536n ? 126 : 127);
  if (head.byteLength === 4) head.writeUInt16BE(Number(length), 2);
  else if (head.byteLength === 10) head.writeBigUInt64BE(length, 2);
  const body = mask ? payload.map((byte, at) => byte ^ (mask[at % 4] ?? 0)) : payload;
  return Buffer.concat([head, Uint8Array.from(mask ?? []), body]);
}

/**
 * RFC 6455 frames out of a stream of bytes: chunks in, cut anywhere, whole messages out. No socket, no timer.
 *
 *   header (2 to 14 bytes) ─► checked ─► memory for the payload ─► filled ─► message, ping, pong or close
 *
 *  1. No length is believed: what a header says is checked when it is whole, before anything is allocated for it (C7).
 *  2. A payload is copied once, from the chunk into the memory its receiver gave. Nothing given out is a view of a chunk, so
 *     whoever pushed a chunk may release it.
 *  3. Held at any time: one message of at most `bytesMax` and `limits.wire.frameBytesMax`, or the fragments of one, and one control frame.
 *     (Our own peers do not fragment, so that pieces are copied a second time when the last one came costs nobody.)
 *  4. It ends once: with the peer's close frame, or with its first violation. What is pushed later is not looked at.
 *  5. After `discard` messages are skipped, not stored; control frames are seen as before.
 *
 * Not read but accepted: pongs. Not enforced: that a length is written in as few bytes as it could be.
 */
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import { frameRoomBytes } from '../wire/frame.ts';
import { closeCodes } from './connection.ts';
import type { TakeMemory } from './connection.ts';
import { controlBytesMax, firstControlOpcode, isCloseCode, length16, length64 } from './websocket-header.ts';
import { maskBytes, opcodes } from './websocket-header.ts';

/** What comes out. Each is called from within `push`, and may call `discard`. */
export interface Received {
  /** As in `Connection.onFrame`. */
  readonly take: TakeMemory;
  readonly bytesMax: () => number;
  readonly message: (message: Buffer) => void;
  /** The payload is the receiver's. */
  readonly ping: (payload: Buffer) => void;
  /** The last thing that comes. `closeCodes.none` if the peer gave no code. */
  readonly close: (code: number, reason: string) => void;
  /** The peer broke the rules, or sends what is not for us. The last thing that comes; `code` is the close code to answer with. */
  readonly refused: (code: number, reason: string) => void;
}

/** Of a message in fragments: what came, in order. */
interface Pieces {
  readonly parts: Buffer[];
  count: number;
  bytes: number;
}

const nothing = Buffer.alloc(0);

export class WebSocketReader {
  readonly #masked: boolean;
  readonly #received: Received;
  readonly #head = Buffer.alloc(frameRoomBytes);
  #headHas = 0;
  #headNeeds = 2;
  /** Where the payload of the frame goes whose header is whole; null: nowhere, it is skipped. */
  #payload: Buffer | null = null;
  #payloadHas = 0;
  #payloadNeeds = 0;
  #pieces: Pieces | null = null;
  #discarding = false;
  #ended = false;

  /** `masked`: whether the peer must mask (a client), or must not (a server). */
  constructor(masked: boolean, received: Received) {
    this.#masked = masked;
    this.#received = received;
  }

  /** Takes the next bytes. The chunk is not used after the call. */
  push(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.byteLength && !this.#ended) {
      at = this.#headHas < this.#headNeeds ? this.#fillHead(chunk, at) : this.#fillPayload(chunk, at);
    }
  }

  /** Invariant 5. */
  discard(): void {
    this.#discarding = true;
    if (!this.#isControl) this.#payload = null;
  }

  get #opcode(): number {
    return this.#byte(0) & 0x0f;
  }

  get #isControl(): boolean {
    return this.#opcode >= firstControlOpcode;
  }

  get #isFinal(): boolean {
    return (this.#byte(0) & 0x80) !== 0;
  }

  #byte(at: number): number {
    return this.#head[at] ?? 0;
  }

  #fillHead(chunk: Uint8Array, from: number): number {
    const to = Math.min(chunk.byteLength, from + this.#headNeeds - this.#headHas);
    for (let at = from; at < to; at += 1) this.#head[this.#headHas++] = chunk[at] ?? 0;
    if (this.#headHas < this.#headNeeds) return to;
    if (this.#headNeeds === 2) {
      if (!this.#accepts()) return to;
      const length = this.#byte(1) & 0x7f;
      const extended = length === length16 ? 2 : length === length64 ? 8 : 0;
      this.#headNeeds += extended + (this.#masked ? maskBytes : 0);
    }
    if (this.#headHas === this.#headNeeds) this.#begin();
    return to;
  }

  /** The first two bytes. */
  #accepts(): boolean {
    const opcode = this.#opcode;
    const length = this.#byte(1) & 0x7f;
    const broken = (what: string): boolean => this.#refuse(closeCodes.protocol, what);
    if ((this.#byte(0) & 0x70) !== 0) return broken('reserved bits are set');
    if (((this.#byte(1) & 0x80) !== 0) !== this.#masked) return broken(this.#masked ? 'not masked' : 'masked');
    if (this.#isControl) {
      if (opcode > opcodes.pong) return broken(`opcode ${opcode}`);
      if (!this.#isFinal) return broken('a control frame in fragments');
      if (length > controlBytesMax) return broken('a control frame that is too long');
      return true;
    }
    if (opcode > opcodes.binary) return broken(`opcode ${opcode}`);
    if (this.#discarding) return true;
    const going = this.#pieces !== null;
    if (going !== (opcode === opcodes.continuation)) {
      return broken(going ? 'a message within another' : 'the rest of no message');
    }
    if (opcode === opcodes.text) return this.#refuse(closeCodes.binaryOnly, 'frames are binary messages');
    return true;
  }

  /** The header is whole. */
  #begin(): void {
    const length = this.#length();
    this.#payloadHas = 0;
    this.#payloadNeeds = length;
    if (this.#isControl) this.#payload = Buffer.allocUnsafe(length);
    else if (this.#discarding) this.#payload = null;
    else if (!this.#fits(length)) return;
    else if (this.#pieces || !this.#isFinal) this.#payload = Buffer.allocUnsafe(length);
    else this.#payload = this.#memory(length);
    if (length === 0) this.#finish();
  }

  #length(): number {
    const short = this.#byte(1) & 0x7f;
    if (short === length16) return this.#head.readUInt16BE(2);
    return short === length64 ? this.#head.readUInt32BE(2) * 2 ** 32 + this.#head.readUInt32BE(6) : short;
  }

  #fits(length: number): boolean {
    const { frameBytesMax, fragmentsMax } = limits.wire;
    const { bytes, count } = this.#pieces ?? { bytes: 0, count: 0 };
    const most = Math.min(frameBytesMax, this.#received.bytesMax());
    if (bytes + length > most) return this.#refuse(closeCodes.tooBig, `more than ${most} bytes`);
    if (count >= fragmentsMax) return this.#refuse(closeCodes.policy, `more than ${fragmentsMax} fragments`);
    return true;
  }

  #memory(bytes: number): Buffer {
    if (bytes === 0) return nothing;
    const memory = this.#received.take(bytes);
    invariant(memory.byteLength === bytes, 'the memory of a frame has its length');
    return memory;
  }

  #fillPayload(chunk: Uint8Array, from: number): number {
    const to = Math.min(chunk.byteLength, from + this.#payloadNeeds - this.#payloadHas);
    this.#payload?.set(chunk.subarray(from, to), this.#payloadHas);
    this.#payloadHas += to - from;
    if (this.#payloadHas === this.#payloadNeeds) this.#finish();
    return to;
  }

  #finish(): void {
    const payload = this.#payload;
    this.#payload = null;
    if (payload && this.#masked) unmask(payload, this.#head.subarray(this.#headNeeds - maskBytes, this.#headNeeds));
    this.#headHas = 0;
    this.#headNeeds = 2;
    if (!payload) return;
    if (!this.#isControl) this.#data(payload);
    else if (this.#opcode === opcodes.close) this.#close(payload);
    else if (this.#opcode === opcodes.ping) this.#received.ping(payload);
  }

  #data(payload: Buffer): void {
    if (this.#isFinal && !this.#pieces) {
      this.#received.message(payload);
      return;
    }
    const pieces = (this.#pieces ??= { parts: [], count: 0, bytes: 0 });
    pieces.parts.push(payload);
    pieces.count += 1;
    pieces.bytes += payload.byteLength;
    if (!this.#isFinal) return;
    this.#pieces = null;
    const whole = this.#memory(pieces.bytes);
    let at = 0;
    for (const part of pieces.parts) at += part.copy(whole, at);
    this.#received.message(whole);
  }

  #close(payload: Buffer): void {
    const code = payload.byteLength < 2 ? closeCodes.none : payload.readUInt16BE(0);
    if (payload.byteLength > 0 && !isCloseCode(code)) {
      this.#refuse(closeCodes.protocol, 'a close frame without a valid code');
      return;
    }
    this.#ended = true;
    this.#received.close(code, payload.toString('utf8', 2));
  }

  /** Invariant 4; false, for those who ask. */
  #refuse(code: number, reason: string): false {
    this.discard();
    this.#ended = true;
    this.#received.refused(code, reason);
    return false;
  }
}

function unmask(payload: Buffer, mask: Uint8Array): void {
  const [a = 0, b = 0, c = 0, d = 0] = mask;
  if ((a | b | c | d) === 0) return;
  const bytes = [a, b, c, d];
  for (let at = 0; at < payload.byteLength; at += 1) payload[at] = (payload[at] ?? 0) ^ (bytes[at & 3] ?? 0);
}

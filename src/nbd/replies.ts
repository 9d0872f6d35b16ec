/**
 * Second stage of an NBD connection, the server's half: replies.
 *
 *   simple:  u32 magic, u32 error, u64 cookie [, data of a READ]
 *   chunk:   u32 magic, u16 flags (1 = last of this request), u16 kind, u64 cookie, u32 length, body
 *     offset data:   u64 offset, data                offset hole: u64 offset, u32 length
 *     block status:  u32 context, n × (u32 length, u32 state)
 *     error:         u32 error, u16 message length, message [, u64 offset]
 *
 * Invariants of the reader (it serves the client):
 *  1. Pure: no I/O. The same bytes give the same events however they are cut into chunks.
 *  2. Data goes straight into the buffer its owner hands in after the `data` or `simple` event.
 *  3. No body but data is longer than `replyBodyBytesMax`; a longer one is `malformed`, before room is made for it (C7).
 *  4. After `malformed` the stream has no meaning any more; nothing else is reported.
 */
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import type { Extent } from './backend.ts';
import {
  allocationContextId,
  allocationState,
  chunkFlag,
  chunkKind,
  simpleReplyMagic,
  structuredReplyMagic,
  wireBytes,
} from './constants.ts';

/** Before the data of a structured read. */
export const dataHeaderBytes = wireBytes.chunkHeader + 8;
export const simpleReplyBytes = wireBytes.simpleReply;

/** At the start of `bytes`. */
export function encodeSimpleReply(
  cookie: bigint,
  error: number,
  bytes: Buffer = Buffer.allocUnsafe(simpleReplyBytes),
): Buffer {
  bytes.writeUInt32BE(simpleReplyMagic, 0);
  bytes.writeUInt32BE(error, 4);
  bytes.writeBigUInt64BE(cookie, 8);
  return bytes;
}

/** What goes before `length` bytes of data in the one and only chunk of a structured read, at the start of `bytes`. */
export function encodeDataHeader(
  cookie: bigint,
  offset: number,
  length: number,
  bytes: Buffer = Buffer.allocUnsafe(dataHeaderBytes),
): Buffer {
  writeChunkHeader(bytes, chunkKind.offsetData, cookie, length + 8);
  bytes.writeBigUInt64BE(BigInt(offset), wireBytes.chunkHeader);
  return bytes;
}

export function encodeErrorChunk(cookie: bigint, error: number, message: string): Buffer {
  const text = Buffer.from(message).subarray(0, wireBytes.stringMax);
  const bytes = Buffer.alloc(wireBytes.chunkHeader + 6 + text.byteLength);
  writeChunkHeader(bytes, chunkKind.error, cookie, 6 + text.byteLength);
  bytes.writeUInt32BE(error, wireBytes.chunkHeader);
  bytes.writeUInt16BE(text.byteLength, wireBytes.chunkHeader + 4);
  text.copy(bytes, wireBytes.chunkHeader + 6);
  return bytes;
}

export function encodeBlockStatus(cookie: bigint, extents: readonly Extent[]): Buffer {
  const bytes = Buffer.alloc(wireBytes.chunkHeader + 4 + 8 * extents.length);
  writeChunkHeader(bytes, chunkKind.blockStatus, cookie, 4 + 8 * extents.length);
  bytes.writeUInt32BE(allocationContextId, wireBytes.chunkHeader);
  extents.forEach((extent, index) => {
    const at = wireBytes.chunkHeader + 4 + 8 * index;
    bytes.writeUInt32BE(extent.length, at);
    bytes.writeUInt32BE((extent.hole ? allocationState.hole : 0) | (extent.zero ? allocationState.zero : 0), at + 4);
  });
  return bytes;
}

function writeChunkHeader(bytes: Buffer, kind: number, cookie: bigint, length: number): void {
  bytes.writeUInt32BE(structuredReplyMagic, 0);
  bytes.writeUInt16BE(chunkFlag.done, 4);
  bytes.writeUInt16BE(kind, 6);
  bytes.writeBigUInt64BE(cookie, 8);
  bytes.writeUInt32BE(length, 16);
}

export type ReplyEvent =
  | { readonly kind: 'simple'; readonly cookie: bigint; readonly error: number }
  /** `length` bytes of data for `offset` follow: hand in their room with `dataInto`. */
  | {
      readonly kind: 'data';
      readonly cookie: bigint;
      readonly done: boolean;
      readonly offset: number;
      readonly length: number;
    }
  | {
      readonly kind: 'chunk';
      readonly cookie: bigint;
      readonly done: boolean;
      readonly chunk: number;
      readonly body: Buffer;
    }
  /** The room handed in is full. */
  | { readonly kind: 'data-complete' }
  | { readonly kind: 'malformed'; readonly reason: string };

type Stage =
  | { readonly kind: 'header'; need: number }
  | { readonly kind: 'body'; readonly into: Buffer; have: number }
  | { readonly kind: 'undecided'; readonly length: number }
  | { readonly kind: 'data'; readonly into: Uint8Array; have: number }
  | { readonly kind: 'malformed' };

type Step = { readonly at: number; readonly event?: ReplyEvent };

/** Cuts the server's half of the transmission into replies. */
export class ReplyReader {
  #stage: Stage = { kind: 'header', need: 4 };
  readonly #header = Buffer.alloc(dataHeaderBytes);
  #have = 0;

  /** Consumes `chunk` from `at` up to the first event; `at` of the answer is where to go on. No event: all was consumed. */
  next(chunk: Buffer, at: number): Step {
    for (let from = at; ;) {
      const stage = this.#stage;
      if (stage.kind === 'malformed') return { at: chunk.byteLength };
      invariant(stage.kind !== 'undecided', 'data has its room before it is read');
      if (stage.kind === 'body' || stage.kind === 'data') return this.#fill(stage, chunk, from);
      const step = Math.min(stage.need - this.#have, chunk.byteLength - from);
      chunk.copy(this.#header, this.#have, from, from + step);
      this.#have += step;
      from += step;
      if (this.#have < stage.need) return { at: from };
      const event = this.#completeHeader(stage);
      if (event) return { at: from, event };
    }
  }

  /** Room for the data just announced (`data`), or for that of a simple reply to a READ; exactly its length. */
  dataInto(into: Uint8Array): void {
    const stage = this.#stage;
    const afterSimple = stage.kind === 'header' && this.#have === 0;
    const announced = stage.kind === 'undecided' && stage.length === into.byteLength;
    invariant(afterSimple || announced, 'data was announced');
    this.#stage = { kind: 'data', into, have: 0 };
  }

  #fill(stage: Extract<Stage, { kind: 'body' | 'data' }>, chunk: Buffer, at: number): Step {
    const step = Math.min(stage.into.byteLength - stage.have, chunk.byteLength - at);
    stage.into.set(chunk.subarray(at, at + step), stage.have);
    stage.have += step;
    if (stage.have < stage.into.byteLength) return { at: at + step };
    this.#restart();
    if (stage.kind === 'data') return { at: at + step, event: { kind: 'data-complete' } };
    return { at: at + step, event: { kind: 'chunk', ...this.#chunkHead(), body: stage.into } };
  }

  /** The header grows as its kind becomes known: magic, then simple or chunk, then the offset of data. */
  #completeHeader(stage: Extract<Stage, { kind: 'header' }>): ReplyEvent | undefined {
    const header = this.#header;
    switch (stage.need) {
      case 4: {
        const magic = header.readUInt32BE(0);
        if (magic === simpleReplyMagic) stage.need = wireBytes.simpleReply;
        else if (magic === structuredReplyMagic) stage.need = wireBytes.chunkHeader;
        else return this.#malformed('a reply does not begin with its magic number');
        return undefined;
      }
      case wireBytes.simpleReply:
        this.#restart();
        return { kind: 'simple', cookie: header.readBigUInt64BE(8), error: header.readUInt32BE(4) };
      case wireBytes.chunkHeader:
        return this.#completeChunkHeader(stage, header.readUInt16BE(6), header.readUInt32BE(16));
      default: {
        const { cookie, done } = this.#chunkHead();
        const length = header.readUInt32BE(16) - 8;
        const offset = header.readUInt32BE(20) * 2 ** 32 + header.readUInt32BE(24);
        this.#have = 0;
        this.#stage = { kind: 'undecided', length };
        return { kind: 'data', cookie, done, offset, length };
      }
    }
  }

  #completeChunkHeader(
    stage: Extract<Stage, { kind: 'header' }>,
    kind: number,
    length: number,
  ): ReplyEvent | undefined {
    if (kind === chunkKind.offsetData) {
      if (length <= 8) return this.#malformed('a chunk of data holds none');
      stage.need = dataHeaderBytes;
      return undefined;
    }
    if (length > limits.nbd.replyBodyBytesMax) return this.#malformed(`a chunk claims ${length} bytes`);
    this.#have = 0;
    this.#stage = { kind: 'body', into: Buffer.alloc(length), have: 0 };
    return undefined;
  }

  #chunkHead(): { cookie: bigint; done: boolean; chunk: number } {
    const header = this.#header;
    return {
      cookie: header.readBigUInt64BE(8),
      done: (header.readUInt16BE(4) & chunkFlag.done) !== 0,
      chunk: header.readUInt16BE(6),
    };
  }

  #restart(): void {
    this.#have = 0;
    this.#stage = { kind: 'header', need: 4 };
  }

  #malformed(reason: string): ReplyEvent {
    this.#stage = { kind: 'malformed' };
    return { kind: 'malformed', reason };
  }
}

/** Body of an error chunk; undefined when its lengths do not add up. */
export function decodeErrorBody(body: Buffer): { readonly error: number; readonly message: string } | undefined {
  if (body.byteLength < 6) return undefined;
  const end = 6 + body.readUInt16BE(4);
  if (body.byteLength < end) return undefined;
  return { error: body.readUInt32BE(0), message: body.toString('utf8', 6, end) };
}

/** Body of a hole chunk: a range that reads as zeros. */
export function decodeHoleBody(body: Buffer): { readonly offset: number; readonly length: number } | undefined {
  if (body.byteLength !== 12) return undefined;
  return { offset: body.readUInt32BE(0) * 2 ** 32 + body.readUInt32BE(4), length: body.readUInt32BE(8) };
}

/** Body of a block status chunk; undefined when it is none. */
export function decodeBlockStatusBody(body: Buffer): readonly Extent[] | undefined {
  if (body.byteLength < 12 || body.byteLength % 8 !== 4) return undefined;
  const extents: Extent[] = [];
  for (let at = 4; at < body.byteLength; at += 8) {
    const state = body.readUInt32BE(at + 4);
    const zero = (state & allocationState.zero) !== 0;
    extents.push({ length: body.readUInt32BE(at), zero, hole: (state & allocationState.hole) !== 0 });
  }
  return extents;
}

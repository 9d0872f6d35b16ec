/**
 * First stage of an NBD connection, bytes ↔ values: what a client says before transmission, and the replies to it.
 *
 *   client flags: u32 flags
 *   option:       u64 "IHAVEOPT", u32 option, u32 length, data
 *   reply:        u64 magic, u32 option, u32 reply, u32 length, data
 *
 * Invariants:
 *  1. Pure: no I/O. The same bytes give the same events however they are cut into chunks.
 *  2. No more than `optionBytesMax` bytes of one option are ever held; a longer one is skipped by counting and reported as
 *     `oversized`, once, when all of it has passed.
 *  3. After `malformed` the stream has no meaning any more; nothing else is reported.
 */
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import { infoKind, option, optionMagic, optionReply, optionReplyMagic, wireBytes } from './constants.ts';

export type HandshakeEvent =
  | { readonly kind: 'client-flags'; readonly flags: number }
  /** `data` belongs to the receiver. */
  | { readonly kind: 'option'; readonly option: number; readonly data: Buffer }
  | { readonly kind: 'oversized'; readonly option: number; readonly length: number }
  | { readonly kind: 'malformed'; readonly reason: string };

type Stage =
  | { readonly kind: 'client-flags' }
  | { readonly kind: 'header' }
  | { readonly kind: 'data'; readonly option: number }
  | { readonly kind: 'skip'; readonly option: number; readonly length: number; left: number }
  | { readonly kind: 'malformed' };

/** Cuts the client's half of the handshake into events. */
export class HandshakeReader {
  #stage: Stage = { kind: 'client-flags' };
  #into = Buffer.alloc(wireBytes.clientFlags);
  #have = 0;

  /** Consumes `chunk` from `at` up to the first event; `at` of the answer is where to go on. No event: all was consumed. */
  next(chunk: Buffer, at: number): { readonly at: number; readonly event?: HandshakeEvent } {
    const stage = this.#stage;
    if (stage.kind === 'malformed') return { at: chunk.byteLength };
    if (stage.kind === 'skip') {
      const step = Math.min(stage.left, chunk.byteLength - at);
      stage.left -= step;
      if (stage.left > 0) return { at: at + step };
      this.#expect({ kind: 'header' }, wireBytes.optionHeader);
      return { at: at + step, event: { kind: 'oversized', option: stage.option, length: stage.length } };
    }
    const step = Math.min(this.#into.byteLength - this.#have, chunk.byteLength - at);
    chunk.copy(this.#into, this.#have, at, at + step);
    this.#have += step;
    if (this.#have < this.#into.byteLength) return { at: at + step };
    const event = this.#complete(stage);
    // An option's header alone is no event; its data may begin in this very chunk, or be empty.
    return event ? { at: at + step, event } : this.next(chunk, at + step);
  }

  #complete(stage: Exclude<Stage, { kind: 'skip' | 'malformed' }>): HandshakeEvent | undefined {
    const bytes = this.#into;
    switch (stage.kind) {
      case 'client-flags':
        this.#expect({ kind: 'header' }, wireBytes.optionHeader);
        return { kind: 'client-flags', flags: bytes.readUInt32BE(0) };
      case 'header': {
        if (bytes.readBigUInt64BE(0) !== optionMagic) {
          this.#stage = { kind: 'malformed' };
          return { kind: 'malformed', reason: 'an option does not begin with IHAVEOPT' };
        }
        const code = bytes.readUInt32BE(8);
        const length = bytes.readUInt32BE(12);
        if (length > limits.nbd.optionBytesMax) this.#stage = { kind: 'skip', option: code, length, left: length };
        else this.#expect({ kind: 'data', option: code }, length);
        return undefined;
      }
      case 'data':
        this.#expect({ kind: 'header' }, wireBytes.optionHeader);
        return { kind: 'option', option: stage.option, data: bytes };
    }
  }

  #expect(stage: Stage, bytes: number): void {
    this.#stage = stage;
    this.#into = Buffer.alloc(bytes);
    this.#have = 0;
  }
}

/** Data of INFO and GO: `u32 length, name, u16 count, count × u16 kind`. Undefined when the lengths do not add up. */
export function decodeInfoData(data: Buffer): { readonly name: string; readonly kinds: readonly number[] } | undefined {
  const name = stringAt(data, 0);
  if (!name || data.byteLength < name.end + 2) return undefined;
  const count = data.readUInt16BE(name.end);
  if (data.byteLength !== name.end + 2 + 2 * count) return undefined;
  const kinds = Array.from({ length: count }, (_, index) => data.readUInt16BE(name.end + 2 + 2 * index));
  return { name: name.text, kinds };
}

export function encodeInfoData(name: string, kinds: readonly number[]): Buffer {
  const count = Buffer.alloc(2 + 2 * kinds.length);
  count.writeUInt16BE(kinds.length, 0);
  kinds.forEach((kind, index) => count.writeUInt16BE(kind, 2 + 2 * index));
  return Buffer.concat([encodeString(name), count]);
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT: `string name, u32 count, count × string`. */
export function decodeMetaData(
  data: Buffer,
): { readonly name: string; readonly queries: readonly string[] } | undefined {
  const name = stringAt(data, 0);
  if (!name || data.byteLength < name.end + 4) return undefined;
  const count = data.readUInt32BE(name.end);
  const queries: string[] = [];
  let at = name.end + 4;
  for (let index = 0; index < count; index += 1) {
    const query = stringAt(data, at);
    if (!query) return undefined;
    queries.push(query.text);
    at = query.end;
  }
  return at === data.byteLength ? { name: name.text, queries } : undefined;
}

export function encodeMetaData(name: string, queries: readonly string[]): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(queries.length);
  return Buffer.concat([encodeString(name), count, ...queries.map(encodeString)]);
}

/** A name alone, as the data of EXPORT_NAME. Undefined when it is no text or too long. */
export function decodeName(data: Buffer): string | undefined {
  if (data.byteLength > wireBytes.stringMax) return undefined;
  const text = data.toString('utf8');
  return Buffer.from(text).equals(data) ? text : undefined;
}

export function encodeOption(code: number, data: Buffer): Buffer {
  const header = Buffer.alloc(wireBytes.optionHeader);
  header.writeBigUInt64BE(optionMagic, 0);
  header.writeUInt32BE(code, 8);
  header.writeUInt32BE(data.byteLength, 12);
  return Buffer.concat([header, data]);
}

export function encodeOptionReply(code: number, reply: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(wireBytes.optionReplyHeader);
  header.writeBigUInt64BE(optionReplyMagic, 0);
  header.writeUInt32BE(code, 8);
  header.writeUInt32BE(reply, 12);
  header.writeUInt32BE(data.byteLength, 16);
  return Buffer.concat([header, data]);
}

/** An error reply; its data is a sentence for people. */
export function encodeOptionError(code: number, reply: number, message: string): Buffer {
  return encodeOptionReply(code, reply, Buffer.from(message).subarray(0, wireBytes.stringMax));
}

export function encodeServerReply(name: string): Buffer {
  return encodeOptionReply(option.list, optionReply.server, encodeString(name));
}

/** `u16 kind, u64 size, u16 transmission flags` */
export function encodeExportInfo(code: number, size: number, flags: number): Buffer {
  const data = Buffer.alloc(12);
  data.writeUInt16BE(infoKind.export, 0);
  data.writeBigUInt64BE(BigInt(size), 2);
  data.writeUInt16BE(flags, 10);
  return encodeOptionReply(code, optionReply.info, data);
}

/** `u16 kind, u32 smallest, u32 preferred, u32 largest` request in bytes */
export function encodeBlockSizeInfo(code: number, sizes: { min: number; preferred: number; max: number }): Buffer {
  invariant(sizes.min <= sizes.preferred && sizes.preferred <= sizes.max, 'request sizes are in order');
  const data = Buffer.alloc(14);
  data.writeUInt16BE(infoKind.blockSize, 0);
  data.writeUInt32BE(sizes.min, 2);
  data.writeUInt32BE(sizes.preferred, 6);
  data.writeUInt32BE(sizes.max, 10);
  return encodeOptionReply(code, optionReply.info, data);
}

export function encodeNameInfo(code: number, name: string): Buffer {
  const kind = Buffer.alloc(2);
  kind.writeUInt16BE(infoKind.name, 0);
  return encodeOptionReply(code, optionReply.info, Buffer.concat([kind, Buffer.from(name)]));
}

/** `u32 context id, name` */
export function encodeMetaContext(code: number, id: number, name: string): Buffer {
  const data = Buffer.alloc(4);
  data.writeUInt32BE(id);
  return encodeOptionReply(code, optionReply.metaContext, Buffer.concat([data, Buffer.from(name)]));
}

function encodeString(text: string): Buffer {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.byteLength);
  return Buffer.concat([length, bytes]);
}

function stringAt(data: Buffer, at: number): { readonly text: string; readonly end: number } | undefined {
  if (data.byteLength < at + 4) return undefined;
  const end = at + 4 + data.readUInt32BE(at);
  if (data.byteLength < end) return undefined;
  const text = decodeName(data.subarray(at + 4, end));
  return text === undefined ? undefined : { text, end };
}

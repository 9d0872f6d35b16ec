/**
 * Second stage of an NBD connection, the client's half: requests.
 *
 *   request: u32 magic, u16 flags, u16 command, u64 cookie, u64 offset, u32 length [, length bytes if WRITE]
 *
 * The reader stops after each request's header, so that its owner can bound it before a byte of payload is given room (C7):
 * the owner then says where the payload goes, that it is thrown away, or that it took it from the chunk itself.
 *
 * Invariants:
 *  1. Pure: no I/O, no memory beyond one header. The same bytes give the same events however they are cut into chunks.
 *  2. A payload is copied straight into the buffer its owner handed in, taken by the owner where it lies, or counted away; never gathered elsewhere.
 *  3. After `malformed` the stream has no meaning any more; nothing else is reported.
 */
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import { command, commandFlag, requestMagic, wireBytes, type NbdErrorName } from './constants.ts';

export interface Request {
  readonly flags: number;
  readonly command: number;
  /** The client's name for the request; goes back unchanged. */
  readonly cookie: bigint;
  /** Bytes. Above 2⁵³ rounded, which is past the end of any disk. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

type RequestEvent =
  | { readonly kind: 'request'; readonly request: Request }
  /** The payload asked for by `payloadInto` is complete, or what `discardPayload` threw away has passed. */
  | { readonly kind: 'payload' }
  | { readonly kind: 'malformed'; readonly reason: string };

type Stage =
  | { readonly kind: 'header' }
  | { readonly kind: 'undecided'; readonly length: number }
  | { readonly kind: 'payload'; readonly into: Uint8Array; have: number }
  | { readonly kind: 'discard'; left: number }
  | { readonly kind: 'malformed' };

/** Cuts the client's half of the transmission into requests and their payloads. */
export class RequestReader {
  #stage: Stage = { kind: 'header' };
  readonly #header = Buffer.alloc(wireBytes.request);
  #have = 0;

  /** Consumes `chunk` from `at` up to the first event; `at` of the answer is where to go on. No event: all was consumed. */
  next(chunk: Buffer, at: number): { readonly at: number; readonly event?: RequestEvent } {
    const stage = this.#stage;
    const there = chunk.byteLength - at;
    switch (stage.kind) {
      case 'header': {
        if (this.#have === 0 && there >= wireBytes.request)
          return { at: at + wireBytes.request, event: this.#completeHeader(chunk, at) };
        const step = Math.min(wireBytes.request - this.#have, there);
        chunk.copy(this.#header, this.#have, at, at + step);
        this.#have += step;
        if (this.#have < wireBytes.request) return { at: at + step };
        this.#have = 0;
        return { at: at + step, event: this.#completeHeader(this.#header, 0) };
      }
      case 'payload': {
        const step = Math.min(stage.into.byteLength - stage.have, there);
        stage.into.set(chunk.subarray(at, at + step), stage.have);
        stage.have += step;
        return this.#afterPayload(at + step, stage.have === stage.into.byteLength);
      }
      case 'discard': {
        const step = Math.min(stage.left, there);
        stage.left -= step;
        return this.#afterPayload(at + step, stage.left === 0);
      }
      case 'undecided':
        invariant(false, 'a write is decided on before its payload is read');
        break;
      case 'malformed':
        break;
    }
    return { at: chunk.byteLength };
  }

  /** Where the payload of the WRITE just reported goes; exactly its length. The buffer is the caller's again at the `payload` event. */
  payloadInto(into: Uint8Array): void {
    invariant(
      this.#stage.kind === 'undecided' && this.#stage.length === into.byteLength,
      'a write waits for this buffer',
    );
    this.#stage = { kind: 'payload', into, have: 0 };
  }

  /** The owner found the payload of the WRITE just reported whole in its chunk, and took it from there: the next header follows behind it. */
  payloadTaken(): void {
    invariant(this.#stage.kind === 'undecided', 'a write waits to be decided on');
    this.#stage = { kind: 'header' };
  }

  /** Lets the payload of the WRITE just reported pass unread. */
  discardPayload(): void {
    invariant(this.#stage.kind === 'undecided', 'a write waits to be decided on');
    this.#stage = { kind: 'discard', left: this.#stage.length };
  }

  #completeHeader(bytes: Buffer, at: number): RequestEvent {
    const request = decodeRequest(bytes, at);
    if (!request) {
      this.#stage = { kind: 'malformed' };
      return { kind: 'malformed', reason: 'a request does not begin with its magic number' };
    }
    if (request.command === command.write) this.#stage = { kind: 'undecided', length: request.length };
    return { kind: 'request', request };
  }

  #afterPayload(at: number, complete: boolean): { readonly at: number; readonly event?: RequestEvent } {
    if (!complete) return { at };
    this.#stage = { kind: 'header' };
    return { at, event: { kind: 'payload' } };
  }
}

/** One request header of 28 bytes; undefined when its magic number is wrong. */
function decodeRequest(bytes: Buffer, at: number): Request | undefined {
  if (bytes.readUInt32BE(at) !== requestMagic) return undefined;
  return {
    flags: bytes.readUInt16BE(at + 4),
    command: bytes.readUInt16BE(at + 6),
    cookie: bytes.readBigUInt64BE(at + 8),
    offset: bytes.readUInt32BE(at + 16) * 2 ** 32 + bytes.readUInt32BE(at + 20),
    length: bytes.readUInt32BE(at + 24),
  };
}

export function encodeRequest(request: Request): Buffer {
  const bytes = Buffer.alloc(wireBytes.request);
  bytes.writeUInt32BE(requestMagic, 0);
  bytes.writeUInt16BE(request.flags, 4);
  bytes.writeUInt16BE(request.command, 6);
  bytes.writeBigUInt64BE(request.cookie, 8);
  bytes.writeBigUInt64BE(BigInt(request.offset), 16);
  bytes.writeUInt32BE(request.length, 24);
  return bytes;
}

/** What a request is measured against. */
export interface RequestBounds {
  /** Bytes of the disk. */
  readonly size: number;
  readonly readOnly: boolean;
  /** `base:allocation` was agreed on. */
  readonly allocation: boolean;
  /** Structured replies were agreed on. */
  readonly structured: boolean;
}

export interface Refusal {
  readonly error: NbdErrorName;
  readonly message: string;
}

const { fua, noHole, dontFragment, requireOne } = commandFlag;

/** Flags each command may carry; FUA is allowed on all, and means something only where bytes change. */
const flagsAllowed: Readonly<Record<number, number>> = {
  [command.read]: fua | dontFragment,
  [command.write]: fua,
  [command.disconnect]: fua,
  [command.flush]: fua,
  [command.trim]: fua,
  [command.writeZeroes]: fua | noHole,
  [command.blockStatus]: fua | requireOne,
};

/** The one gate where a request's meaning is checked; undefined when it may be carried out. */
export function refusalOf(request: Request, bounds: RequestBounds): Refusal | undefined {
  const allowed = flagsAllowed[request.command];
  if (allowed === undefined) return { error: 'EINVAL', message: `command ${request.command} is not known here` };
  if ((request.flags & ~allowed) !== 0) {
    return { error: 'EINVAL', message: `flags ${request.flags} do not fit command ${request.command}` };
  }
  if ((request.flags & dontFragment) !== 0 && !bounds.structured) {
    return { error: 'EINVAL', message: 'DF needs structured replies' };
  }
  switch (request.command) {
    case command.flush:
    case command.disconnect:
      return undefined;
    case command.read:
      if (request.length > limits.nbd.requestBytesMax) {
        return { error: 'EINVAL', message: `reads are at most ${limits.nbd.requestBytesMax} bytes` };
      }
      return outside(request, bounds, 'EINVAL');
    case command.blockStatus:
      if (!bounds.allocation) return { error: 'EINVAL', message: allocationNeeded };
      return outside(request, bounds, 'EINVAL');
    default:
      if (bounds.readOnly) return { error: 'EPERM', message: 'this export is read-only' };
      if (request.command === command.write && request.length > limits.nbd.requestBytesMax) {
        return { error: 'EINVAL', message: `writes are at most ${limits.nbd.requestBytesMax} bytes` };
      }
      return outside(request, bounds, request.command === command.trim ? 'EINVAL' : 'ENOSPC');
  }
}

const allocationNeeded = 'block status needs the context base:allocation, agreed on before';

function outside(request: Request, bounds: RequestBounds, error: NbdErrorName): Refusal | undefined {
  if (request.length === 0) return { error: 'EINVAL', message: 'the range is empty' };
  if (request.offset + request.length <= bounds.size) return undefined;
  return { error, message: `the range ends past the disk's ${bounds.size} bytes` };
}

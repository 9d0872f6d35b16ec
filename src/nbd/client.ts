/**
 * A small NBD client: fixed newstyle, OPT_GO, structured replies where the server has them, any number of requests in flight,
 * replies in any order. Connecting again is the caller's business.
 *
 *   connecting ──► open ──close()──► closing ──all answered──► ended
 *                    └── garbage, socket gone, destroy() ────► ended (everything in flight rejects with `closed`)
 *
 * Invariants:
 *  1. Every request's promise settles: with its reply, or with the reason the connection ended.
 *  2. A buffer handed to `write` is the client's until the promise settles.
 *  3. Data is accepted only for a READ in flight, and only inside its range; nothing the server says makes room (C7).
 */
import { connect as connectSocket, type Socket } from 'node:net';
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { Problem } from '../kit/problem.ts';
import type { Extent } from './backend.ts';
import { greet, type Greeted } from './client-handshake.ts';
import { chunkErrorBit, chunkKind, command, commandFlag, nbdError, transmissionFlag } from './constants.ts';
import { decodeBlockStatusBody, decodeErrorBody, decodeHoleBody, ReplyReader, type ReplyEvent } from './replies.ts';
import { encodeRequest } from './requests.ts';
import type { NbdAddress } from './server.ts';

interface NbdClientOptions {
  /** Default: the server's default export. */
  readonly exportName?: string;
  readonly clock: Clock;
}

interface Pending {
  readonly command: number;
  readonly offset: number;
  readonly into: Buffer | undefined;
  extents: readonly Extent[];
  failure: Problem | undefined;
  readonly resolve: (outcome: Pending) => void;
  readonly reject: (reason: Error) => void;
}

/** @throws Problem `unreachable`, `not-found` (no such export), `protocol-error`, `timeout`. */
export async function connectNbd(address: NbdAddress, options: NbdClientOptions): Promise<NbdClient> {
  const socket =
    'unixPath' in address
      ? connectSocket(address.unixPath)
      : connectSocket({ host: address.host, port: address.port, noDelay: true });
  const greeted = await greet(socket, options.exportName ?? '', options.clock);
  return new NbdClient(socket, greeted);
}

export class NbdClient {
  /** Bytes. */
  readonly size: number;
  /** Transmission flags as the server sent them. */
  readonly flags: number;
  readonly #socket: Socket;
  readonly #reader = new ReplyReader();
  readonly #pending = new Map<bigint, Pending>();
  readonly #allocation: boolean;
  /** The READ whose data is arriving, and whether its reply ends with it. */
  #receiving: { readonly cookie: bigint; readonly done: boolean } | undefined;
  #nextCookie = 1n;
  #corked = false;
  #closing: (() => void) | undefined;
  #ended: Problem | undefined;

  constructor(socket: Socket, greeted: Greeted) {
    this.#socket = socket;
    this.size = greeted.size;
    this.flags = greeted.flags;
    this.#allocation = greeted.allocation;
    socket.on('data', (chunk: Buffer) => this.#consume(chunk));
    socket.on('error', (error) => this.#end(closed(error.message)));
    socket.on('close', () => this.#end(closed('the server closed the connection')));
    if (greeted.rest.byteLength > 0) this.#consume(greeted.rest);
    if (socket.destroyed) this.#end(closed('the server closed the connection'));
    socket.resume();
  }

  get #isOver(): boolean {
    return this.#ended !== undefined;
  }

  get readOnly(): boolean {
    return (this.flags & transmissionFlag.readOnly) !== 0;
  }

  /** @throws Problem with the NBD error's name as code (`EIO`, `EINVAL`, …), or `closed`. The same for all requests. */
  async read(offset: number, length: number): Promise<Buffer> {
    const into = Buffer.allocUnsafe(length);
    await this.#request(command.read, 0, offset, length, { into });
    return into;
  }

  async write(data: Uint8Array, offset: number, options: { readonly fua?: boolean } = {}): Promise<void> {
    const flags = options.fua === true ? commandFlag.fua : 0;
    await this.#request(command.write, flags, offset, data.byteLength, { payload: data });
  }

  async flush(): Promise<void> {
    await this.#request(command.flush, 0, 0, 0, {});
  }

  async trim(offset: number, length: number, options: { readonly fua?: boolean } = {}): Promise<void> {
    await this.#request(command.trim, options.fua === true ? commandFlag.fua : 0, offset, length, {});
  }

  async zero(
    offset: number,
    length: number,
    options: { readonly fua?: boolean; readonly noHole?: boolean } = {},
  ): Promise<void> {
    const flags = (options.fua === true ? commandFlag.fua : 0) | (options.noHole === true ? commandFlag.noHole : 0);
    await this.#request(command.writeZeroes, flags, offset, length, {});
  }

  /** Extents from `offset`, at least one; may end before `offset + length`. Needs a server with `base:allocation`. */
  async blockStatus(
    offset: number,
    length: number,
    options: { readonly one?: boolean } = {},
  ): Promise<readonly Extent[]> {
    if (!this.#allocation) throw new Problem('ENOTSUP', 'this server does not tell block status');
    const flags = options.one === true ? commandFlag.requireOne : 0;
    const { extents } = await this.#request(command.blockStatus, flags, offset, length, {});
    return extents;
  }

  /** Waits for what is in flight, says good-bye, closes. Idempotent. */
  async close(): Promise<void> {
    if (this.#ended) return;
    if (this.#pending.size > 0) {
      await new Promise<void>((resolve) => {
        const earlier = this.#closing;
        this.#closing = (): void => {
          earlier?.();
          resolve();
        };
      });
    }
    if (this.#isOver) return;
    const gone = new Promise<void>((resolve) => this.#socket.once('close', () => resolve()));
    this.#end(closed('the connection was closed'));
    const goodBye = { flags: 0, command: command.disconnect, cookie: this.#nextCookie, offset: 0, length: 0 };
    this.#socket.write(encodeRequest(goodBye));
    this.#socket.destroySoon();
    await gone;
  }

  /** Drops the connection at once, as a killed client would. */
  destroy(): void {
    this.#end(closed('the connection was dropped'));
    this.#socket.destroy();
  }

  #request(
    code: number,
    flags: number,
    offset: number,
    length: number,
    data: { readonly into?: Buffer; readonly payload?: Uint8Array },
  ): Promise<Pending> {
    if (this.#ended) return Promise.reject(this.#ended);
    if (this.#closing) return Promise.reject(closed('the connection is closing'));
    const cookie = this.#nextCookie;
    this.#nextCookie += 1n;
    return new Promise((resolve, reject) => {
      const { into, payload } = data;
      this.#pending.set(cookie, { command: code, offset, into, extents: [], failure: undefined, resolve, reject });
      this.#cork();
      this.#socket.write(encodeRequest({ flags, command: code, cookie, offset, length }));
      if (payload && payload.byteLength > 0) this.#socket.write(payload);
    });
  }

  /** Requests made in one go leave in one system call. */
  #cork(): void {
    if (this.#corked) return;
    this.#corked = true;
    this.#socket.cork();
    process.nextTick(() => {
      this.#corked = false;
      this.#socket.uncork();
    });
  }

  #consume(chunk: Buffer): void {
    for (let at = 0; !this.#ended;) {
      const step = this.#reader.next(chunk, at);
      at = step.at;
      if (!step.event) return;
      const complaint = this.#take(step.event);
      if (complaint !== undefined) {
        this.#end(new Problem('protocol-error', `the NBD server broke the protocol: ${complaint}`));
        this.#socket.destroy();
      }
    }
  }

  /** Takes one event; the answer says what is wrong with it, if anything. */
  #take(event: ReplyEvent): string | undefined {
    if (event.kind === 'malformed') return event.reason;
    if (event.kind === 'data-complete') {
      const receiving = this.#receiving;
      invariant(receiving, 'data is received for a request');
      this.#receiving = undefined;
      if (receiving.done) this.#settle(receiving.cookie);
      return undefined;
    }
    const pending = this.#pending.get(event.cookie);
    if (!pending) return 'a reply to no request';
    switch (event.kind) {
      case 'simple':
        if (event.error !== 0) pending.failure = failureOf(event.error, '');
        else if (pending.into) {
          this.#receive(event.cookie, true, pending.into);
          return;
        }
        this.#settle(event.cookie);
        return undefined;
      case 'data': {
        const from = event.offset - pending.offset;
        if (!pending.into || from < 0 || from + event.length > pending.into.byteLength) return 'data nobody asked for';
        this.#receive(event.cookie, event.done, pending.into.subarray(from, from + event.length));
        return;
      }
      case 'chunk': {
        const complaint = takeChunk(pending, event.chunk, event.body);
        if (complaint === undefined && event.done) this.#settle(event.cookie);
        return complaint;
      }
    }
  }

  #receive(cookie: bigint, done: boolean, into: Buffer): undefined {
    this.#receiving = { cookie, done };
    this.#reader.dataInto(into);
  }

  #settle(cookie: bigint): void {
    const pending = this.#pending.get(cookie);
    invariant(pending, 'a reply belongs to a request');
    this.#pending.delete(cookie);
    if (pending.failure) pending.reject(pending.failure);
    else pending.resolve(pending);
    if (this.#pending.size === 0) this.#closing?.();
  }

  /** Idempotent. Rejects everything in flight (invariant 1). */
  #end(reason: Problem): void {
    if (this.#ended) return;
    this.#ended = reason;
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const one of pending) one.reject(reason);
    this.#closing?.();
  }
}

function takeChunk(pending: Pending, kind: number, body: Buffer): string | undefined {
  if ((kind & chunkErrorBit) !== 0) {
    const error = decodeErrorBody(body);
    if (!error) return 'an error chunk whose lengths do not add up';
    pending.failure ??= failureOf(error.error, error.message);
    return undefined;
  }
  switch (kind) {
    case chunkKind.none:
      return undefined;
    case chunkKind.offsetHole: {
      const hole = decodeHoleBody(body);
      const from = hole ? hole.offset - pending.offset : -1;
      if (!hole || !pending.into || from < 0 || from + hole.length > pending.into.byteLength)
        return 'a hole nobody asked for';
      pending.into.fill(0, from, from + hole.length);
      return undefined;
    }
    case chunkKind.blockStatus: {
      const extents = decodeBlockStatusBody(body);
      if (!extents || pending.command !== command.blockStatus) return 'a block status nobody asked for';
      pending.extents = extents;
      return undefined;
    }
    default:
      return `a chunk of unknown kind ${kind}`;
  }
}

const errorNames = new Map<number, string>(Object.entries(nbdError).map(([name, code]) => [code, name]));

function failureOf(error: number, message: string): Problem {
  // The protocol says: an error nobody knows is EINVAL.
  const name = errorNames.get(error) ?? 'EINVAL';
  return new Problem(name, message === '' ? `the NBD server answered ${name}` : message);
}

function closed(message: string): Problem {
  return new Problem('closed', `NBD connection: ${message}`, { retryable: true });
}

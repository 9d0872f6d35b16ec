/**
 * `Connection` over a socket on which a WebSocket was opened (`handshake.ts`), the same for both sides: frames in and out by RFC 6455,
 * ping answered, closed in good order. The handshakes are `server.ts` and `client.ts`; here is only the life after them.
 *
 *   open ──our close, or the peer broke a rule──► closing ──peer's close frame, end, or deadline──► ended
 *     └────peer's close frame, end, error──────────┘
 *
 *  1. One state: open → closing → ended. Whoever moves it from open names the cause; the socket's 'close' ends it.
 *  2. Nothing is read until `onFrame` was called: the socket is paused from the first moment, so what came early waits in the
 *     socket's and the kernel's buffers, which are bounded, and not in a queue here.
 *  3. A send in flight is settled by the socket's callback or by the end, whichever is first. (Sockets do call back when they
 *     are destroyed; that a caller never waits for a connection that is gone shall not depend on it.)
 *  4. From open on the way out the socket is read on (and what comes is dropped) so that the peer's close frame is seen; if the end
 *     does not come in `limits.wire.closeMs`, the socket is destroyed. A half-open peer can not keep a connection alive.
 *  5. What TLS read is copied once, to where the receiver wants it, and its memory given back in the same turn: fresh memory for
 *     each read, left to the collector, was half of what receiving cost.
 *  6. At most one pong waits for the socket: a peer that asks faster than it reads is answered for its newest ping only (§5.5.3).
 */
import type { Socket } from 'node:net';
import type { Clock, Timer } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { release } from '../kit/release.ts';
import { limits } from '../limits.ts';
import { frameRoomBytes } from '../wire/frame.ts';
import { closeCodes } from './connection.ts';
import type { Closed, Connection, PeerIdentity, SendOptions, TakeMemory } from './connection.ts';
import { closePayload, headerBytesOf, isCloseCode, opcodes, writeHeader } from './websocket-header.ts';
import { WebSocketReader } from './websocket-reader.ts';

type State =
  | { readonly kind: 'open' }
  | { readonly kind: 'closing'; readonly cause: Closed; readonly deadline: Timer }
  | { readonly kind: 'ended'; readonly cause: Closed };

/**
 * What a TLS record carries at most (RFC 8446 §5.1). Of a frame without room before it so much is copied behind its header, and the rest
 * goes as it is: two writes, and no record more than the bytes need. (Corking them would copy everything, in TLS's own code.)
 */
const recordBytes = 16_384;

export interface WsConnectionOptions {
  /** The TLS socket, taken over from `ws` in this turn. */
  readonly socket: Socket;
  readonly side: 'client' | 'server';
  readonly peer: PeerIdentity;
  readonly clock: Clock;
}

export class WsConnection implements Connection {
  readonly peer: PeerIdentity;
  readonly remote: string;
  readonly closed: Promise<Closed>;
  /** Resolves with the first frame. */
  readonly heard: Promise<void>;
  readonly #socket: Socket;
  readonly #clock: Clock;
  /** A client masks, a server does not. */
  readonly #masks: boolean;
  readonly #reader: WebSocketReader;
  readonly #resolveClosed: (closed: Closed) => void;
  readonly #sending = new Set<(error: Problem) => void>();
  #state: State = { kind: 'open' };
  #handler: ((frame: Buffer) => void) | undefined;
  #take: TakeMemory = (bytes) => Buffer.allocUnsafe(bytes);
  #bytesMax = (): number => limits.wire.frameBytesMax;
  #paused = false;
  /** What the peer's newest ping said, until the answer went out. */
  #pong: Buffer | undefined;

  constructor({ socket, side, peer, clock }: WsConnectionOptions) {
    this.#socket = socket;
    this.#clock = clock;
    this.peer = peer;
    this.remote = remoteOf(socket);
    const closed = Promise.withResolvers<Closed>();
    this.closed = closed.promise;
    this.#resolveClosed = closed.resolve;
    const heard = Promise.withResolvers<undefined>();
    this.heard = heard.promise;
    this.#masks = side === 'client';
    this.#reader = new WebSocketReader(side === 'server', {
      take: (bytes) => this.#take(bytes),
      bytesMax: () => this.#bytesMax(),
      message: (frame) => {
        heard.resolve(undefined);
        this.#handler?.(frame);
      },
      ping: (payload) => this.#onPing(payload),
      close: (code, reason) => this.#onClose(code, reason),
      refused: (code, reason) => this.#refuse(code, reason),
    });
    socket.pause(); // 2
    socket.setNoDelay(true);
    socket.setKeepAlive(true, limits.wire.keepAliveMs);
    socket.on('data', (chunk: Buffer) => {
      this.#reader.push(chunk);
      release(chunk); // 5
    });
    socket.on('error', (error) => this.#leave({ by: 'error', code: closeCodes.broken, reason: messageOf(error) }));
    socket.on('end', () => {
      this.#leave(lost);
      socket.end();
    });
    socket.on('close', () => this.#end());
  }

  get paused(): boolean {
    return this.#paused;
  }

  get bytesIn(): number {
    return this.#socket.bytesRead;
  }

  get bytesOut(): number {
    return this.#socket.bytesWritten;
  }

  send(frame: Uint8Array, { room = false }: SendOptions = {}): Promise<void> {
    const { byteLength, byteOffset } = frame;
    invariant(byteLength > 0 && byteLength <= limits.wire.frameBytesMax, 'a frame has a length within the limit');
    invariant(!room || byteOffset >= frameRoomBytes, 'a frame that leaves room has it');
    if (this.#state.kind !== 'open') return Promise.reject(closedProblem(this.#state.cause));
    return new Promise((resolve, reject) => {
      this.#sending.add(reject);
      const done = (error?: Error | null): void => {
        this.#sending.delete(reject);
        if (error) reject(closedProblem(this.#causeOr(error)));
        else resolve();
      };
      if (room) this.#writeInPlace(frame, done);
      else this.#write(opcodes.binary, frame, done);
    });
  }

  onFrame(handler: (frame: Buffer) => void, take?: TakeMemory, bytesMax?: () => number): void {
    invariant(!this.#handler, 'onFrame is called once');
    this.#handler = handler;
    if (take) this.#take = take;
    if (bytesMax) this.#bytesMax = bytesMax;
    if (!this.#paused) this.#socket.resume();
  }

  pause(): void {
    this.#paused = true;
    if (this.#state.kind === 'open') this.#socket.pause();
  }

  resume(): void {
    this.#paused = false;
    if (this.#handler) this.#socket.resume();
  }

  close(code: number, reason: string): void {
    invariant(isCloseCode(code), 'a close frame can carry the code');
    const by = code === closeCodes.deadline ? 'deadline' : 'us';
    if (this.#leave({ by, code, reason })) this.#write(opcodes.close, closePayload(code, reason));
  }

  /** Into the room before it (`SendOptions.room`): one write, no copy. */
  #writeInPlace(frame: Uint8Array, done: (error?: Error | null) => void): void {
    const header = headerBytesOf(frame.byteLength, this.#masks);
    const all = new Uint8Array(frame.buffer, frame.byteOffset - header, header + frame.byteLength);
    writeHeader(all, opcodes.binary, frame.byteLength, this.#masks);
    this.#socket.write(all, done);
  }

  #write(opcode: number, payload: Uint8Array, done?: (error?: Error | null) => void): void {
    const header = headerBytesOf(payload.byteLength, this.#masks);
    const copied = Math.min(payload.byteLength, recordBytes - header);
    const first = Buffer.allocUnsafe(header + copied);
    writeHeader(first, opcode, payload.byteLength, this.#masks);
    first.set(payload.subarray(0, copied), header);
    if (copied === payload.byteLength) this.#socket.write(first, done);
    else {
      this.#socket.write(first);
      this.#socket.write(payload.subarray(copied), done);
    }
  }

  #onPing(payload: Buffer): void {
    if (this.#state.kind !== 'open') return;
    const waits = this.#pong !== undefined; // 6
    this.#pong = payload;
    if (!waits) this.#sendPong(payload);
  }

  #sendPong(payload: Buffer): void {
    this.#write(opcodes.pong, payload, () => {
      const newest = this.#pong;
      if (newest === payload || !newest || this.#state.kind !== 'open') this.#pong = undefined;
      else this.#sendPong(newest);
    });
  }

  #onClose(code: number, reason: string): void {
    if (this.#leave({ by: 'peer', code, reason })) {
      const answer = code === closeCodes.none ? new Uint8Array(0) : closePayload(code, '');
      this.#write(opcodes.close, answer);
    }
    this.#socket.end();
  }

  #refuse(code: number, reason: string): void {
    // Text breaks no rule of RFC 6455: it is us who do not take it.
    const by = code === closeCodes.binaryOnly ? 'us' : 'error';
    if (this.#leave({ by, code, reason })) this.#write(opcodes.close, closePayload(code, reason));
    this.#socket.end();
  }

  /** Invariants 1 and 4; false if someone else was first. */
  #leave(cause: Closed): boolean {
    if (this.#state.kind !== 'open') return false;
    const deadline = this.#clock.after(limits.wire.closeMs, () => this.#socket.destroy());
    this.#state = { kind: 'closing', cause, deadline };
    this.#reader.discard();
    this.#socket.resume();
    return true;
  }

  #end(): void {
    if (this.#state.kind === 'ended') return;
    const cause = this.#state.kind === 'closing' ? this.#state.cause : lost;
    if (this.#state.kind === 'closing') this.#state.deadline.cancel();
    this.#state = { kind: 'ended', cause };
    for (const reject of this.#sending) reject(closedProblem(cause)); // 3
    this.#sending.clear();
    this.#resolveClosed(cause);
  }

  #causeOr(error: Error): Closed {
    return this.#state.kind === 'open'
      ? { by: 'error', code: closeCodes.broken, reason: messageOf(error) }
      : this.#state.cause;
  }
}

const lost: Closed = { by: 'error', code: closeCodes.broken, reason: 'the connection was lost' };

/** `address:port` of the other end of a socket. */
export function remoteOf(socket: Socket): string {
  const address = socket.remoteAddress ?? 'unknown';
  return `${address.includes(':') ? `[${address}]` : address}:${socket.remotePort ?? 0}`;
}

function closedProblem(cause: Closed): Problem {
  return new Problem('closed', `the connection is closed (${cause.by}, ${cause.code}): ${cause.reason}`, {
    retryable: true,
  });
}

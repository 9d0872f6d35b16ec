/**
 * One client's connection to the NBD server: the socket, the state, the bounds.
 *
 *   handshake ──agreed──► transmission ──DISC, end of stream, server closes──► draining ──all answered──► ended
 *    │ ▲  └───────────────────┴────── garbage, deadline, socket gone ───────────────┴────────────────────► ended
 *    ▼ │ STARTTLS
 *   securing ──── not TLS, no certificate of ours, deadline ──────────────────────────────────────────────► ended
 *
 * Invariants:
 *  1. At most `inFlightRequestsMax` requests and `inFlightBytesMax` bytes of their data are in flight. A request is in flight from
 *     its header until its reply has left this process, so neither a slow disk nor a client that does not read can pile
 *     anything up: the socket is not read any further (C5).
 *  2. No room is made for data before the request was measured against the disk and the bounds (C7).
 *  3. A buffer goes back to the pool once, after the backend and the socket have both done with it.
 *  4. Every request taken on is answered, in whatever order the backend finishes, unless the socket is gone.
 *  5. `#end` is the only way to `ended`, and idempotent.
 *  6. Nothing that came in the clear is taken for something said under TLS. One deadline covers the handshakes of both.
 */
import type { Socket } from 'node:net';
import type { Clock, Timer } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { release } from '../kit/release.ts';
import { limits } from '../limits.ts';
import { tryAtOnce } from './at-once.ts';
import type { BufferPool } from './buffer-pool.ts';
import { command } from './constants.ts';
import { encodeGreeting, Negotiation, type Agreement, type Exports } from './negotiation.ts';
import { HandshakeReader, type HandshakeEvent } from './options.ts';
import { Outbox } from './outbox.ts';
import { refusalOf, RequestReader, type Refusal, type Request, type RequestBounds } from './requests.ts';
import { carryOut, encodeResult, type Result } from './serving.ts';
import { beginTls, type NbdTls } from './tls.ts';

/** Where the server says what happened; fits the product's logger. */
export interface NbdLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

interface SessionOptions {
  readonly socket: Socket;
  readonly exports: Exports;
  readonly clock: Clock;
  readonly pool: BufferPool;
  /** Bytes; at least the largest request. */
  readonly inFlightBytesMax: number;
  readonly logger?: NbdLogger;
  /** Required of the client when it is given. */
  readonly tls?: NbdTls;
  /** Called once, when the connection is over and its last request has ended. */
  readonly onEnded: () => void;
}

/** A WRITE whose payload is arriving: into a buffer of the pool, or nowhere, because it was refused. */
type Incoming =
  | { readonly kind: 'payload'; readonly request: Request; readonly buffer: Buffer }
  | { readonly kind: 'refused'; readonly request: Request; readonly refusal: Refusal };

interface Transmission {
  readonly kind: 'transmission';
  readonly reader: RequestReader;
  readonly agreement: Agreement;
  readonly bounds: RequestBounds;
  incoming: Incoming | undefined;
  /** A request that waits for room (invariant 1), and the bytes behind it. */
  held: { readonly request: Request; readonly chunk: Buffer; readonly at: number } | undefined;
}

interface Handshake {
  /** `securing`: between STARTTLS and the end of TLS's own handshake. */
  readonly kind: 'handshake' | 'securing';
  readonly reader: HandshakeReader;
  readonly negotiation: Negotiation;
  readonly deadline: Timer;
}

type State = Handshake | Transmission | { readonly kind: 'draining' } | { readonly kind: 'ended' };

/** A chunk of at least this many bytes is released at once, instead of by the next garbage collection. */
const releaseBytesMin = 16 * 1024;

export class Session {
  readonly #options: SessionOptions;
  #socket: Socket;
  #outbox: Outbox;
  #state: State;
  #requestsInFlight = 0;
  #bytesInFlight = 0;
  #reported = false;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#socket = options.socket;
    this.#outbox = this.#outboxOf(options.socket);
    const deadline = options.clock.after(limits.nbd.handshakeMs, () => this.#end('no handshake in time'));
    const negotiation = new Negotiation(options.exports, options.tls ? 'required' : 'off');
    this.#state = { kind: 'handshake', reader: new HandshakeReader(), negotiation, deadline };
    this.#hear();
    this.#socket.write(encodeGreeting());
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#consume(chunk, 0);
    this.#outbox.flushPrompt();
  };
  readonly #onEnd = (): void => this.drain('the client closed');

  #hear(): void {
    this.#socket.on('data', this.#onData);
    this.#socket.on('end', this.#onEnd);
    this.#socket.on('error', (error) => this.#end(error.message));
    this.#socket.on('close', () => this.#end('the connection is gone'));
  }

  /** Takes no further requests, answers those in flight, then ends. */
  drain(reason: string): void {
    const state = this.#state;
    if (state.kind === 'handshake' || state.kind === 'securing') {
      this.#end(reason);
      return;
    }
    if (state.kind !== 'transmission') return;
    this.#leaveTransmission(state);
    this.#state = { kind: 'draining' };
    this.#socket.pause();
    this.#endIfDrained();
  }

  /** Ends at once; requests in flight run to their end, unanswered, and what the client did not take is lost. */
  destroy(reason: string): void {
    this.#end(reason);
    this.#socket.destroy();
  }

  #consume(chunk: Buffer, from: number): void {
    let at = from;
    for (;;) {
      const state = this.#state;
      if (state.kind === 'handshake') {
        const step = state.reader.next(chunk, at);
        at = step.at;
        if (!step.event) break;
        this.#handshake(state, step.event, chunk.byteLength - at);
      } else if (state.kind === 'transmission') {
        const step = state.reader.next(chunk, at);
        at = step.at;
        if (!step.event) break;
        if (step.event.kind === 'malformed') {
          this.#end(step.event.reason);
          return;
        }
        if (step.event.kind === 'payload') this.#payloadComplete(state);
        else {
          const { request } = step.event;
          const next = this.#admit(state, request, chunk, at);
          if (next === undefined) {
            state.held = { request, chunk, at };
            this.#socket.pause();
            return;
          }
          at = next;
        }
      } else return;
    }
    // Everything of it was copied on.
    if (chunk.byteLength >= releaseBytesMin) release(chunk);
  }

  /** `behind`: bytes of the client that came with the event, after it. */
  #handshake(state: Handshake, event: HandshakeEvent, behind: number): void {
    const outcome = state.negotiation.answer(event);
    if (outcome.kind === 'start-tls' && behind > 0) {
      this.#end('the client went on in the clear after STARTTLS');
      return;
    }
    if (outcome.replies.length > 0) this.#socket.write(Buffer.concat(outcome.replies));
    if (outcome.kind === 'end') {
      this.#end(outcome.reason);
      return;
    }
    if (outcome.kind === 'start-tls') this.#secure(state);
    if (outcome.kind !== 'agreed') return;
    state.deadline.cancel();
    const { agreement } = outcome;
    this.#state = {
      kind: 'transmission',
      reader: new RequestReader(),
      agreement,
      bounds: { ...agreement, size: agreement.backend.size, readOnly: agreement.backend.readOnly },
      incoming: undefined,
      held: undefined,
    };
    this.#options.logger?.info({ export: agreement.exportName }, 'NBD client connected');
  }

  /** Invariant 6: what the socket still holds, and all that follows, is for TLS to understand. */
  #secure({ reader, negotiation, deadline }: Handshake): void {
    const { tls, logger } = this.#options;
    invariant(tls, 'STARTTLS is agreed to where there is TLS');
    const socket = this.#socket;
    this.#state = { kind: 'securing', reader, negotiation, deadline };
    socket.pause();
    socket.off('data', this.#onData);
    socket.off('end', this.#onEnd);
    beginTls(socket, tls, {
      secured: (secured) => {
        this.#socket = secured;
        this.#outbox = this.#outboxOf(secured);
        this.#hear();
        if (this.#state.kind === 'securing') this.#state = { kind: 'handshake', reader, negotiation, deadline };
        else secured.destroy();
      },
      failed: (reason) => {
        logger?.warn({ reason }, 'NBD client refused by TLS');
        this.#end(reason);
      },
    });
  }

  /**
   * Measures a request, which ends at `at` of `chunk`, and takes it on; undefined when there is no room for it now (invariants 1 and 2). Else
   * where to go on: behind its payload, if that is done with.
   */
  #admit(state: Transmission, request: Request, chunk: Buffer, at: number): number | undefined {
    const { agreement, reader } = state;
    if (request.command === command.disconnect) {
      this.drain('the client said good-bye');
      return at;
    }
    const refusal = refusalOf(request, state.bounds);
    const carriesData = request.command === command.read || request.command === command.write;
    const bytes = carriesData && !refusal ? request.length : 0;
    if (this.#requestsInFlight >= limits.nbd.inFlightRequestsMax) return undefined;
    if (this.#bytesInFlight + bytes > this.#options.inFlightBytesMax) return undefined;
    this.#requestsInFlight += 1;
    this.#bytesInFlight += bytes;
    if (refusal) {
      if (request.command === command.write) {
        reader.discardPayload();
        state.incoming = { kind: 'refused', request, refusal };
      } else this.#answer(agreement, request, { kind: 'failed', refusal, internal: false }, 0);
    } else if (request.command === command.write) {
      const end = at + bytes;
      if (end <= chunk.byteLength && this.#atOnce(agreement, request, bytes, chunk.subarray(at, end))) {
        reader.payloadTaken();
        return end;
      }
      const buffer = this.#options.pool.take(bytes);
      reader.payloadInto(buffer);
      state.incoming = { kind: 'payload', request, buffer };
    } else if (!this.#atOnce(agreement, request, bytes)) {
      this.#start(agreement, request, bytes > 0 ? this.#options.pool.take(bytes) : undefined);
    }
    return at;
  }

  #payloadComplete(state: Transmission): void {
    const { incoming, agreement } = state;
    invariant(incoming, 'a payload belongs to a write');
    state.incoming = undefined;
    const { request } = incoming;
    if (incoming.kind === 'refused')
      this.#answer(agreement, request, { kind: 'failed', refusal: incoming.refusal, internal: false }, 0);
    else if (this.#atOnce(agreement, request, request.length, incoming.buffer))
      this.#options.pool.give(incoming.buffer);
    else this.#start(agreement, request, incoming.buffer);
  }

  /** Whether it was answered in this very call; `bytes` are counted for it. */
  #atOnce(agreement: Agreement, request: Request, bytes: number, payload?: Uint8Array): boolean {
    const outcome = tryAtOnce(agreement, request, payload, this.#outbox);
    if (outcome === 'later') return false;
    if (outcome !== 'answered') this.#answer(agreement, request, outcome, bytes);
    return true;
  }

  #start(agreement: Agreement, request: Request, buffer: Buffer | undefined): void {
    void carryOut(agreement.backend, request, buffer).then((result) =>
      this.#answer(agreement, request, result, buffer?.byteLength ?? 0, buffer),
    );
  }

  /** `bytes` are counted for the request until its reply has left; `buffer` is its room in the pool, if it has one. */
  #answer(agreement: Agreement, request: Request, result: Result, bytes: number, buffer?: Buffer): void {
    if (result.kind === 'failed' && result.internal) {
      const { message } = result.refusal;
      this.#options.logger?.warn(
        { export: agreement.exportName, command: request.command, message },
        'NBD backend failed',
      );
    }
    const isOver = this.#state.kind === 'ended';
    // A write's payload is free as soon as the backend is done; a read's must reach the socket first.
    const lent = result.kind === 'data' && !isOver ? buffer : undefined;
    if (buffer && !lent) this.#options.pool.give(buffer);
    if (isOver) this.#settle(1, bytes);
    else this.#outbox.add(encodeResult(agreement, request, result), bytes, lent);
  }

  #outboxOf(socket: Socket): Outbox {
    const { clock, pool } = this.#options;
    return new Outbox(socket, clock, pool, (replies, bytes) => this.#settle(replies, bytes));
  }

  /** Requests are over: their replies have left, or nobody wants them any more. */
  #settle(requests: number, bytes: number): void {
    this.#requestsInFlight -= requests;
    this.#bytesInFlight -= bytes;
    const state = this.#state;
    if (state.kind === 'draining') this.#endIfDrained();
    else if (state.kind === 'ended') this.#reportEnded();
    else if (state.kind === 'transmission' && state.held) this.#goOn(state, state.held);
  }

  #goOn(state: Transmission, held: NonNullable<Transmission['held']>): void {
    const at = this.#admit(state, held.request, held.chunk, held.at);
    if (at === undefined) return;
    state.held = undefined;
    this.#consume(held.chunk, at);
    this.#outbox.flushPrompt();
    if (this.#state.kind === 'transmission' && !this.#state.held) this.#socket.resume();
  }

  #leaveTransmission(state: Transmission): void {
    const { incoming } = state;
    state.held = undefined;
    state.incoming = undefined;
    if (!incoming) return;
    // Half a payload is no write (nothing of it reaches the disk).
    const buffer = incoming.kind === 'payload' ? incoming.buffer : undefined;
    if (buffer) this.#options.pool.give(buffer);
    this.#requestsInFlight -= 1;
    this.#bytesInFlight -= buffer?.byteLength ?? 0;
  }

  #endIfDrained(): void {
    if (this.#requestsInFlight === 0) this.#end('done');
  }

  /** Invariant 5. What was written before still goes out, if the peer takes it in time. */
  #end(reason: string): void {
    const state = this.#state;
    if (state.kind === 'ended') return;
    if (state.kind === 'handshake' || state.kind === 'securing') state.deadline.cancel();
    if (state.kind === 'transmission') this.#leaveTransmission(state);
    this.#state = { kind: 'ended' };
    this.#options.logger?.info({ reason, during: state.kind }, 'NBD connection ended');
    this.#outbox.flush();
    if (state.kind === 'securing') this.#socket.destroy();
    else this.#socket.destroySoon();
    if (!this.#socket.destroyed) {
      const deadline = this.#options.clock.after(limits.nbd.closeMs, () => this.#socket.destroy());
      this.#socket.once('close', () => deadline.cancel());
    }
    this.#reportEnded();
  }

  #reportEnded(): void {
    if (this.#reported || this.#requestsInFlight > 0) return;
    this.#reported = true;
    this.#options.onEnded();
  }
}

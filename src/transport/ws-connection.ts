/**
 * `Connection` over a `ws` WebSocket that is already open, the same for both sides. The handshakes are `server.ts` and
 * `client.ts`; here is only the life after them.
 *
 *  1. One state: open → closing → ended. Whoever moves it from open names the cause; `ws` 'close' ends it.
 *  2. Nothing is read until `onFrame` was called: the socket is paused from the first moment, so what came early waits in the
 *     socket's and the kernel's buffers, which are bounded, and not in a queue here.
 *  3. A send in flight is settled by the socket's callback or by the end, whichever is first. (Sockets do call back when they
 *     are destroyed; that a caller never waits for a connection that is gone shall not depend on it.)
 *  4. After our close the socket is read on (and what comes is dropped) so that the peer's close frame is seen; if it does not
 *     come in `limits.wire.closeMs`, `ws` destroys the socket. A half-open peer can not keep a connection alive.
 */
import type { Socket } from 'node:net';
import type { WebSocket } from 'ws';
import { invariant } from '../kit/invariant.ts';
import { messageOf, Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { closeCodes, frameRoomBytes } from './connection.ts';
import type { Closed, Connection, PeerIdentity, SendOptions, TakeMemory } from './connection.ts';

type State =
  | { readonly kind: 'open' }
  | { readonly kind: 'closing'; readonly cause: Closed }
  | { readonly kind: 'ended'; readonly cause: Closed };

/** RFC 6455 §5.5: a control frame carries 125 bytes, two are the code. */
const reasonBytesMax = 123;

/** What `ws` answers the peer with when its receiver refuses something. */
const codeOfReceiverError: Readonly<Record<string, number>> = {
  WS_ERR_UNSUPPORTED_MESSAGE_LENGTH: closeCodes.tooBig,
  WS_ERR_UNSUPPORTED_DATA_PAYLOAD_LENGTH: closeCodes.tooBig,
  WS_ERR_TOO_MANY_BUFFERED_PARTS: closeCodes.policy,
};

/** The `ws` options both sides share. Its defaults (100 MiB messages, 16,384 fragments, compression) are dangerous here. */
export const webSocketLimits = {
  perMessageDeflate: false,
  maxPayload: limits.wire.frameBytesMax,
  maxFragments: limits.wire.fragmentsMax,
  maxBufferedChunks: limits.wire.chunksMax,
  closeTimeout: limits.wire.closeMs,
  // Text is refused as such, so nobody needs to know whether it is UTF-8.
  skipUTF8Validation: true,
} as const;

export class WsConnection implements Connection {
  readonly peer: PeerIdentity;
  readonly remote: string;
  readonly closed: Promise<Closed>;
  readonly #ws: WebSocket;
  readonly #socket: Socket;
  readonly #resolveClosed: (closed: Closed) => void;
  readonly #sending = new Set<(error: Problem) => void>();
  #state: State = { kind: 'open' };
  #handler: ((frame: Buffer) => void) | undefined;
  #take: TakeMemory | undefined;
  #paused = false;

  /** Takes over `ws`, which must be open, and `socket`, the TLS socket under it, in the turn in which it opened. */
  constructor(ws: WebSocket, socket: Socket, peer: PeerIdentity) {
    this.#ws = ws;
    this.#socket = socket;
    this.peer = peer;
    this.remote = remoteOf(socket);
    const { promise, resolve } = Promise.withResolvers<Closed>();
    this.closed = promise;
    this.#resolveClosed = resolve;
    socket.setKeepAlive(true, limits.wire.keepAliveMs);
    ws.on('error', (error) => this.#leave(causeOfError(error)));
    ws.on('close', (code, reason) => this.#end(code, reason.toString()));
    ws.on('message', (data, isBinary) => {
      if (this.#state.kind !== 'open') return;
      if (!isBinary) this.close(closeCodes.binaryOnly, 'frames are binary messages');
      else if (Buffer.isBuffer(data)) this.#deliver(data);
    });
    ws.pause(); // 2
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
      this.#ws.send(frame, { binary: true }, (error) => {
        this.#sending.delete(reject);
        if (error) reject(closedProblem(causeOfError(error)));
        else resolve();
      });
    });
  }

  onFrame(handler: (frame: Buffer) => void, take?: TakeMemory): void {
    invariant(!this.#handler, 'onFrame is called once');
    this.#handler = handler;
    this.#take = take;
    if (!this.#paused) this.#ws.resume();
  }

  pause(): void {
    this.#paused = true;
    if (this.#state.kind === 'open') this.#ws.pause();
  }

  resume(): void {
    this.#paused = false;
    if (this.#state.kind === 'open' && this.#handler) this.#ws.resume();
  }

  close(code: number, reason: string): void {
    const by = code === closeCodes.deadline ? 'deadline' : 'us';
    if (!this.#leave({ by, code, reason })) return;
    this.#ws.close(code, clip(reason));
    this.#ws.resume(); // 4
  }

  #deliver(data: Buffer): void {
    if (!this.#take || data.byteLength === 0) {
      this.#handler?.(data);
      return;
    }
    const frame = this.#take(data.byteLength);
    data.copy(frame);
    this.#handler?.(frame);
  }

  /** Invariant 1: false if someone else was first. */
  #leave(cause: Closed): boolean {
    if (this.#state.kind !== 'open') return false;
    this.#state = { kind: 'closing', cause };
    return true;
  }

  #end(code: number, reason: string): void {
    if (this.#state.kind === 'ended') return;
    const cause: Closed =
      this.#state.kind === 'closing'
        ? this.#state.cause
        : code === closeCodes.broken
          ? { by: 'error', code, reason: 'the connection was lost' }
          : { by: 'peer', code, reason };
    this.#state = { kind: 'ended', cause };
    for (const reject of this.#sending) reject(closedProblem(cause)); // 3
    this.#sending.clear();
    this.#resolveClosed(cause);
  }
}

/** `address:port` of the other end of a socket. */
export function remoteOf(socket: Socket): string {
  const address = socket.remoteAddress ?? 'unknown';
  return `${address.includes(':') ? `[${address}]` : address}:${socket.remotePort ?? 0}`;
}

function causeOfError(error: Error): Closed {
  const systemName = systemCode(error) ?? '';
  const receiver = systemName.startsWith('WS_ERR_');
  const code = codeOfReceiverError[systemName] ?? (receiver ? closeCodes.protocol : closeCodes.broken);
  return { by: 'error', code, reason: messageOf(error) };
}

function closedProblem(cause: Closed): Problem {
  return new Problem('closed', `the connection is closed (${cause.by}, ${cause.code}): ${cause.reason}`, {
    retryable: true,
  });
}

/** At most `reasonBytesMax` bytes of UTF-8, never half a character. */
function clip(reason: string): string {
  let text = reason.slice(0, reasonBytesMax);
  while (Buffer.byteLength(text) > reasonBytesMax) text = text.slice(0, -1);
  return text.toWellFormed();
}

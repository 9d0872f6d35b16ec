/**
 * A connection carries frames between two authenticated parties, in order, until it closes. The rooms above know only this
 * interface: what is under it (TLS and a WebSocket now) may change without them.
 *
 * Contract, for every implementation:
 *  1. Frames arrive whole, in the order they were sent, at most once. What was sent before `close` arrives before the close.
 *  2. `send` is the back-pressure: it resolves once the operating system took the bytes, which it does not do while the peer
 *     reads nothing and the buffers between are full. A caller that awaits it holds one frame in memory, not many.
 *  3. It ends once. `closed` resolves exactly once and never rejects; after that no frame is delivered, and every `send`, also
 *     one that still waits, rejects with Problem `closed`.
 *  4. `peer` was verified before anyone got the connection (C8); nothing a frame says changes it.
 */
import { wireCodes } from '../wire/codes.ts';

export const roles = ['agent', 'process-server', 'target', 'control'] as const;

export type Role = (typeof roles)[number];

/** Who is at the other end, as its certificate says. */
export interface PeerIdentity {
  readonly role: Role;
  /** `[a-z0-9][a-z0-9._-]{0,62}`; for an agent the machine. */
  readonly name: string;
  /** SHA-256 of the certificate, lower-case hex. */
  readonly fingerprint: string;
  /** When the certificate ends, milliseconds since the Unix epoch. */
  readonly notAfterMs: number;
}

/**
 * How a connection ended. `us`: closed here by a caller; `peer`: the peer said so; `deadline`: closed here because something was
 * not heard in time; `error`: the connection broke, or the peer broke the rules of the layers below frames.
 */
export interface Closed {
  readonly by: 'us' | 'peer' | 'error' | 'deadline';
  /** WebSocket close code: RFC 6455 §7.4, 4000–4999 from `wire/codes.ts`. 1006: it broke without one. */
  readonly code: number;
  readonly reason: string;
}

export interface SendOptions {
  /** The `frameRoomBytes` bytes before the frame in its ArrayBuffer are the connection's, too, until the send settled. Default: they are not. */
  readonly room?: boolean;
}

/**
 * Gives memory for one frame of `bytes` bytes: exactly that long, anywhere in its ArrayBuffer, content undefined. What lies before and
 * behind it is not touched. Called with a length that was checked (1 to `limits.wire.frameBytesMax`), once per frame and in their order,
 * when the frame begins to arrive: the next frame delivered is this very Buffer. If the connection ends before, nobody gets it back.
 */
export type TakeMemory = (bytes: number) => Buffer;

export interface Connection {
  readonly peer: PeerIdentity;
  /** `address:port` of the peer, for logs. */
  readonly remote: string;
  /**
   * Sends one frame of at most `limits.wire.frameBytesMax` bytes. Resolves when the socket took it, rejects with Problem `closed`
   * otherwise. The buffer must not change until then. With `room` a large frame goes out without being copied on this side of TLS.
   */
  send(frame: Uint8Array, options?: SendOptions): Promise<void>;
  /**
   * Sets the one handler; to be called once, synchronously by whoever receives the connection. Nothing is read before.
   * The buffer is the receiver's from then on. With `take` it lies where `take` put it, and was copied once, from what TLS gave.
   * Without, it may share its ArrayBuffer with other frames: copy before transferring it.
   *
   * `bytesMax` tells the longest frame that may come now; asked when one begins to arrive. A longer one ends the connection (`closeCodes.tooBig`), and
   * no memory is taken for it: that of frames which never end is bounded by what the peer may send (C5). Default: `limits.wire.frameBytesMax`.
   */
  onFrame(handler: (frame: Buffer) => void, take?: TakeMemory, bytesMax?: () => number): void;
  /** Stops reading from the socket. Frames already taken from it (at most one read's worth) may still be delivered. */
  pause(): void;
  resume(): void;
  /** True between `pause` and `resume`: silence then says nothing about the peer. */
  readonly paused: boolean;
  /** Idempotent; the first call counts. The code of `timeout` in `wire/codes.ts` makes it a `deadline`. */
  close(code: number, reason: string): void;
  readonly closed: Promise<Closed>;
  /** Bytes received and sent so far on this connection, parts of frames included. */
  readonly bytesIn: number;
  readonly bytesOut: number;
}

/** Close codes of RFC 6455 §7.4.1 that this room uses; all others come from `wire/codes.ts`. */
export const closeCodes = {
  normal: 1000,
  protocol: 1002,
  binaryOnly: 1003,
  /** Never sent: a close frame came without a code. */
  none: 1005,
  /** Never sent: the connection broke without a close frame. */
  broken: 1006,
  policy: 1008,
  tooBig: 1009,
  deadline: wireCodes.timeout.close,
} as const;

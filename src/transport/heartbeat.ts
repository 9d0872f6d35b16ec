/**
 * Tells a silent peer from a dead one. Both ends run one: each sends PING every `pingEveryMs` and closes the connection with
 * `timeout` when nothing at all came in for `idleMs`.
 *
 *  1. Any byte received counts, not only whole frames: a large frame on a slow link is a sign of life.
 *  2. Silence is counted in ticks, not by the clock: a process that was stopped for a minute looks at its socket again before it
 *     blames the peer.
 *  3. While we are paused nothing can be heard, so nothing is counted (the peer's system answers TCP keep-alive meanwhile).
 *  4. At most one PING and one PONG of ours wait for the socket: a peer that asks faster than it reads gets fewer answers.
 */
import type { Clock, Timer } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import { frameType } from '../wire/frame.ts';
import type { Frame } from '../wire/frame.ts';
import { decodePing, encodePing } from '../wire/ping.ts';
import { closeCodes } from './connection.ts';
import type { Connection } from './connection.ts';

export interface HeartbeatOptions {
  readonly everyMs?: number;
  readonly idleMs?: number;
}

export class Heartbeat {
  /** Round trip of the newest answered PING, milliseconds; undefined before the first. */
  roundTripMs: number | undefined;
  readonly #connection: Connection;
  readonly #clock: Clock;
  readonly #timer: Timer;
  readonly #everyMs: number;
  readonly #idleMs: number;
  #heardBytes: number;
  #silentTicks = 0;
  #token = 0;
  #askedAtMs = 0;
  #waiting = { ping: false, pong: false };

  /** Runs until the connection is closed. */
  constructor(connection: Connection, clock: Clock, options: HeartbeatOptions = {}) {
    this.#connection = connection;
    this.#clock = clock;
    this.#everyMs = options.everyMs ?? limits.wire.pingEveryMs;
    this.#idleMs = options.idleMs ?? limits.wire.idleMs;
    this.#heardBytes = connection.bytesIn;
    this.#timer = clock.every(this.#everyMs, () => this.#tick());
    void connection.closed.then(() => this.#timer.cancel());
  }

  /**
   * Takes the frame if it is a PING (answers it) or a PONG (notes the round trip); false: it is for the session.
   * @throws Problem `protocol-error`.
   */
  take(frame: Frame): boolean {
    if (frame.type === frameType.ping) {
      this.#send('pong', decodePing(frame.body));
      return true;
    }
    if (frame.type !== frameType.pong) return false;
    if (decodePing(frame.body) === this.#token) this.roundTripMs = this.#clock.monotonicMs() - this.#askedAtMs;
    return true;
  }

  #tick(): void {
    const { bytesIn, paused } = this.#connection;
    if (bytesIn !== this.#heardBytes || paused) this.#silentTicks = 0;
    else this.#silentTicks += 1;
    this.#heardBytes = bytesIn;
    if (this.#silentTicks * this.#everyMs >= this.#idleMs) {
      this.#timer.cancel();
      this.#connection.close(closeCodes.deadline, `nothing heard for ${this.#idleMs} ms`);
      return;
    }
    if (this.#waiting.ping) return;
    this.#token += 1;
    this.#askedAtMs = this.#clock.monotonicMs();
    this.#send('ping', this.#token);
  }

  #send(kind: 'ping' | 'pong', token: number): void {
    if (this.#waiting[kind]) return; // 4
    this.#waiting[kind] = true;
    const done = (): void => {
      this.#waiting[kind] = false;
    };
    // A refused send means the connection is closed, which `closed` tells.
    this.#connection.send(encodePing(kind, token)).then(done, done);
  }
}

/**
 * True once a connection has carried as much in one direction as one AES-GCM key should. Its client then closes it between
 * cycles and connects again; OpenSSL neither counts nor changes keys by itself (openssl issue 23566).
 */
export function mustRecycle(connection: Connection): boolean {
  return Math.max(connection.bytesIn, connection.bytesOut) >= limits.wire.connectionBytesMax;
}

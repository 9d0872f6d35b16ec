/** Connections in memory with a tap: a test sees every frame on its way, may change its bits, and may cut the wire at it. */
import type { PeerIdentity } from '../../src/transport/connection.ts';
import { MemoryConnection } from '../transport/memory-connection.ts';

/** `forward`: away from the source (agent → process server → target). */
export type Way = 'forward' | 'back';
/**
 * Sees a frame before it goes out; may change it in place. Answers `cut` to break the wire instead of sending it, `kept` to send nothing (`pass`
 * sends what it is given on the same wire at any time), or another frame to be sent instead.
 */
export type Tap = (frame: Buffer, way: Way, pass: (frame: Buffer) => void) => 'cut' | 'kept' | Buffer | undefined;

class TappedConnection extends MemoryConnection {
  #way: Way;
  #tap: Tap;

  constructor(peer: PeerIdentity, way: Way, tap: Tap) {
    super(peer, '127.0.0.1:1');
    this.#way = way;
    this.#tap = tap;
  }

  readonly #pass = (frame: Buffer): void => {
    super.send(frame).catch(() => undefined);
  };

  override send(frame: Uint8Array): Promise<void> {
    const copy = Buffer.from(frame);
    const said = this.isClosed ? undefined : this.#tap(copy, this.#way, this.#pass);
    if (said === 'kept') return Promise.resolve();
    if (said === 'cut') this.cut();
    const sending = super.send(Buffer.isBuffer(said) ? said : copy);
    // Every frame of a story would be kept otherwise.
    this.sent.length = 0;
    return sending;
  }
}

/** An identity as a certificate of the site would give it. */
export function peer(role: PeerIdentity['role'], name: string): PeerIdentity {
  return { role, name, fingerprint: '00'.repeat(32), notAfterMs: Date.UTC(2100, 0, 1) };
}

/** One of the two connections: agent to process server, or process server to target. */
export class Hop {
  tap: Tap = () => undefined;
  #present: MemoryConnection | null = null;
  #cutAfter: number | null = null;
  delayMs = 0;
  /** Of what is sent that the wire takes at once; null: as a socket does. For wires joined later. */
  bufferBytes: number | null = null;

  /** The wire in use is cut after `frames` more frames in either direction; now, if 0. */
  cutAfter(frames: number): void {
    if (frames === 0) this.#present?.cut();
    else this.#cutAfter = frames;
  }

  /** The connecting end learns that its wire broke; the listening one hears nothing. */
  loseTouch(): void {
    this.#present?.end({ by: 'error', code: 1006, reason: 'out of touch' });
  }

  /** Nothing more goes forward on the wire in use, until the returned function is called. */
  holdForward(): () => void {
    const present = this.#present;
    present?.hold();
    return () => present?.release();
  }

  /** Two joined ends: the first for who connects, the second for who listens. */
  join(client: PeerIdentity, server: PeerIdentity): [MemoryConnection, MemoryConnection] {
    const tap: Tap = (frame, way, pass) => {
      if (this.#cutAfter !== null && (this.#cutAfter -= 1) <= 0) {
        this.#cutAfter = null;
        return 'cut';
      }
      return this.tap(frame, way, pass);
    };
    const here = new TappedConnection(server, 'forward', tap);
    const there = new TappedConnection(client, 'back', tap);
    here.join(there);
    there.join(here);
    here.delayMs = this.delayMs;
    there.delayMs = this.delayMs;
    here.bufferBytes = this.bufferBytes ?? here.bufferBytes;
    this.#present = here;
    return [here, there];
  }
}

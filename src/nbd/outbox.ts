/**
 * Replies on their way out. What is ready in one turn of the event loop leaves in one system call, and small parts are copied
 * together first: a socket write costs more than copying a few KiB.
 *
 * Invariants:
 *  1. Parts leave in the order they were added.
 *  2. `onSent` runs once for each `add`, after its last part has left this process or the socket has failed; until then the
 *     parts belong to the outbox.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../kit/clock.ts';
import type { BufferPool } from './buffer-pool.ts';

/** Parts up to this many bytes are copied together, into pieces of `gatherBytes`. */
const smallBytesMax = 8 * 1024;
const gatherBytes = 64 * 1024;

export class Outbox {
  readonly #socket: Socket;
  readonly #clock: Clock;
  readonly #pool: BufferPool;
  #parts: Buffer[] = [];
  #sent: (() => void)[] = [];
  #scheduled = false;

  constructor(socket: Socket, clock: Clock, pool: BufferPool) {
    this.#socket = socket;
    this.#clock = clock;
    this.#pool = pool;
  }

  add(parts: readonly Buffer[], onSent: () => void): void {
    this.#parts.push(...parts);
    this.#sent.push(onSent);
    if (this.#scheduled) return;
    this.#scheduled = true;
    void this.#clock.turn().then(() => {
      this.#scheduled = false;
      this.flush();
    });
  }

  /** Hands everything to the socket now. */
  flush(): void {
    if (this.#parts.length === 0) return;
    const sent = this.#sent;
    const { pieces, gathered } = this.#gather(this.#parts);
    this.#parts = [];
    this.#sent = [];
    this.#socket.cork();
    pieces.forEach((piece, index) => {
      if (index < pieces.length - 1) this.#socket.write(piece);
      else {
        this.#socket.write(piece, () => {
          for (const buffer of gathered) this.#pool.give(buffer);
          for (const onSent of sent) onSent();
        });
      }
    });
    this.#socket.uncork();
  }

  #gather(parts: readonly Buffer[]): { pieces: readonly Buffer[]; gathered: readonly Buffer[] } {
    const pieces: Buffer[] = [];
    const gathered: Buffer[] = [];
    let open: Buffer | undefined;
    let used = 0;
    const seal = (): void => {
      if (open) pieces.push(open.subarray(0, used));
      open = undefined;
      used = 0;
    };
    for (const part of parts) {
      if (part.byteLength > smallBytesMax) {
        seal();
        pieces.push(part);
        continue;
      }
      if (used + part.byteLength > gatherBytes) seal();
      if (!open) {
        open = this.#pool.take(gatherBytes);
        gathered.push(open);
      }
      part.copy(open, used);
      used += part.byteLength;
    }
    seal();
    return { pieces, gathered };
  }
}

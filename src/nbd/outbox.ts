/**
 * Replies on their way out. What is ready in one turn of the event loop leaves in one system call, and small parts are copied
 * together first: a socket write costs more than copying a few KiB. What is ready at once is made in its place, without a copy.
 *
 * Invariants:
 *  1. Replies leave in the order they were added.
 *  2. `onSent` is told each reply once, with the bytes that were counted for it, after its last part has left this process or the socket has
 *     failed. Until then its memory belongs to the outbox; then it goes back to the pool.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../kit/clock.ts';
import { KiB } from '../kit/sizes.ts';
import type { BufferPool } from './buffer-pool.ts';

/** Parts up to this many bytes are copied together, into pieces of `gatherBytes`. */
const smallBytesMax = 8 * KiB;
const gatherBytes = 128 * KiB;

/** What has left, or was refused by the socket. */
type OnSent = (replies: number, bytes: number) => void;

export class Outbox {
  readonly #socket: Socket;
  readonly #clock: Clock;
  readonly #pool: BufferPool;
  readonly #onSent: OnSent;
  /** Full pieces, before what is gathered. */
  #pieces: Buffer[] = [];
  /** Gathered so far: [#from, #used) of a buffer of the pool is no piece yet. */
  #gather: Buffer | undefined;
  #from = 0;
  #used = 0;
  /** Goes back to the pool when everything before it was sent. */
  #lent: Buffer[] = [];
  #replies = 0;
  #bytes = 0;
  /** A reply was made in its place since the last flush. */
  #prompt = false;
  #scheduled = false;

  constructor(socket: Socket, clock: Clock, pool: BufferPool, onSent: OnSent) {
    this.#socket = socket;
    this.#clock = clock;
    this.#pool = pool;
    this.#onSent = onSent;
  }

  /** Room for a reply of up to `gatherBytes`; whoever fills it says so by `filled`, before anything else is asked of the outbox. */
  room(length: number): Buffer {
    return this.#reserve(length).subarray(this.#used, this.#used + length);
  }

  /** The first `length` bytes of the room are a reply; `flushPrompt` comes soon. `bytes` are counted for it. */
  filled(length: number, bytes: number): void {
    this.#prompt = true;
    this.#used += length;
    this.#replies += 1;
    this.#bytes += bytes;
  }

  /** A reply in parts, which leaves in the next turn. `bytes` are counted for it; `lent` goes back to the pool behind it. */
  add(parts: readonly Buffer[], bytes: number, lent?: Buffer): void {
    for (const part of parts) {
      if (part.byteLength > smallBytesMax) {
        this.#seal();
        this.#pieces.push(part);
        continue;
      }
      part.copy(this.#reserve(part.byteLength), this.#used);
      this.#used += part.byteLength;
    }
    if (lent) this.#lent.push(lent);
    this.#replies += 1;
    this.#bytes += bytes;
    if (this.#scheduled) return;
    this.#scheduled = true;
    void this.#clock.turn().then(() => {
      this.#scheduled = false;
      this.flush();
    });
  }

  /** If replies were made in their places, they leave now, with all the others; those alone go on waiting for their turn. */
  flushPrompt(): void {
    if (this.#prompt) this.flush();
  }

  /** Hands everything to the socket now. */
  flush(): void {
    this.#prompt = false;
    this.#seal();
    if (this.#gather) this.#lent.push(this.#gather);
    const [pieces, lent, replies, bytes] = [this.#pieces, this.#lent, this.#replies, this.#bytes];
    this.#gather = undefined;
    this.#pieces = [];
    this.#lent = [];
    this.#from = this.#used = this.#replies = this.#bytes = 0;
    const sent = (): void => {
      for (const buffer of lent) this.#pool.give(buffer);
      if (replies > 0) this.#onSent(replies, bytes);
    };
    if (replies === 0) sent(); // Room that nobody filled.
    const last = pieces.length - 1;
    if (last > 0) this.#socket.cork();
    for (const [index, piece] of pieces.entries()) {
      if (index < last) this.#socket.write(piece);
      else this.#socket.write(piece, sent);
    }
    if (last > 0) this.#socket.uncork();
  }

  /** The buffer gathered into, with `length` bytes free from `#used` on. */
  #reserve(length: number): Buffer {
    if (this.#gather && this.#used + length <= gatherBytes) return this.#gather;
    this.#seal();
    if (this.#gather) this.#lent.push(this.#gather);
    this.#gather = this.#pool.take(gatherBytes);
    this.#from = this.#used = 0;
    return this.#gather;
  }

  /** What was gathered becomes a piece. */
  #seal(): void {
    if (this.#gather && this.#used > this.#from) this.#pieces.push(this.#gather.subarray(this.#from, this.#used));
    this.#from = this.#used;
  }
}

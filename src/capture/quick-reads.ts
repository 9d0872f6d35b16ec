/**
 * Small reads of what the page cache holds are done on the calling thread: handing them to another one and back costs several times as much. The
 * kernel says exactly whether it can answer without waiting, so no read of the disk is ever waited for here.
 *
 * Its no is not free, though: it has begun to read by then, and that much of the work was this thread's. So whoever finds nothing in the cache again
 * and again asks more and more rarely.
 *
 * Invariant: after n misses in a row the next 2ⁿ − 1 reads, at most `passedMax`, are handed over unasked. A hit ends that.
 */
import { KiB } from '../kit/sizes.ts';
import type { File } from '../posix/files.ts';

const passedMax = 63;
/** For what a client reads. */
export const clientReadBytesMax = 64 * KiB;

export class QuickReads {
  readonly #image: File;
  readonly #bytesMax: number;
  /** Reads to hand over after the last miss, and how many of them are left. */
  #afterMiss = 0;
  #toPass = 0;

  /** @param bytesMax longer reads are handed over: what the calling thread does meanwhile is nothing else. */
  constructor(image: File, bytesMax: number) {
    this.#image = image;
    this.#bytesMax = bytesMax;
  }

  /** Whether `into` was filled; if not, it may hold anything. @throws what the read throws. */
  tryRead(into: Uint8Array, offset: number): boolean {
    if (into.byteLength > this.#bytesMax) return false;
    if (this.#toPass > 0) {
      this.#toPass -= 1;
      return false;
    }
    const hit = this.#image.readCachedSync(into, offset);
    this.#afterMiss = hit ? 0 : Math.min(2 * this.#afterMiss + 1, passedMax);
    this.#toPass = this.#afterMiss;
    return hit;
  }
}

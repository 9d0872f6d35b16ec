/**
 * Small writes of whole pages go to the page cache on the calling thread: that costs less than handing them to another one, and there they would
 * queue behind syncs, for as long as a disk takes to flush. When such calls take long after all (too many dirty pages, blocks to allocate), the
 * next ones are handed over.
 *
 * A call may be long for another reason, too: the system gave the processor to somebody else in its middle. Handing over costs much more than that
 * and does not help, so long calls are paid from an allowance that fills up with time, and only when it is used up are writes handed over.
 *
 * Invariant: calls that took longer than `slowMs` cost the thread at most one part in `restPerSlow` of its time, and `allowanceMs` and one call on top.
 */
import type { Clock } from '../kit/clock.ts';
import { KiB } from '../kit/sizes.ts';
import type { File } from '../posix/files.ts';

const writeBytesMax = 16 * KiB;
/** The kernel's page. Of a part of one the rest may have to be read first. */
const pageBytes = 4 * KiB;
/**
 * What no computing takes. A page in the middle of a large folio, as big sequential writes and reads leave them in the cache, costs ext4 40–90 µs of
 * it against 5 µs elsewhere (measured on Linux 6.18), on whichever thread.
 */
const slowMs = 0.25;
const restPerSlow = 20;
/** A few turns of other processes on this processor. */
const allowanceMs = 10;

export class QuickWrites {
  readonly #image: File;
  readonly #clock: Clock;
  /** The allowance is full at this time; used up where that lies further ahead than it takes to fill it. */
  #fullAtMs = -Infinity;

  constructor(image: File, clock: Clock) {
    this.#image = image;
    this.#clock = clock;
  }

  /** Whether a write is for `write`, now. */
  takes(length: number, offset: number): boolean {
    if (length > writeBytesMax || length % pageBytes !== 0 || offset % pageBytes !== 0) return false;
    return this.#fullAtMs - this.#clock.monotonicMs() <= allowanceMs * restPerSlow;
  }

  /** @throws what the write throws. */
  write(data: Uint8Array, offset: number): void {
    const startMs = this.#clock.monotonicMs();
    this.#image.writeSync(data, offset);
    const endMs = this.#clock.monotonicMs();
    const tookMs = endMs - startMs;
    if (tookMs > slowMs) this.#fullAtMs = Math.max(this.#fullAtMs, endMs) + restPerSlow * tookMs;
  }
}

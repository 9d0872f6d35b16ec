/**
 * Small writes of whole pages go to the page cache on the calling thread: that costs less than handing them to another one, and there they would
 * queue behind syncs, for as long as a disk takes to flush. When such a call takes long after all (too many dirty pages, blocks to allocate), the
 * next ones are handed over, for as much longer as this one took.
 *
 * Invariant: calls that took longer than `slowMs` cost the thread at most one part in `restPerSlow` of its time.
 */
import type { Clock } from '../kit/clock.ts';
import { KiB } from '../limits.ts';
import type { File } from '../posix/files.ts';

const writeBytesMax = 16 * KiB;
/** The kernel's page. Of a part of one the rest may have to be read first. */
const pageBytes = 4 * KiB;
const slowMs = 0.05;
const restPerSlow = 20;

export class QuickWrites {
  readonly #image: File;
  readonly #clock: Clock;
  #restUntilMs = -Infinity;

  constructor(image: File, clock: Clock) {
    this.#image = image;
    this.#clock = clock;
  }

  /** Whether it was written. @throws what the write throws. */
  tryWrite(data: Uint8Array, offset: number): boolean {
    if (data.byteLength > writeBytesMax || data.byteLength % pageBytes !== 0 || offset % pageBytes !== 0) return false;
    const startMs = this.#clock.monotonicMs();
    if (startMs < this.#restUntilMs) return false;
    this.#image.writeSync(data, offset);
    const endMs = this.#clock.monotonicMs();
    if (endMs - startMs > slowMs) this.#restUntilMs = endMs + restPerSlow * (endMs - startMs);
    return true;
  }
}

/**
 * When to try again what failed and may succeed later. First quick tries, because most failures are a dropped connection or a restart: pauses
 * double from `quickBaseMs` to `quickMaxMs` until together they last `quickForMs`. Then the pauses of a table, one after another; its last one
 * repeats for ever. Without a table the last quick pause does.
 *
 * Jitter: a quick pause lies in [d/2, d), so that a crowd that lost the same peer neither stampedes nor waits; one of the table in
 * [0.9 d, 1.1 d), so that it stays what was configured.
 */
import type { Random } from './random.ts';

export interface RetryOptions {
  readonly quickBaseMs: number;
  readonly quickMaxMs: number;
  readonly quickForMs: number;
  /** Pauses behind the quick ones, milliseconds. */
  readonly slowMs: readonly number[];
  readonly random: Random;
}

export interface Retry {
  readonly delayMs: number;
  readonly phase: 'quick' | 'slow';
}

export class RetrySchedule {
  readonly #options: RetryOptions;
  /** Quick pauses without their jitter. */
  readonly #quickMs: readonly number[];
  #tries = 0;

  constructor(options: RetryOptions) {
    this.#options = options;
    const { quickBaseMs, quickMaxMs, quickForMs } = options;
    const quickMs: number[] = [];
    for (let [pauseMs, sumMs] = [quickBaseMs, 0]; sumMs < quickForMs; pauseMs *= 2) {
      const nextMs = Math.min(pauseMs, quickMaxMs);
      quickMs.push(nextMs);
      sumMs += nextMs;
    }
    this.#quickMs = quickMs;
  }

  next(): Retry {
    const { slowMs, random, quickMaxMs } = this.#options;
    const slow = this.#tries - this.#quickMs.length;
    const quick = this.#quickMs[this.#tries] ?? quickMaxMs;
    const table = slow < 0 ? undefined : (slowMs[slow] ?? slowMs.at(-1));
    // Bounded, so that nothing counts for ever.
    this.#tries = Math.min(this.#tries + 1, this.#quickMs.length + slowMs.length);
    if (table === undefined) return { delayMs: quick / 2 + (random.fraction() * quick) / 2, phase: 'quick' };
    return { delayMs: table * (0.9 + random.fraction() / 5), phase: 'slow' };
  }

  /** After a success. */
  reset(): void {
    this.#tries = 0;
  }
}

import type { Random } from './random.ts';

/**
 * Exponential delays with full jitter on the upper half: delay n lies in [d/2, d), d = min(baseMs · 2ⁿ, maxMs).
 * Half of the delay is kept so that a crowd neither stampedes nor retries at once.
 */
export class Backoff {
  #attempt = 0;
  readonly #options: { baseMs: number; maxMs: number; random: Random };

  constructor(options: { baseMs: number; maxMs: number; random: Random }) {
    this.#options = options;
  }

  /** The next delay in milliseconds. */
  nextMs(): number {
    const { baseMs, maxMs, random } = this.#options;
    const full = Math.min(baseMs * 2 ** Math.min(this.#attempt, 40), maxMs);
    this.#attempt += 1;
    return full / 2 + (random.fraction() * full) / 2;
  }

  /** Call after a success. */
  reset(): void {
    this.#attempt = 0;
  }
}

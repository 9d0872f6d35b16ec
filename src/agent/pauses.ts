/** The pauses between cycles, of which there is one at a time: somebody may ask for a cycle, and something may have happened that changes what to do. */
import type { Clock } from '../kit/clock.ts';

export type Woken = 'asked' | 'news' | 'late';

export class Pauses {
  /** A cycle was asked for while nobody paused. */
  requested = false;
  readonly #clock: Clock;
  #wake: ((why: Woken) => void) | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  ask(): void {
    if (this.#wake) this.#wake('asked');
    else this.requested = true;
  }

  news(): void {
    this.#wake?.('news');
  }

  /** @param ms null: until something happens. @param isOver whether there is nothing to wait for any more. */
  async pause(ms: number | null, isOver: () => boolean): Promise<Woken> {
    if (isOver()) return 'news';
    const woken = Promise.withResolvers<Woken>();
    this.#wake = woken.resolve;
    const timer = ms === null ? null : this.#clock.after(ms, () => woken.resolve('late'));
    const why = await woken.promise;
    timer?.cancel();
    this.#wake = null;
    return why;
  }
}

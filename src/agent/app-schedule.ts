/**
 * When the next point is to be app-consistent. One that is due is tried with the next cut; a try that did not end in a committed app-consistent
 * point is repeated after `appRetryMs` (not with every cut: a guest agent that does not answer would delay each by its timeout). The first
 * one after a start is due at once, because nobody here knows when the last one was.
 */
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';

export class AppSchedule {
  readonly #clock: Clock;
  readonly #everyMs: () => number | null;
  /** Monotonic. */
  #notBeforeMs = 0;
  #asked = false;

  /** @param everyMs from one to the next; null: only when asked. */
  constructor(clock: Clock, everyMs: () => number | null) {
    this.#clock = clock;
    this.#everyMs = everyMs;
    this.#notBeforeMs = clock.monotonicMs();
  }

  ask(): void {
    this.#asked = true;
  }

  get isDue(): boolean {
    return this.#asked || (this.#everyMs() !== null && this.#clock.monotonicMs() >= this.#notBeforeMs);
  }

  /** In how many milliseconds one is due by itself; null: never. */
  get dueInMs(): number | null {
    return this.#everyMs() === null ? null : Math.max(0, this.#notBeforeMs - this.#clock.monotonicMs());
  }

  /** Whether it was asked for or due, a try was made. */
  tried(made: boolean): void {
    const everyMs = this.#everyMs() ?? 0;
    const nextMs = made ? everyMs : Math.min(everyMs, limits.agent.appRetryMs);
    this.#asked = false;
    this.#notBeforeMs = this.#clock.monotonicMs() + nextMs;
  }

  /** One that was made is not known to be committed, and its session is over. */
  lost(): void {
    this.#notBeforeMs = this.#clock.monotonicMs() + Math.min(this.#everyMs() ?? 0, limits.agent.appRetryMs);
  }
}

/** A clock that goes only when it is told to; timers run in their order, each after what the one before it set off has come to rest. */
import { setImmediate as turn } from 'node:timers/promises';
import type { Clock, Timer } from '../../src/kit/clock.ts';

export class SteppedClock implements Clock {
  readonly #timers = new Set<{ readonly atMs: number; readonly run: () => void }>();
  readonly #startMs: number;
  #nowMs = 0;

  /** @param startMs wall clock at the beginning. */
  constructor(startMs = Date.parse('2026-01-05T00:00:00Z')) {
    this.#startMs = startMs;
  }

  /** Of the next timer; null: none is set. */
  get nextMs(): number | null {
    return this.#timers.size === 0 ? null : Math.min(...[...this.#timers].map(({ atMs }) => atMs));
  }

  wallMs(): number {
    return this.#startMs + this.#nowMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  after(ms: number, run: () => void): Timer {
    const timer = { atMs: this.#nowMs + ms, run };
    this.#timers.add(timer);
    return { cancel: () => void this.#timers.delete(timer) };
  }

  every(ms: number, run: () => void): Timer {
    let next = this.after(ms, tick.bind(this));
    function tick(this: SteppedClock): void {
      next = this.after(ms, tick.bind(this));
      run();
    }
    return { cancel: () => next.cancel() };
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = this.after(ms, resolve);
      signal?.addEventListener('abort', () => {
        timer.cancel();
        reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'));
      });
    });
  }

  turn(): Promise<void> {
    return turn();
  }

  /** What `promise` came to within `ms`; null: nothing yet. */
  async within<T>(ms: number, promise: Promise<T>): Promise<T | null> {
    let outcome: T | null = null;
    void promise.then((value) => (outcome = value));
    await this.pass(ms);
    return outcome;
  }

  async pass(ms: number): Promise<void> {
    const untilMs = this.#nowMs + ms;
    await turn();
    for (;;) {
      const due = [...this.#timers].filter(({ atMs }) => atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)[0];
      if (!due) break;
      this.#timers.delete(due);
      this.#nowMs = Math.max(this.#nowMs, due.atMs);
      due.run();
      await turn();
    }
    this.#nowMs = untilMs;
  }
}

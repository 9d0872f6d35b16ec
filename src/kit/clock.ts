/**
 * Time, as a thing that is handed in. Only this file touches the process clock and its timers, so a test can hand in a
 * clock of its own and every wait in the product becomes steerable.
 */
import { setTimeout as sleepFor } from 'node:timers/promises';

/** A pending call; `cancel` is idempotent. */
export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Wall clock, milliseconds since the Unix epoch. For people and cut times; may step. */
  wallMs(): number;
  /** Monotonic clock, milliseconds with a fraction, arbitrary origin. For durations and deadlines. */
  monotonicMs(): number;
  /** Calls `run` once after `ms`. The timer does not keep the process alive. */
  after(ms: number, run: () => void): Timer;
  /** Calls `run` every `ms` until cancelled. The timer does not keep the process alive. */
  every(ms: number, run: () => void): Timer;
  /** Resolves after `ms`; rejects with the signal's reason when it aborts first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** Lets the event loop turn once (I/O callbacks run before this resolves). */
  turn(): Promise<void>;
}

export const systemClock: Clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  after(ms, run) {
    const handle = setTimeout(run, ms);
    handle.unref();
    return { cancel: () => clearTimeout(handle) };
  },
  every(ms, run) {
    const handle = setInterval(run, ms);
    handle.unref();
    return { cancel: () => clearInterval(handle) };
  },
  async sleep(ms, signal) {
    await sleepFor(ms, undefined, signal === undefined ? {} : { signal });
  },
  turn: () => new Promise((resolve) => setImmediate(resolve)),
};

/** What the head of a session waited for in the last seconds: the frame that is to leave for the target next. One thing at a time. */
import type { Clock } from '../kit/clock.ts';

/** Milliseconds in the last 10 s, for: the agent (nothing was to be done), the pool, the target (connection, credit, socket), the spool's disk, the throttle. */
export interface HeadWaits {
  readonly agent: number;
  readonly pool: number;
  readonly target: number;
  readonly spool: number;
  readonly throttle: number;
}

export type WaitsFor = keyof HeadWaits;

const bucketMs = 1_000;
const buckets = 10;
const none = (): Record<WaitsFor, number> => ({ agent: 0, pool: 0, target: 0, spool: 0, throttle: 0 });

export class Waits {
  readonly #clock: Clock;
  /** By second, the newest at `#second % buckets`. */
  readonly #rows = Array.from({ length: buckets }, none);
  #second: number;
  #now: WaitsFor = 'agent';
  /** Whether it is the throttle that keeps the agent from sending. */
  isThrottled: () => boolean = () => false;
  #sinceMs: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#sinceMs = clock.monotonicMs();
    this.#second = Math.floor(this.#sinceMs / bucketMs);
  }

  /** What it waits for from now on. */
  for(what: WaitsFor): void {
    if (what === this.#now) return;
    this.#account();
    this.#now = what;
  }

  report(): HeadWaits {
    this.#account();
    const sum = none();
    for (const row of this.#rows) for (const what of Object.keys(sum) as WaitsFor[]) sum[what] += row[what];
    return sum;
  }

  #account(): void {
    const nowMs = this.#clock.monotonicMs();
    const newest = Math.floor(nowMs / bucketMs);
    // A wait of minutes fills each row once.
    this.#second = Math.max(this.#second, newest - buckets);
    const what = this.#now === 'agent' && this.isThrottled() ? 'throttle' : this.#now;
    let fromMs = Math.max(this.#sinceMs, this.#second * bucketMs);
    for (;;) {
      const endMs = Math.min(nowMs, (this.#second + 1) * bucketMs);
      const row = this.#rows[this.#second % buckets];
      if (row) row[what] += Math.max(0, endMs - fromMs);
      if (this.#second >= newest) break;
      fromMs = endMs;
      this.#second += 1;
      this.#rows[this.#second % buckets] = none();
    }
    this.#sinceMs = nowMs;
  }
}

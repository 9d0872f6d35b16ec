/**
 * A link with a limit: bytes pass at a rate, in the order of `shares.ts`. A token bucket whose tokens are bytes.
 *
 * Invariants:
 *  1. A request passes when half of it is paid for, and the other half stays owed: what has passed at any time while others wait is within half
 *     a request of what the rate allows, neither ahead nor behind on average.
 *  2. What was not used is kept for `burstMs` only; a timer that comes late is forgiven `lateMs`. So in no 10 s more than the rate allows passes, but for these and
 *     one request.
 *  3. The rate is looked up at every request, and every `recheckMs` while something waits: a change counts from then on.
 *  4. Without a limit nothing waits, and what was owed is forgotten.
 */
import type { Clock, Timer } from './clock.ts';
import { Shares, type Turn } from './shares.ts';

const burstMs = 100;
const lateMs = 250;
const recheckMs = 250;
/** Of what may be owed, so that a change to a low limit stops nobody for minutes. */
const owedMsMax = 10_000;
const secondMs = 1000;

interface Waiting extends Turn {
  readonly resolve: () => void;
}

export interface PacedLinkOptions {
  readonly clock: Clock;
  /** Bytes per second now; null: no limit. */
  readonly rate: () => number | null;
}

export class PacedLink {
  readonly #options: PacedLinkOptions;
  readonly #shares = new Shares<Waiting>();
  #tokens = 0;
  #rate: number | null;
  #countedMs: number;
  #timer: Timer | null = null;

  constructor(options: PacedLinkOptions) {
    this.#options = options;
    this.#rate = options.rate();
    this.#countedMs = options.clock.monotonicMs();
  }

  /** Bytes per second now; null: no limit. */
  get rate(): number | null {
    return this.#options.rate();
  }

  /** Resolves when it may pass. Rejects with the signal's reason; it is not counted then. */
  take(turn: Turn, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.reject(reasonOf(signal));
    this.#count();
    if (this.#rate === null && this.#shares.waiting === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const abort = (): void => {
        this.#shares.remove(waiting);
        if (signal) reject(reasonOf(signal));
      };
      const waiting: Waiting = {
        ...turn,
        resolve: () => {
          signal?.removeEventListener('abort', abort);
          resolve();
        },
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#shares.add(waiting);
      this.#serve();
    });
  }

  /** Bytes that passed without asking: they are owed. */
  charge(bytes: number): void {
    this.#count();
    if (this.#rate !== null) this.#tokens = Math.max(this.#tokens - bytes, (-this.#rate * owedMsMax) / secondMs);
  }

  #serve(): void {
    this.#timer?.cancel();
    this.#timer = null;
    this.#count();
    for (let head = this.#shares.peek(); head; head = this.#shares.peek()) {
      const missing = this.#rate === null ? 0 : head.bytes / 2 - this.#tokens; // 1
      if (this.#rate !== null && missing > 0) {
        const waitMs = Math.min(recheckMs, Math.max(1, Math.ceil((missing / this.#rate) * secondMs)));
        this.#timer = this.#options.clock.after(waitMs, () => this.#serve()); // 3
        return;
      }
      this.#tokens -= this.#rate === null ? 0 : head.bytes;
      this.#shares.next()?.resolve();
    }
  }

  /** Tokens of the time that passed, at the rate that held when it began. */
  #count(): void {
    const { clock, rate } = this.#options;
    const nowMs = clock.monotonicMs();
    const before = this.#rate;
    this.#rate = rate();
    const passedMs = nowMs - this.#countedMs;
    this.#countedMs = nowMs;
    if (this.#rate === null) this.#tokens = 0; // 4
    if (before === null || this.#rate === null) return;
    const head = this.#shares.peek();
    const keptMs = head ? lateMs : burstMs; // 2
    const kept = (head ? head.bytes / 2 : 0) + (this.#rate * keptMs) / secondMs;
    this.#tokens = Math.min(this.#tokens + (before * passedMs) / secondMs, kept);
  }
}

const reasonOf = (signal: AbortSignal): Error =>
  signal.reason instanceof Error ? signal.reason : new Error(String(signal.reason));

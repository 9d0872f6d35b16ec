/**
 * A counted allowance in bytes with a first-come, first-served queue: the one form of back-pressure in the product (C5).
 *
 * Invariants:
 *  1. `available` never goes below zero; `take` waits instead.
 *  2. Waiters are served in order; a small request never overtakes a large one (no starvation).
 *  3. After `end` every waiter and every later `take` is refused with the given reason.
 */
interface Waiter {
  readonly bytes: number;
  readonly resolve: () => void;
  readonly reject: (reason: Error) => void;
}

export class Credit {
  #available: number;
  #ended: Error | undefined;
  readonly #waiters: Waiter[] = [];

  constructor(initialBytes: number) {
    this.#available = initialBytes;
  }

  /** Bytes that can be taken without waiting. */
  get available(): number {
    return this.#available;
  }

  /** Resolves once `bytes` are taken. Rejects after `end`. */
  take(bytes: number): Promise<void> {
    if (this.#ended) return Promise.reject(this.#ended);
    if (this.#waiters.length === 0 && this.#available >= bytes) {
      this.#available -= bytes;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => this.#waiters.push({ bytes, resolve, reject }));
  }

  /** Takes `bytes` if they are there and nobody waits. */
  tryTake(bytes: number): boolean {
    if (this.#ended || this.#waiters.length > 0 || this.#available < bytes) return false;
    this.#available -= bytes;
    return true;
  }

  /** Returns or adds `bytes` and serves waiters. */
  give(bytes: number): void {
    this.#available += bytes;
    for (let head = this.#waiters[0]; head && head.bytes <= this.#available; head = this.#waiters[0]) {
      this.#available -= head.bytes;
      this.#waiters.shift();
      head.resolve();
    }
  }

  /** Refuses all waiters and later takers. Idempotent; the first reason stays. */
  end(reason: Error): void {
    if (this.#ended) return;
    this.#ended = reason;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(reason);
  }
}

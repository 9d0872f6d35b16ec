/**
 * One sync of a file at a time, shared by all who ask (C4). Linux reports a failed writeback once per open file: of two syncs that run
 * side by side one hears of the error, and the other is told that all is well, of the very pages that are lost.
 *
 * Invariants:
 *  1. Who asks while a sync is under way waits for the next one: what he wrote may have come after the first began.
 *  2. After a failure nobody syncs any more: the one that failed stays the last, and all who wait or come later hear of it.
 */
export class SharedSync {
  readonly #sync: () => Promise<void>;
  /** The sync that runs, or the one that failed. */
  #last: Promise<void> | null = null;
  #next: Promise<void> | null = null;

  constructor(sync: () => Promise<void>) {
    this.#sync = sync;
  }

  /** Resolves once all that was written before the call is durable. Rejects with what the system said. */
  run(): Promise<void> {
    if (this.#next) return this.#next;
    if (!this.#last) return this.#begin();
    this.#next = this.#last.then(() => {
      this.#next = null;
      return this.#begin();
    });
    return this.#next;
  }

  #begin(): Promise<void> {
    this.#last = this.#sync().then(() => {
      this.#last = null;
    });
    return this.#last;
  }
}

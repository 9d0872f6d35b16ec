/** Lets loops wait until something may have changed. Who waits looks again by itself: a notice says nothing but "look". */
export class Signal {
  #waiting: PromiseWithResolvers<undefined> | null = null;

  /** Resolves at the next `notify`. */
  wait(): Promise<undefined> {
    this.#waiting ??= Promise.withResolvers<undefined>();
    return this.#waiting.promise;
  }

  notify(): void {
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.resolve(undefined);
  }
}

/**
 * The gate every change of a disk passes: counts them, and holds new ones while a cut waits for those in flight.
 *
 * Invariants:
 *  1. `accepted` counts in order of arrival, held ones too; `included` = accepted − held is the number a cut contains, because while the
 *     gate is held everything that arrives waits and everything that passed has drained.
 *  2. One holder at a time.
 */
import { invariant } from '../kit/invariant.ts';

interface Hold {
  readonly released: Promise<void>;
  readonly release: () => void;
}

export class WriteGate {
  #accepted = 0;
  #held = 0;
  #inFlight = 0;
  #hold: Hold | null = null;
  readonly #idle: (() => void)[] = [];

  get accepted(): number {
    return this.#accepted;
  }

  get included(): number {
    return this.#accepted - this.#held;
  }

  /** Every `enter` is followed by one `leave`, after its promise, if any. */
  enter(): Promise<void> | undefined {
    this.#accepted += 1;
    if (this.#hold) return this.#wait();
    this.#inFlight += 1;
    return undefined;
  }

  get isHeld(): boolean {
    return this.#hold !== null;
  }

  /** `enter` and `leave` in one, for a change that begins and ends in this turn; the gate is not held. */
  pass(): void {
    invariant(this.#hold === null, 'nothing passes a gate that is held');
    this.#accepted += 1;
  }

  leave(): void {
    this.#inFlight -= 1;
    if (this.#inFlight === 0) for (const wake of this.#idle.splice(0)) wake();
  }

  hold(): void {
    invariant(this.#hold === null, 'a gate has one holder at a time');
    let release = (): void => undefined;
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.#hold = { released, release };
  }

  release(): void {
    this.#hold?.release();
    this.#hold = null;
  }

  /** Resolves when nothing is in flight. */
  async drained(): Promise<void> {
    while (this.#inFlight > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  async #wait(): Promise<void> {
    this.#held += 1;
    while (this.#hold) await this.#hold.released;
    this.#held -= 1;
    this.#inFlight += 1;
  }
}

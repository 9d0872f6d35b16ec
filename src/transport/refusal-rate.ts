/** Counts refusals in whole seconds of the monotonic clock. Constant memory, whoever is refused. */
import type { Clock } from '../kit/clock.ts';

export class RefusalRate {
  readonly #clock: Clock;
  readonly #perSecondMax: number;
  #second = 0;
  #counted = 0;

  constructor(clock: Clock, perSecondMax: number) {
    this.#clock = clock;
    this.#perSecondMax = perSecondMax;
  }

  count(): void {
    this.#turn();
    this.#counted += 1;
  }

  /** True while this second has had as many refusals as are allowed. */
  get exceeded(): boolean {
    this.#turn();
    return this.#counted >= this.#perSecondMax;
  }

  #turn(): void {
    const second = Math.floor(this.#clock.monotonicMs() / 1000);
    if (second === this.#second) return;
    this.#second = second;
    this.#counted = 0;
  }
}

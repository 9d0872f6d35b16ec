/**
 * How much of the processor the check of what is stored may take: a share of one core, all machines of a target together, and only what ingest and proof
 * leave. Steps are run one at a time, and after each so much time passes without one that the share is kept.
 *
 * What counts is the time from a step's begin to its end. It holds the thread for a part of that, the rest is waiting for the disk: so the share is never
 * more than what was asked for, and a slow disk is spared, too.
 */
import type { Clock } from '../kit/clock.ts';
import { Serial } from '../kit/serial.ts';
import { limits } from '../limits.ts';

export interface ScrubPaceOptions {
  readonly clock: Clock;
  /** Of one core, above 0 up to 1. */
  readonly share: number;
  /** Somebody who goes first has work. */
  readonly isBusy: () => boolean;
}

export class ScrubPace {
  readonly #options: ScrubPaceOptions;
  readonly #oneAtATime = new Serial();
  #owedMs = 0;

  constructor(options: ScrubPaceOptions) {
    this.#options = options;
  }

  /** Runs the step when its time has come. Steps are short: some milliseconds. @throws what the step throws, and the signal's reason. */
  run<T>(step: () => Promise<T>, signal: AbortSignal): Promise<T> {
    return this.#oneAtATime.run(async () => {
      const { clock, share } = this.#options;
      await this.#giveWay(signal);
      const startedMs = clock.monotonicMs();
      try {
        return await step();
      } finally {
        this.#owedMs += (clock.monotonicMs() - startedMs) * (1 / share - 1);
      }
    });
  }

  /** Pays what the steps before owe, in pauses that a timer can keep; then waits for who goes first, but not for ever. */
  async #giveWay(signal: AbortSignal): Promise<void> {
    const { clock, isBusy } = this.#options;
    const { scrubPauseMs, scrubYieldMs } = limits.target;
    signal.throwIfAborted();
    if (this.#owedMs >= scrubPauseMs) {
      const pauseMs = this.#owedMs;
      await clock.sleep(pauseMs, signal);
      this.#owedMs -= pauseMs;
    }
    for (let waitedMs = 0; isBusy() && waitedMs < scrubYieldMs; waitedMs += scrubPauseMs)
      await clock.sleep(scrubPauseMs, signal);
  }
}

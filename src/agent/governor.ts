/**
 * Holds the agent's background work (hashing, reading, sending) to a share of processor time. The machine the agent runs on has other work
 * to do; the disks' writers are never held: only who calls `pace` waits.
 *
 * It measures instead of guessing what work costs: the processor time of the whole process, all its threads, against the wall. Time that passes
 * earns an allowance, time that was computed uses it up, and who finds it overdrawn sleeps until it is not.
 *
 * Invariants:
 *  1. Over any span longer than the burst, background work begins only while the process is inside its share.
 *  2. What can be saved up and what can be owed are both bounded by the burst: after a pause there is no rush, and serving writers, which is
 *     counted and not held, can slow background work down but never stop it: one call waits at most `paceBurstMs`.
 */
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';

export interface GovernorOptions {
  /** Processor seconds per second: 0.5 is half a core, 2 are two. */
  readonly cores: number;
  readonly clock: Clock;
  /** Processor time of the process since its start, user and system, all threads, milliseconds. */
  readonly cpuMs: () => number;
}

export class Governor {
  readonly #options: GovernorOptions;
  /** Processor time that may be used at once, milliseconds; below zero it is owed. */
  #allowanceMs: number;
  #wallMs: number;
  #cpuMs: number;
  #bytes = 0;
  #pausedMs = 0;

  constructor(options: GovernorOptions) {
    this.#options = options;
    this.#allowanceMs = 0;
    this.#wallMs = options.clock.monotonicMs();
    this.#cpuMs = options.cpuMs();
  }

  get cores(): number {
    return this.#options.cores;
  }

  /** How long callers were held, summed, milliseconds. */
  get pausedMs(): number {
    return this.#pausedMs;
  }

  /** To be awaited before work on `bytes` of a disk begins; small pieces pass until they add up. */
  async pace(bytes: number): Promise<void> {
    this.#bytes += bytes;
    if (this.#bytes < limits.agent.paceEveryBytes) return;
    this.#bytes = 0;
    const { clock, cores } = this.#options;
    this.#measure();
    if (this.#allowanceMs >= 0) return;
    const waitMs = -this.#allowanceMs / cores;
    const before = clock.monotonicMs();
    await clock.sleep(waitMs);
    this.#pausedMs += clock.monotonicMs() - before;
  }

  /** Invariant 2. */
  #measure(): void {
    const { clock, cores, cpuMs } = this.#options;
    const [wallNow, cpuNow] = [clock.monotonicMs(), cpuMs()];
    const earned = (wallNow - this.#wallMs) * cores - (cpuNow - this.#cpuMs);
    const burst = limits.agent.paceBurstMs * cores;
    this.#allowanceMs = Math.min(burst, Math.max(-burst, this.#allowanceMs + earned));
    this.#wallMs = wallNow;
    this.#cpuMs = cpuNow;
  }
}

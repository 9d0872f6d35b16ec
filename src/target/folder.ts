/**
 * Drives retention, fold and compaction of one machine (`store/machine-fold.ts`) beside ingest, from time to time: when there are other points than at the
 * last pass, sooner while the store is full.
 *
 * Invariants:
 *  1. Ingest goes first: after each step the folder rests as long as the step took, several times as long while anything is received or proven, and
 *     it never reads and writes more than `foldBytesPerSecond`.
 *  2. A pass that fails is tried again; it never takes the store down. Whoever stops it waits for one step, not for the pass.
 */
import type { Clock } from '../kit/clock.ts';
import { messageOf } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { FoldPace } from '../store/fold.ts';
import type { FoldOutcome, MachineFold, SpaceUse } from '../store/machine-fold.ts';
import type { MachineStore } from '../store/machine-store.ts';
import type { RetentionPolicy } from '../store/retention.ts';
import type { TargetCounters } from './counters.ts';

export interface FolderOptions {
  readonly store: MachineStore;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly counters: TargetCounters;
  /** As it is now. */
  readonly retention: () => RetentionPolicy;
  /** Something is received or proven. */
  readonly isBusy: () => boolean;
}

export class Folder {
  readonly #options: FolderOptions;
  readonly #fold: MachineFold;
  readonly #stop = new AbortController();
  #running: Promise<void> | null = null;
  #passedMs: number;
  /** What the last pass saw and finished; null: it did not finish. */
  #passedPoints: number | null = null;

  constructor(options: FolderOptions) {
    this.#options = options;
    this.#fold = options.store.fold();
    this.#passedMs = options.clock.monotonicMs();
  }

  /** Bytes stored, live and to be given back, as of the last pass; null before the first. */
  get use(): SpaceUse | null {
    return this.#fold.use;
  }

  /** Begins, after a moment. Once. */
  start(): void {
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { clock } = this.#options;
    const { signal } = this.#stop;
    for (;;) {
      await clock.sleep(limits.target.foldPollMs, signal).catch(() => undefined);
      if (signal.aborted) return;
      if (this.#isDue()) await this.#pass();
      await this.#fold.unlinkDue().catch((error: unknown) => {
        this.#failed(error);
      });
    }
  }

  #isDue(): boolean {
    const { store, clock } = this.#options;
    const sinceMs = clock.monotonicMs() - this.#passedMs;
    if (store.full) return sinceMs >= limits.target.foldFullMs;
    const isNew = this.#passedPoints !== store.points.points.length;
    return sinceMs >= (isNew ? limits.target.foldEveryMs : limits.target.foldIdleMs);
  }

  async #pass(): Promise<void> {
    const { store, clock, logger, retention } = this.#options;
    const points = store.points.points.length;
    const startedMs = clock.monotonicMs();
    this.#passedPoints = null;
    try {
      const outcome = await this.#fold.run(retention(), new SteadyPace(this.#options, this.#stop.signal));
      this.#count(outcome);
      if (outcome.complete) this.#passedPoints = points;
      const { damage, unreadable, ...done } = outcome;
      const seconds = (clock.monotonicMs() - startedMs) / 1000;
      logger.info({ machine: store.machine, ...done, ...this.#fold.use, seconds }, 'folded');
      if (damage.length > 0) logger.error({ machine: store.machine, damage }, 'segments with damage are not compacted');
      if (unreadable.length > 0)
        logger.error({ machine: store.machine, unreadable }, 'segments that can not be read are not compacted');
    } catch (error) {
      this.#failed(error);
    }
    this.#passedMs = clock.monotonicMs();
  }

  #count(outcome: FoldOutcome): void {
    const { counters } = this.#options;
    counters.pointsRetired += outcome.retired;
    counters.recordsFolded += outcome.recordsDropped;
    counters.bytesMoved += outcome.bytesMoved;
    counters.bytesRemoved += outcome.bytesRemoved;
  }

  #failed(error: unknown): void {
    const { store, logger } = this.#options;
    if (this.#stop.signal.aborted) return;
    logger.error({ machine: store.machine, error: messageOf(error) }, 'fold failed to run and is tried again');
  }
}

/** Invariant 1. */
class SteadyPace implements FoldPace {
  readonly #options: FolderOptions;
  readonly #signal: AbortSignal;
  #steppedMs: number;
  #bytesDueMs: number;

  constructor(options: FolderOptions, signal: AbortSignal) {
    this.#options = options;
    this.#signal = signal;
    this.#steppedMs = options.clock.monotonicMs();
    this.#bytesDueMs = this.#steppedMs;
  }

  async step(bytes: number): Promise<boolean> {
    const { clock, isBusy } = this.#options;
    const nowMs = clock.monotonicMs();
    const rests = isBusy() ? limits.target.foldRestsBusy : limits.target.foldRests;
    this.#bytesDueMs = Math.max(this.#bytesDueMs, this.#steppedMs) + (bytes * 1000) / limits.target.foldBytesPerSecond;
    const untilMs = Math.max(this.#bytesDueMs, nowMs + (nowMs - this.#steppedMs) * rests);
    if (untilMs - nowMs >= 1) await clock.sleep(untilMs - nowMs, this.#signal).catch(() => undefined);
    else await clock.turn();
    this.#steppedMs = clock.monotonicMs();
    return !this.#signal.aborted;
  }
}

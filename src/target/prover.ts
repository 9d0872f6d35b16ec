/**
 * Committed, then proven (DESIGN §3): rebuilds every block a point changed from stored bytes and matches its leaf. Runs in the background,
 * one point at a time per machine, in small steps, so ingest goes first.
 *
 * A mismatch marks the point damaged (a durable record) and asks the source for the blocks whole.
 */
import type { Clock } from '../kit/clock.ts';
import { isProblem, messageOf } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { DiskStore } from '../store/disk-store.ts';
import type { MachineStore } from '../store/machine-store.ts';
import type { TargetCounters } from './counters.ts';

export interface ProverOptions {
  readonly store: MachineStore;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly counters: TargetCounters;
  readonly damaged: (disk: DiskStore, blocks: readonly number[]) => void;
}

export class Prover {
  readonly #options: ProverOptions;
  readonly #stop = new AbortController();
  #running: Promise<void> | null = null;
  #again = false;

  constructor(options: ProverOptions) {
    this.#options = options;
  }

  /** Proves what is committed and not yet proven. Idempotent while it runs. */
  wake(): void {
    this.#again = true;
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  #stopped(): boolean {
    return this.#stop.signal.aborted;
  }

  /** Clears `#running` in the same step that found nothing left to do, so that a wake-up is never lost between the two. */
  async #run(): Promise<void> {
    // Lets `wake` note the promise first.
    await this.#options.clock.turn();
    try {
      while (this.#again && !this.#stopped()) {
        this.#again = false;
        await this.#proveAll();
      }
    } finally {
      this.#running = null;
    }
  }

  async #proveAll(): Promise<void> {
    const { store, logger } = this.#options;
    for (const point of store.unprovenPoints()) {
      if (this.#stopped()) return;
      try {
        await this.#prove(point);
      } catch (error) {
        logger.error({ machine: store.machine, point, error: messageOf(error) }, 'proof failed to run');
        return;
      }
    }
  }

  async #prove(point: number): Promise<void> {
    const { store, counters, logger, clock } = this.#options;
    let blocks = 0;
    let damagedDisks = 0;
    for (const disk of store.disksAt(point)) {
      const bad: number[] = [];
      const into = Buffer.allocUnsafeSlow(disk.geometry.blockSize);
      const reader = store.readerAt(disk, point);
      let sinceTurn = 0;
      for await (const block of store.blocksOf(disk, point)) {
        if (this.#stopped()) return;
        try {
          await reader.readBlock(block, into);
        } catch (error) {
          if (!isProblem(error) || error.code !== 'damaged') throw error;
          counters.integrityErrors += 1;
          bad.push(block);
          logger.error({ machine: store.machine, disk: disk.name, point, block }, `proof: ${error.message}`);
        }
        blocks += 1;
        sinceTurn += disk.geometry.blockSize;
        if (sinceTurn >= limits.target.proofSliceBytes) {
          sinceTurn = 0;
          await clock.turn();
        }
      }
      if (bad.length === 0) continue;
      damagedDisks += 1;
      await store.markDamaged(point, disk, bad);
      this.#options.damaged(disk, bad);
    }
    if (damagedDisks > 0) return;
    await store.markProven(point, blocks);
    counters.pointsProven += 1;
    counters.blocksProven += blocks;
    logger.info({ machine: store.machine, point, blocks }, 'point proven');
  }
}

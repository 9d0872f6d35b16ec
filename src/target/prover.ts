/**
 * Committed, then proven (DESIGN §3): rebuilds every block a point changed from stored bytes and matches its leaf. Runs in the background,
 * one point at a time per machine, in small steps, so ingest goes first.
 *
 * A mismatch marks the point damaged (a durable record) and asks the source for the blocks whole. A point is proven only if it took over nothing of
 * what was found damaged at earlier ones: each version with pages of that is read again, once for all points that read it. A read the system refused proves nothing either
 * way: the proof is tried again later. What the medium does not give back is called damaged after some tries, so that one sector that is gone
 * holds up no later point for ever.
 */
import type { Clock, Timer } from '../kit/clock.ts';
import { isProblem, messageOf, type Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { DamageTakenOver } from '../store/damaged-blocks.ts';
import type { DiskStore } from '../store/disk-store.ts';
import type { MachineStore } from '../store/machine-store.ts';
import { isMediumError } from '../store/medium-error.ts';
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
  #retry: Timer | null = null;
  /** Blocks of the oldest point without a proof that the medium did not give back → how often. */
  readonly #unreadable = new Map<string, number>();

  constructor(options: ProverOptions) {
    this.#options = options;
  }

  /** Proves what is committed and not yet proven. Idempotent while it runs. */
  wake(): void {
    this.#again = true;
    this.#running ??= this.#run();
  }

  get isBusy(): boolean {
    return this.#running !== null;
  }

  /** Resolves when nothing is under way; a proof may wait to be tried again. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    this.#retry?.cancel();
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

  /** Points that are whole again are proven with the others. What fails here is tried again with the next point. */
  async #heal(): Promise<void> {
    const { store, logger } = this.#options;
    for (const disk of store.disks) {
      try {
        const versions = await store.heal(disk);
        if (versions === 0) continue;
        logger.info({ machine: store.machine, disk: disk.name, versions }, 'damaged blocks of older points are healed');
      } catch (error) {
        if (!isProblem(error)) throw error;
        logger.warn(
          { machine: store.machine, disk: disk.name, error: error.message },
          'older points can not be healed now',
        );
      }
    }
  }

  async #proveAll(): Promise<void> {
    const { store, logger, clock } = this.#options;
    await this.#heal();
    const taken = store.damageTakenOver();
    for (const point of store.unprovenPoints()) {
      if (this.#stopped()) return;
      // Found damaged by somebody else meanwhile.
      if (store.points.stateOf(point) !== 'committed') continue;
      try {
        const startedMs = this.#options.clock.monotonicMs();
        await this.#prove(point, taken);
        this.#options.counters.stageMs.proof += this.#options.clock.monotonicMs() - startedMs;
      } catch (error) {
        const retryInMs = isProblem(error) && error.retryable ? limits.target.proofRetryMs : undefined;
        logger.error({ machine: store.machine, point, error: messageOf(error), retryInMs }, 'proof failed to run');
        this.#retry?.cancel();
        if (retryInMs !== undefined && !this.#stopped()) this.#retry = clock.after(retryInMs, () => this.wake());
        // Later points take over what this one holds, so they wait for it.
        return;
      }
    }
  }

  async #prove(point: number, taken: DamageTakenOver): Promise<void> {
    const { store, counters, logger } = this.#options;
    const before = store.points.provenBefore.get(point);
    let blocks = before?.blocks ?? 0;
    let damagedDisks = 0;
    taken.goTo(point);
    for (const disk of store.disksAt(point)) {
      const own = before ? { read: 0, bad: [] } : await this.#badOf(disk, point, store.blocksOf(disk, point));
      const over = await taken.first(
        disk.no,
        async (block) => (await this.#badOf(disk, point, [block]))?.bad.length !== 0,
      );
      if (!own || this.#stopped()) return;
      blocks += own.read;
      // What was taken over is on record where it was found; one of the blocks says that this point is not whole either.
      const bad = over === null || own.bad.includes(over) ? own.bad : [...own.bad, over];
      if (bad.length === 0) continue;
      damagedDisks += 1;
      this.#options.damaged(disk, await store.markDamaged(point, disk, bad));
    }
    this.#unreadable.clear();
    if (damagedDisks > 0 || !(await store.markProven(point, blocks, taken))) {
      // Proofs of later points may have been taken back, or there is more that this one may have taken over.
      this.#again = true;
      return;
    }
    counters.pointsProven += 1;
    counters.blocksProven += blocks;
    logger.info({ machine: store.machine, point, blocks }, 'point proven');
  }

  /** Reads the blocks as of the point: how many, and which fail their check. Null when it was stopped. */
  async #badOf(
    disk: DiskStore,
    point: number,
    blocks: Iterable<number> | AsyncIterable<number>,
  ): Promise<{ read: number; bad: number[] } | null> {
    const { store, counters, logger, clock } = this.#options;
    const bad: number[] = [];
    const into = Buffer.allocUnsafeSlow(disk.geometry.blockSize);
    const reader = store.readerAt(disk, point);
    let [read, sinceTurn] = [0, 0];
    let unreadable: Problem | null = null;
    for await (const block of blocks) {
      if (this.#stopped()) return null;
      try {
        await reader.readBlock(block, into);
      } catch (error) {
        if (!isProblem(error)) throw error;
        if (error.code !== 'damaged' && !this.#isGone(disk, block, error)) {
          unreadable = error;
          continue;
        }
        counters.integrityErrors += 1;
        bad.push(block);
        logger.error({ machine: store.machine, disk: disk.name, point, block }, `proof: ${error.message}`);
      }
      read += 1;
      sinceTurn += disk.geometry.blockSize;
      if (sinceTurn >= limits.target.proofSliceBytes) {
        sinceTurn = 0;
        await clock.turn();
      }
    }
    // After all of them were tried, so that they are given up together.
    if (unreadable) throw unreadable;
    return { read, bad };
  }

  /** Notes that the medium did not give the block back; answers whether it was tried often enough. @throws the problem when it is another one. */
  #isGone(disk: DiskStore, block: number, problem: Problem): boolean {
    if (!isMediumError(problem)) throw problem;
    const { unreadableTriesMax, unreadableBlocksMax } = limits.target;
    const key = `${disk.no}/${block}`;
    const before = this.#unreadable.get(key);
    if (before === undefined && this.#unreadable.size >= unreadableBlocksMax) throw problem;
    const tries = (before ?? 0) + 1;
    this.#unreadable.set(key, tries);
    return tries >= unreadableTriesMax;
  }
}

/**
 * Which points of a disk have all their content: every version of a block that a point selects is rebuilt from the stored records once, however many
 * points share it, and matched with its leaf. Reading and opening is done by worker threads.
 */
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { DiskHistory, StoredRange, Version } from '../store/disk-history.ts';
import { problemOf } from '../store/rebuild-run.ts';
import type { DiskKeys } from '../store/vault.ts';
import type { RunReader } from './read-pool.ts';

export interface BlocksOptions {
  readonly keys: ReadonlyMap<number, DiskKeys>;
  readonly pool: RunReader;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Bytes of the disk dealt with so far. */
  readonly progress: (doneBytes: number) => void;
}

export interface BlocksOfPoint {
  /** That were checked. */
  readonly blocks: number;
  readonly damaged: number;
  /** The first of them, ascending, at most `limits.recovery.damagedNamedMax`. */
  readonly damagedBlocks: readonly number[];
}

/** Blocks whose versions are gone through together, so that neighbours in a task are of different blocks. */
const stretchBlocks = 64;

/** For each of the history's points. @throws Problem `interrupted`, `read-failed`, `shutting-down`. */
export async function checkBlocks(history: DiskHistory, options: BlocksOptions): Promise<BlocksOfPoint[]> {
  const { blockSize } = history.disk;
  const tally = new Tally(history.points.length);
  const runBlocks = Math.max(1, Math.floor(limits.recovery.runBytes / blockSize));
  const underWay = new Set<Promise<void>>();
  let group: Version[] = [];
  const begin = async (): Promise<void> => {
    const run: Promise<void> = checkRun(history, group, options, tally).finally(() => underWay.delete(run));
    run.catch(() => undefined);
    underWay.add(run);
    group = [];
    if (underWay.size >= limits.recovery.runsAheadMax) await Promise.race(underWay);
    else await options.clock.turn();
    if (options.signal.aborted) throw new Problem('interrupted', 'the verification was interrupted');
  };
  try {
    for (const version of versionsOf(history)) {
      if (group.at(-1)?.entry.block === version.entry.block) await begin();
      group.push(version);
      if (group.length < runBlocks) continue;
      options.progress(Math.min(history.size, version.entry.block * blockSize));
      await begin();
    }
    if (group.length > 0) await begin();
    await Promise.all(underWay);
  } finally {
    await Promise.allSettled(underWay);
  }
  options.progress(history.size);
  return tally.points();
}

/** Every version once; stretch by stretch, and in it the newest of each block, then the ones before. */
function* versionsOf(history: DiskHistory): Generator<Version> {
  let stretch: Generator<Version>[] = [];
  for (const block of history.blocks()) {
    stretch.push(history.versions(block));
    if (stretch.length < stretchBlocks) continue;
    yield* inTurns(stretch);
    stretch = [];
  }
  yield* inTurns(stretch);
}

function* inTurns<T>(sources: readonly Generator<T>[]): Generator<T> {
  for (let left = [...sources]; left.length > 0;) {
    const more: Generator<T>[] = [];
    for (const source of left) {
      const step = source.next();
      if (step.done === true) continue;
      yield step.value;
      more.push(source);
    }
    left = more;
  }
}

/**
 * Without a key, for each of the history's points: blocks that take pages from stored bytes that do not check. What the rest of such a range
 * holds can not be told without opening it.
 */
export async function suspectBlocks(
  history: DiskHistory,
  ranges: readonly StoredRange[],
  { clock, signal }: Pick<BlocksOptions, 'clock' | 'signal'>,
): Promise<BlocksOfPoint[]> {
  const tally = new Tally(history.points.length);
  let versions = 0;
  for (const version of versionsOf(history)) {
    tally.checked(version);
    if (history.liesIn(version, ranges)) tally.damaged(version);
    versions += 1;
    if (versions % limits.store.indexStepEntries !== 0) continue;
    await clock.turn();
    if (signal.aborted) throw new Problem('interrupted', 'the verification was interrupted');
  }
  return tally.points();
}

async function checkRun(
  history: DiskHistory,
  versions: readonly Version[],
  { keys, pool }: BlocksOptions,
  tally: Tally,
): Promise<void> {
  const { bytes, failures } = await pool.read(history.plan(versions, keys));
  pool.giveBack(bytes);
  for (const failure of failures) {
    const version = versions[failure.index];
    invariant(version, 'a failure is of a block of the run');
    // A key version that `machine.json` does not have is damage of that file.
    if (failure.code !== 'damaged' && failure.code !== 'no-key') throw problemOf(failure);
    tally.damaged(version);
  }
  for (const version of versions) tally.checked(version);
}

/** Counts ranges of points: what a range adds is noted where it begins and taken back where it ends. */
class Tally {
  readonly #checked: Float64Array;
  readonly #damaged: Float64Array;
  /** The first found; some may not be named where there are very many. */
  readonly #named: Version[] = [];

  constructor(points: number) {
    this.#checked = new Float64Array(points + 1);
    this.#damaged = new Float64Array(points + 1);
  }

  checked(version: Version): void {
    addRange(this.#checked, version);
  }

  damaged(version: Version): void {
    addRange(this.#damaged, version);
    if (this.#named.length < limits.recovery.damagedVersionsMax) this.#named.push(version);
  }

  points(): BlocksOfPoint[] {
    const named = this.#named.sort((a, b) => a.entry.block - b.entry.block);
    const found: BlocksOfPoint[] = [];
    let [blocks, damaged] = [0, 0];
    for (let at = 0; at + 1 < this.#checked.length; at += 1) {
      blocks += this.#checked[at] ?? 0;
      damaged += this.#damaged[at] ?? 0;
      const here = damaged === 0 ? [] : named.filter(({ from, end }) => from <= at && at < end);
      const damagedBlocks = here.slice(0, limits.recovery.damagedNamedMax).map(({ entry }) => entry.block);
      found.push({ blocks, damaged, damagedBlocks });
    }
    return found;
  }
}

function addRange(counts: Float64Array, { from, end }: Version): void {
  counts[from] = (counts[from] ?? 0) + 1;
  counts[end] = (counts[end] ?? 0) - 1;
}

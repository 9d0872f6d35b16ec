/**
 * What a target does beside ingest, measured on its own code with a store of its own in this process, so without network and sessions: fold and
 * compaction, what ingest loses while a fold runs at the target's pace, and the check of everything stored.
 *
 * The disk was written whole and then three fifths of it again, and only the newest point is kept: so the first segments are mostly dead. Ingest is
 * measured in pairs, with the same fold standing still and going on; who goes first takes turns.
 */
import { createCipheriv, createHash } from 'node:crypto';
import { systemClock } from '../../src/kit/clock.ts';
import { createLogger } from '../../src/observe/logger.ts';
import type { DiskStore } from '../../src/store/disk-store.ts';
import type { MachineStore } from '../../src/store/machine-store.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { newTargetCounters } from '../../src/target/counters.ts';
import { Folder } from '../../src/target/folder.ts';
import { ScrubPace } from '../../src/target/scrub-pace.ts';
import { Scrubber } from '../../src/target/scrubber.ts';
import { median } from './figures.ts';
import { blockBytes, chooseBlocks } from './content.ts';
import { beginLayer, commitPoint, sealedBatch, withStore } from './made-store.ts';

export interface StoreWorkFigures {
  /** Bytes of segment files given back per second, at full speed: reading them, moving what is live, and the index; 10⁶ bytes. The target takes less. */
  readonly foldMBps: number;
  readonly fold: { readonly bytesRemoved: number; readonly bytesMoved: number; readonly recordsDropped: number };
  /** Ingest while a fold runs at the target's pace ÷ without, median of the pairs; goal ≥ 0.85. */
  readonly foldIngestRatio: number;
  /** Durable and indexed, stored bytes, without a fold; 10⁶ bytes. Median. */
  readonly ingestMBps: number;
  readonly ingestPairs: number;
  /** Stored bytes checked per second of processor time (all threads together): digests, and every version rebuilt; 10⁹ bytes. */
  readonly scrubGBps: number;
  readonly scrubbedBytes: number;
}

/** Of the disk, and the random part of each block: either way more than a segment is stored of it. Pairs, and blocks of each measured ingest. */
const extents = {
  whole: { diskBytes: 544 * MiB, randomBytes: blockBytes / 2, pairs: 9, windowBlocks: 1024 },
  quick: { diskBytes: 272 * MiB, randomBytes: blockBytes, pairs: 1, windowBlocks: 128 },
} as const;
type Extent = (typeof extents)['whole' | 'quick'];
const batchBlocks = 12;
const inFlightMax = 8;
/** What only the newest point needs is kept: all others are older than this. */
const retention = { hours: 1e-7 };
const clock = systemClock;
const logger = createLogger({ level: 'silent', clock });

interface Ready {
  readonly bodies: readonly Uint8Array[];
  readonly storedBytes: number;
}

/** Blocks, begun with so many random bytes and text from there on, every time other ones. */
function contentOf(seed: number, randomBytes: number): (block: number) => Buffer {
  const key = createHash('sha256').update(`${seed} store work`).digest();
  const random = createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(MiB));
  let count = 0;
  return (block) => {
    count += 1;
    const pages = Buffer.alloc(blockBytes, `block ${block}, content ${count}, line after line of it, `);
    const from = (count * 4099) % (MiB - randomBytes);
    random.copy(pages, 0, from, from + randomBytes);
    return pages;
  };
}

class Writer {
  readonly #store: MachineStore;
  readonly #disk: DiskStore;
  readonly #epoch: number;
  readonly #content: (block: number) => Buffer;

  constructor(store: MachineStore, disk: DiskStore, epoch: number, content: (block: number) => Buffer) {
    this.#store = store;
    this.#disk = disk;
    this.#epoch = epoch;
    this.#content = content;
  }

  /** Sealed batches of a new layer with these blocks, for `append`. */
  async seal(blocks: readonly number[]): Promise<Ready> {
    const layer = await beginLayer(this.#store, this.#disk, this.#epoch);
    const bodies: Uint8Array[] = [];
    for (let at = 0; at < blocks.length; at += batchBlocks) {
      const some = blocks.slice(at, at + batchBlocks).map((block) => ({ block, pages: this.#content(block) }));
      bodies.push(sealedBatch(this.#disk, layer, { batch: bodies.length, nonce: at }, some));
      await clock.turn();
    }
    return { bodies, storedBytes: bodies.reduce((sum, { byteLength }) => sum + byteLength, 0) };
  }

  /** Resolves when all of it is durable and indexed. */
  async append({ bodies }: Ready): Promise<void> {
    const inFlight: Promise<void>[] = [];
    for (const body of bodies) {
      if (inFlight.length === inFlightMax) await inFlight.shift();
      inFlight.push(this.#disk.appendBatch(body).durable);
    }
    await Promise.all(inFlight);
  }

  /** Without sealing: stored 10⁶ bytes per second. */
  async ingestRate(ready: Ready): Promise<number> {
    const started = performance.now();
    await this.append(ready);
    return ready.storedBytes / 1e3 / (performance.now() - started);
  }

  async point(blocks: readonly number[]): Promise<void> {
    // Sealed in parts, which lie in memory until they are written.
    const part = 1024;
    for (let at = 0; at < blocks.length; at += part) await this.append(await this.seal(blocks.slice(at, at + part)));
    await this.commit(blocks.length);
  }

  /** The layers so far become a point, which counts as proven, else it would be kept. */
  async commit(records: number): Promise<void> {
    const point = await commitPoint(this.#store, this.#disk, this.#epoch, records);
    await this.#store.markProven(point, records, this.#store.damageTakenOver());
  }
}

/** A clock by which a fold is due at once, and that can hold whoever rests by it. */
class FoldClock {
  readonly clock = {
    ...systemClock,
    monotonicMs: () => systemClock.monotonicMs() + this.#aheadMs,
    sleep: async (ms: number, signal?: AbortSignal) => {
      await systemClock.sleep(ms === limits.target.foldPollMs ? 1 : ms, signal);
      await this.#pass();
    },
    turn: async () => {
      await systemClock.turn();
      await this.#pass();
    },
  };
  #aheadMs = 0;
  #gate: { readonly arrived: PromiseWithResolvers<void>; readonly opened: PromiseWithResolvers<void> } | null = null;

  jump(ms: number): void {
    this.#aheadMs += ms;
  }

  /** Resolves when whoever rests by it stands still. */
  hold(): Promise<void> {
    this.#gate ??= { arrived: Promise.withResolvers(), opened: Promise.withResolvers() };
    return this.#gate.arrived.promise;
  }

  open(): void {
    this.#gate?.opened.resolve();
    this.#gate = null;
  }

  async #pass(): Promise<void> {
    this.#gate?.arrived.resolve();
    await this.#gate?.opened.promise;
  }
}

async function measureIngest(
  store: MachineStore,
  writer: Writer,
  { pairs, windowBlocks }: Extent,
): Promise<Pick<StoreWorkFigures, 'foldIngestRatio' | 'ingestMBps' | 'ingestPairs'>> {
  const foldClock = new FoldClock();
  const counters = newTargetCounters();
  const folder = new Folder({
    store,
    clock: foldClock.clock,
    logger,
    counters,
    retention: () => retention,
    isBusy: () => true,
  });
  foldClock.jump(limits.target.foldEveryMs);
  const blocks = Array.from({ length: windowBlocks }, (_, index) => index);
  const [ratios, without]: [number[], number[]] = [[], []];
  folder.start();
  try {
    for (let pair = 0; pair <= pairs; pair += 1) {
      const rates = { held: 0, folding: 0 };
      for (const way of pair % 2 === 0 ? (['held', 'folding'] as const) : (['folding', 'held'] as const)) {
        const ready = await writer.seal(blocks);
        await foldClock.hold();
        if (way === 'folding') foldClock.open();
        rates[way] = await writer.ingestRate(ready);
        // What is sealed in between is not measured, and no fold's time is spent on it.
        await foldClock.hold();
      }
      if (counters.bytesRemoved > 0) throw new Error('the fold was over before ingest was measured');
      if (pair === 0) continue;
      ratios.push(rates.folding / rates.held);
      without.push(rates.held);
    }
  } finally {
    foldClock.open();
    await folder.stop();
  }
  const foldIngestRatio = Number(median(ratios).toFixed(3));
  return { foldIngestRatio, ingestMBps: Math.round(median(without)), ingestPairs: pairs };
}

async function measureFold(store: MachineStore): Promise<Pick<StoreWorkFigures, 'foldMBps' | 'fold'>> {
  const fold = store.fold();
  const started = performance.now();
  const { bytesRemoved, bytesMoved, recordsDropped, complete } = await fold.run(retention, {
    step: async () => {
      await clock.turn();
      return true;
    },
  });
  const seconds = (performance.now() - started) / 1000;
  if (!complete || bytesRemoved === 0) throw new Error('the fold gave nothing back');
  const foldMBps = Math.round(bytesRemoved / 1e6 / seconds);
  return { foldMBps, fold: { bytesRemoved, bytesMoved, recordsDropped } };
}

async function measureScrub(store: MachineStore): Promise<Pick<StoreWorkFigures, 'scrubGBps' | 'scrubbedBytes'>> {
  const counters = newTargetCounters();
  const scrubber = new Scrubber({
    store,
    clock,
    logger,
    counters,
    pace: new ScrubPace({ clock, share: 1, isBusy: () => false }),
    damaged: () => undefined,
    proofsWanted: () => undefined,
  });
  const before = process.cpuUsage();
  await scrubber.pass();
  const { user, system } = process.cpuUsage(before);
  if (counters.scrubDamage > 0 || counters.scrubbedBytes === 0) throw new Error('the scrub did not find a whole store');
  const scrubGBps = Number((counters.scrubbedBytes / 1e3 / (user + system)).toFixed(2));
  return { scrubGBps, scrubbedBytes: counters.scrubbedBytes };
}

/** Makes the store in `directory`, and leaves it there. */
export async function measureStoreWork(
  directory: string,
  { seed, quick }: { readonly seed: number; readonly quick: boolean },
): Promise<StoreWorkFigures> {
  return withStore(directory, 'work', async (store) => {
    const extent = extents[quick ? 'quick' : 'whole'];
    const { diskBytes, randomBytes } = extent;
    const disk = await store.openDisk({ name: 'disk0', size: diskBytes, blockSize: blockBytes });
    const writer = new Writer(store, disk, await store.acquireEpoch('bench'), contentOf(seed, randomBytes));
    await writer.point(Array.from({ length: diskBytes / blockBytes }, (_, block) => block));
    await writer.point(chooseBlocks(diskBytes, 0.6, seed));
    const ingest = await measureIngest(store, writer, extent);
    await writer.commit(0);
    return { ...(await measureScrub(store)), ...(await measureFold(store)), ...ingest };
  });
}

export function storeWorkLines(figures: StoreWorkFigures): string[] {
  const { fold, foldMBps, foldIngestRatio, ingestMBps, ingestPairs, scrubGBps, scrubbedBytes } = figures;
  const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(0);
  return [
    `fold at full speed: ${foldMBps} MB/s (${megabytes(fold.bytesRemoved)} MB of segments given back, ${megabytes(fold.bytesMoved)} MB of it moved, ${fold.recordsDropped} records dropped)`,
    `ingest of a store while it folds at the target's pace ÷ without: ${foldIngestRatio} (goal ≥ 0.85; median of ${ingestPairs} pairs, ${ingestMBps} MB/s without)`,
    `check of what is stored: ${scrubGBps} GB per second of processor time (${megabytes(scrubbedBytes)} MB)`,
  ];
}

/**
 * Checked blocks of a point that were read lately or will be wanted soon. What is missing is read as runs of neighbouring blocks; ahead of
 * who reads in order (`read-streams.ts`), several runs at once, by the worker threads.
 *
 * Invariants:
 *  1. What is given out was checked by the image; a run that failed, and one with a damaged block that was asked for, is forgotten, so that
 *     the next reader tries again.
 *  2. Runs that are done take at most `exportCacheBytes`; the one used longest ago goes first. Runs under way are bounded by the pool, and no run is
 *     begun ahead while the threads have enough to do.
 *  3. The memory of a run is given back when it is forgotten and its last reader has copied what it wanted, not before.
 *  4. No block is in two runs at a time, and none is past the disk's end.
 */
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { StoredEntry } from '../store/machine-view.ts';
import type { PointImage } from './point-image.ts';
import { ReadStreams } from './read-streams.ts';

/** What a run without content counts, for its place in the tables. */
const emptyRunBytes = 4096;

const nothing = new Uint8Array(0);

interface Content {
  /** Views of the run's bytes, by block, or why it can not be served. What is not named is zero. */
  readonly blocks: ReadonlyMap<number, Uint8Array | Problem>;
  readonly memory: Uint8Array;
}

interface Run {
  readonly first: number;
  readonly end: number;
  readonly content: Promise<Content>;
  /** Once it is done. */
  memory: Uint8Array;
  /** What it counts; 0 while it is under way. */
  bytes: number;
  /** Who waits for it or copies from it. */
  readers: number;
  forgotten: boolean;
}

export class ReadCache {
  readonly #image: PointImage;
  readonly #streams: ReadStreams;
  readonly #runBlocks: number;
  readonly #aheadBlocks: number;
  readonly #bytesMax: number;
  readonly #runOf = new Map<number, Run>();
  /** Runs that are done, used longest ago first. */
  readonly #done = new Set<Run>();
  #bytes = 0;

  constructor(image: PointImage, bytesMax: number = limits.recovery.exportCacheBytes) {
    const { blockCount, blockSize } = image.geometry;
    this.#image = image;
    this.#bytesMax = bytesMax;
    this.#runBlocks = image.runBlocks;
    this.#aheadBlocks = Math.max(this.#runBlocks, Math.floor(limits.recovery.readAheadBytesMax / blockSize));
    this.#streams = new ReadStreams({
      runBlocks: this.#runBlocks,
      windowBlocksMax: this.#aheadBlocks,
      streamsMax: limits.recovery.streamsMax,
      blockCount,
    });
  }

  /** Bytes of runs that are done and kept. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Fills `into` from `offset` of the disk. @throws Problem `damaged`, `read-failed`, `no-key`, `shutting-down`. */
  async read(into: Uint8Array, offset: number): Promise<void> {
    const { blockSize } = this.#image.geometry;
    const first = Math.floor(offset / blockSize);
    const end = Math.ceil((offset + into.byteLength) / blockSize);
    const aheadTo = this.#streams.note(first, end);
    let begun = this.#begin(first, Math.min(end, first + this.#aheadBlocks), aheadTo);
    if (begun >= end) this.#readAhead(begun, aheadTo);
    let done = 0;
    for (let block = first; block < end; block += 1) {
      // Of a long request, only so much at a time.
      if (begun < end && begun - block < this.#runBlocks) {
        begun = this.#begin(begun, Math.min(end, block + this.#aheadBlocks), aheadTo);
      }
      const inBlock = (offset + done) % blockSize;
      const length = Math.min(blockSize - inBlock, into.byteLength - done);
      await this.#copy(block, inBlock, into.subarray(done, done + length));
      done += length;
    }
  }

  /** Begins runs for what is missing of [from, to), whole ones as far as `end`. Answers the block behind the last one. */
  #begin(from: number, to: number, end: number): number {
    let block = from;
    while (block < to) block = (this.#runOf.get(block) ?? this.#beginRun(block, end)).end;
    return block;
  }

  /** Invariant 2. */
  #readAhead(from: number, to: number): void {
    const runBytes = this.#runBlocks * this.#image.geometry.blockSize;
    for (let block = from; block < to;) {
      const known = this.#runOf.get(block);
      if (!known && this.#image.availableBytes < runBytes) return;
      block = (known ?? this.#beginRun(block, to)).end;
    }
  }

  /** A run from `first` to the next multiple of its size, to `end`, or to the next block that is in a run (invariant 4). */
  #beginRun(first: number, end: number): Run {
    const most = Math.min(end, (Math.floor(first / this.#runBlocks) + 1) * this.#runBlocks);
    let next = first + 1;
    while (next < most && !this.#runOf.has(next)) next += 1;
    const run: Run = {
      first,
      end: next,
      content: this.#load(first, next),
      memory: nothing,
      bytes: 0,
      readers: 0,
      forgotten: false,
    };
    for (let block = first; block < next; block += 1) this.#runOf.set(block, run);
    run.content.then(
      ({ memory }) => {
        this.#keep(run, memory);
      },
      () => {
        this.#forget(run);
      },
    );
    return run;
  }

  async #load(first: number, end: number): Promise<Content> {
    const entries: StoredEntry[] = [];
    for await (const entry of this.#image.stored(first, end)) entries.push(entry);
    if (entries.length === 0) return { blocks: new Map(), memory: nothing };
    const { blockSize } = this.#image.geometry;
    const { bytes, damaged } = await this.#image.readRun(entries);
    const blocks = new Map<number, Uint8Array | Problem>();
    entries.forEach(({ block }, index) => {
      blocks.set(block, damaged.get(block) ?? bytes.subarray(index * blockSize, (index + 1) * blockSize));
    });
    return { blocks, memory: bytes };
  }

  /** Fills `into` from `inBlock` of the block. */
  async #copy(block: number, inBlock: number, into: Uint8Array): Promise<void> {
    // What was begun may be gone again: it failed, or others needed the room.
    const run = this.#runOf.get(block) ?? this.#beginRun(block, block + 1);
    if (this.#done.delete(run)) this.#done.add(run);
    run.readers += 1;
    try {
      const found = (await run.content).blocks.get(block);
      if (found instanceof Problem) {
        this.#forget(run);
        throw found;
      }
      if (found) into.set(found.subarray(inBlock, inBlock + into.byteLength));
      else into.fill(0);
    } finally {
      run.readers -= 1;
      this.#settle(run);
    }
  }

  #keep(run: Run, memory: Uint8Array): void {
    run.memory = memory;
    run.bytes = Math.max(memory.byteLength, emptyRunBytes);
    this.#bytes += run.bytes;
    this.#done.add(run);
    for (const oldest of this.#done) {
      if (this.#bytes <= this.#bytesMax) return;
      this.#forget(oldest);
    }
  }

  #forget(run: Run): void {
    if (run.forgotten) return;
    run.forgotten = true;
    for (let block = run.first; block < run.end; block += 1) this.#runOf.delete(block);
    if (this.#done.delete(run)) this.#bytes -= run.bytes;
    this.#settle(run);
  }

  /** Invariant 3. */
  #settle(run: Run): void {
    if (!run.forgotten || run.readers > 0) return;
    this.#image.giveBack({ bytes: run.memory });
    run.memory = nothing;
  }
}

/**
 * Brings a file or device to what a disk was at a point: blocks in ascending order, each checked against its leaf before it is written, holes for
 * what is zero.
 *
 * What is there already is not believed, it is compared: a block that lies in the file is read and matched with the same leaf as one from the
 * store. So an export that was cut short goes on by being run again, there is no journal that could say what is not so, and what a power
 * failure took, or somebody changed in between, is written once more. Reading and hashing cost less than opening sealed records.
 *
 * Invariants:
 *  1. When `run` resolves every block was either written from a checked one or matched its leaf in place, and every other byte of the disk was
 *     made zero. The caller makes it durable.
 *  2. Where comparing does not pay it ends: holes are not read, and after `mismatchesMax` blocks in a row that differ the rest is written. So a
 *     device that held something else costs a few reads.
 */
import { blockBytesOnDisk } from '../disk/geometry.ts';
import { isZero, leafOf } from '../kernels/hash.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { File } from '../posix/files.ts';
import type { StoredEntry } from '../store/machine-view.ts';
import type { BlockRun, PointImage } from './point-image.ts';

/** More blocks than are on their way at a time: an export that was cut short may have left gaps among the last of them. */
const mismatchesMax = 256;

export interface CopyOptions {
  /** Of all versions, 32 bytes each. */
  readonly leafKeys: readonly Uint8Array[];
  /** Every byte of the file reads as zero: there is nothing to compare, and nothing to clear. */
  readonly empty: boolean;
  readonly signal: AbortSignal;
  /** Bytes of the disk dealt with so far. */
  readonly progress: (doneBytes: number) => void;
}

export interface Copied {
  /** Bytes written. */
  readonly written: number;
  /** Bytes that were right already. */
  readonly kept: number;
}

export class ExportCopy {
  readonly #image: PointImage;
  readonly #file: File;
  readonly #options: CopyOptions;
  readonly #block: Buffer;
  #comparing: boolean;
  #mismatches = 0;
  #written = 0;
  #kept = 0;

  /** The image's leaves were checked. */
  constructor(image: PointImage, file: File, options: CopyOptions) {
    this.#image = image;
    this.#file = file;
    this.#options = options;
    this.#comparing = !options.empty;
    this.#block = Buffer.alloc(image.geometry.blockSize);
  }

  /** @throws Problem `damaged`, `interrupted`, `read-failed`; system errors are of the file. */
  async run(): Promise<Copied> {
    const { geometry } = this.#image;
    for await (const run of this.#image.runs(this.#missing())) {
      for (const problem of run.damaged.values()) throw problem;
      await this.#writeRun(run);
      this.#image.giveBack(run);
      const last = run.entries.at(-1);
      if (last) this.#options.progress(Math.min(geometry.size, (last.block + 1) * geometry.blockSize));
      if (this.#options.signal.aborted) throw new Problem('interrupted', 'the export was interrupted');
    }
    this.#options.progress(geometry.size);
    return { written: this.#written, kept: this.#kept };
  }

  /** Blocks that are to be written; clears what lies between those that are stored. */
  async *#missing(): AsyncGenerator<StoredEntry> {
    const { size, blockSize } = this.#image.geometry;
    let cleared = 0;
    for await (const entry of this.#image.stored()) {
      const from = entry.block * blockSize;
      await this.#clear(cleared, from);
      cleared = Math.min(size, from + blockSize);
      if (await this.#isThere(entry)) {
        this.#kept += cleared - from;
        this.#options.progress(cleared);
        if (this.#options.signal.aborted) throw new Problem('interrupted', 'the export was interrupted');
      } else yield entry;
    }
    await this.#clear(cleared, size);
  }

  /** Writes neighbouring blocks at once. */
  async #writeRun({ entries, bytes }: BlockRun): Promise<void> {
    const { geometry } = this.#image;
    const { blockSize } = geometry;
    for (let first = 0; first < entries.length;) {
      const start = entries[first]?.block ?? 0;
      let end = first + 1;
      while (entries[end]?.block === start + end - first) end += 1;
      const length = (end - first - 1) * blockSize + blockBytesOnDisk(geometry, start + end - first - 1);
      await this.#file.write([bytes.subarray(first * blockSize, first * blockSize + length)], start * blockSize);
      this.#written += length;
      first = end;
    }
  }

  async #isThere({ block, leaf }: StoredEntry): Promise<boolean> {
    if (!this.#comparing) return false;
    const { geometry } = this.#image;
    const length = blockBytesOnDisk(geometry, block);
    const at = block * geometry.blockSize;
    if (this.#file.extentSync(at, length).hole) return false;
    this.#block.fill(0, length);
    const got = await this.#file.read(this.#block.subarray(0, length), at);
    const same =
      got === length && this.#options.leafKeys.some((key) => Buffer.compare(leafOf(key, this.#block), leaf) === 0);
    this.#mismatches = same ? 0 : this.#mismatches + 1;
    if (this.#mismatches > mismatchesMax) this.#comparing = false;
    return same;
  }

  /** Makes [from, to) zero, sparse where that can be. */
  async #clear(from: number, to: number): Promise<void> {
    if (this.#options.empty) return;
    for (let at = from; at < to;) {
      const { hole, length } = this.#file.extentSync(at, Math.min(to - at, limits.recovery.clearBytes));
      if (!hole && !this.#file.punchHoleSync(at, length)) await this.#writeZeros(at, length);
      at += length;
      if (this.#options.signal.aborted) throw new Problem('interrupted', 'the export was interrupted');
    }
  }

  /** Writes zeros where there is anything else. */
  async #writeZeros(from: number, length: number): Promise<void> {
    for (let at = from; at < from + length;) {
      const piece = this.#block.subarray(0, Math.min(this.#block.byteLength, from + length - at));
      await this.#file.read(piece, at);
      if (!isZero(piece)) await this.#file.write([Buffer.alloc(piece.byteLength)], at);
      at += piece.byteLength;
    }
  }
}

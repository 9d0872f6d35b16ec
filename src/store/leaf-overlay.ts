/**
 * Uncommitted leaves of a disk, in chunks of 1,024 (one Merkle node, 32 KiB): the newest used in memory, the others in a sparse file
 * beside the leaf file. Nothing here survives the process, and nothing needs to: agent and target get uncommitted leaves back from
 * durable layers.
 *
 * Invariants:
 *  1. A chunk here is whole: the committed leaves it was made from with the set ones laid over.
 *  2. A chunk is either in memory or in `#spilled`, never in both.
 *     So too when the file refuses: a chunk moves once it has been written or read.
 *  3. At most `memoryBytes` of chunks are in memory (at least one).
 */
import { invariant } from '../kit/invariant.ts';
import type { File } from '../posix/files.ts';
import { limits } from '../limits.ts';

const { leavesPerNode, leafBytes } = limits.disk;
export const chunkBytes = leavesPerNode * leafBytes;

export class LeafOverlay {
  readonly #spill: File;
  readonly #chunksMax: number;
  /** In order of use, the oldest first. */
  readonly #inMemory = new Map<number, Uint8Array>();
  readonly #spilled = new Set<number>();
  /** Per chunk, which of its blocks were set. */
  readonly #setBlocks = new Map<number, Uint8Array>();
  #lastIndex = -1;
  #lastChunk: Uint8Array | undefined;
  #blocks = 0;
  #free: Uint8Array[] = [];

  constructor(spill: File, memoryBytes: number) {
    this.#spill = spill;
    this.#chunksMax = Math.max(1, Math.floor(memoryBytes / chunkBytes));
  }

  /** Distinct blocks set. */
  get blocks(): number {
    return this.#blocks;
  }

  has(index: number): boolean {
    return this.#setBlocks.has(index);
  }

  /** Chunks held, ascending. */
  indices(): number[] {
    return [...this.#setBlocks.keys()].sort((a, b) => a - b);
  }

  /** The chunk's bytes, or undefined if nothing of it was set. Valid until the next call. */
  chunk(index: number): Uint8Array | undefined {
    if (index === this.#lastIndex) return this.#lastChunk;
    if (!this.#setBlocks.has(index)) return undefined;
    let bytes = this.#inMemory.get(index);
    if (bytes) {
      this.#inMemory.delete(index);
    } else {
      invariant(this.#spilled.has(index), 'a chunk is in memory or spilled');
      bytes = this.#room();
      const got = this.#spill.readSync(bytes, index * chunkBytes);
      bytes.fill(0, got);
      this.#spilled.delete(index);
    }
    this.#inMemory.set(index, bytes);
    this.#lastIndex = index;
    this.#lastChunk = bytes;
    return bytes;
  }

  /** Sets a leaf; `load` fills the chunk with its committed leaves when it is not here yet. */
  set(block: number, leaf: Uint8Array, load: (into: Uint8Array) => void): void {
    const index = Math.floor(block / leavesPerNode);
    const within = block % leavesPerNode;
    let bytes = this.chunk(index);
    if (!bytes) {
      bytes = this.#room();
      load(bytes);
      this.#inMemory.set(index, bytes);
      this.#setBlocks.set(index, new Uint8Array(leavesPerNode / 8));
      this.#lastIndex = index;
      this.#lastChunk = bytes;
    }
    bytes.set(leaf, within * leafBytes);
    const marks = this.#setBlocks.get(index);
    invariant(marks, 'a chunk has marks');
    const bit = 1 << (within & 7);
    const before = marks[within >>> 3] ?? 0;
    if ((before & bit) !== 0) return;
    marks[within >>> 3] = before | bit;
    this.#blocks += 1;
  }

  /** Forgets one chunk. */
  remove(index: number): void {
    const marks = this.#setBlocks.get(index);
    if (!marks) return;
    for (const byte of marks) for (let rest = byte; rest !== 0; rest &= rest - 1) this.#blocks -= 1;
    this.#setBlocks.delete(index);
    this.#spilled.delete(index);
    const bytes = this.#inMemory.get(index);
    if (bytes) {
      this.#inMemory.delete(index);
      this.#free = [bytes];
    }
    if (index === this.#lastIndex) this.#forgetLast();
  }

  /** Gives the spill file's space back; call when nothing is held. */
  releaseSpace(bytes: number): void {
    invariant(this.#setBlocks.size === 0, 'nothing is held');
    // Where holes can not be punched the stale bytes stay; invariant 2 says which are meant.
    if (bytes > 0) this.#spill.punchHoleSync(0, bytes);
  }

  #forgetLast(): void {
    this.#lastIndex = -1;
    this.#lastChunk = undefined;
  }

  /** A buffer for one more chunk; the least used one goes to the file if there is no room. */
  #room(): Uint8Array {
    const oldest = this.#inMemory.size >= this.#chunksMax ? this.#inMemory.entries().next() : undefined;
    if (!oldest || oldest.done === true) return this.#free.pop() ?? new Uint8Array(chunkBytes);
    const [index, bytes] = oldest.value;
    this.#spill.writeSync(bytes, index * chunkBytes);
    this.#inMemory.delete(index);
    this.#spilled.add(index);
    if (index === this.#lastIndex) this.#forgetLast();
    return bytes;
  }
}

/**
 * The leaves of one disk in a file, with what is not committed laid over. Used by agent and target alike: both hold the
 * same leaves, so both compute the same Merkle root (DESIGN §3).
 *
 * File: leaf of block b = 32 bytes at 32·b, nothing else; a zero leaf is 32 zero bytes, so an unwritten stretch is a hole.
 * Beside it `<path>.overlay`, emptied at every open.
 *
 * Invariants:
 *  1. Working leaf = the overlay's if the block's chunk is there, else the committed one.
 *  2. `#committed` are the nodes of the committed leaves; `#working`, when it exists, those of the working leaves except the chunks
 *     in `#dirty`, which are rehashed when a root is asked for.
 *  3. While a commit folds, the chunks in `#folding` still belong to it: a `set` into one folds it first, `discard` leaves it alone.
 *  4. The file is a cache. A crash during `commit` leaves old and new chunks side by side, and nothing here notices: after `open`
 *     compare `committedRoot()` with the root you stored durably elsewhere; if it differs, `reset()` and `set` all leaves again (or
 *     those known to have changed), then `commit()`. So store your root before you commit, or after: both are safe.
 *
 * Reads and writes are synchronous, through the page cache, a chunk of 32 KiB at a time; ascending access touches each chunk once.
 */
import { leavesInNode, MerkleNodes, nodeCountOf, type MerkleHashes } from '../disk/merkle.ts';
import type { Geometry } from '../disk/geometry.ts';
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import type { File, Files } from '../posix/files.ts';
import type { NodeHash } from './index-nodes.ts';
import { chunkBytes, LeafOverlay } from './leaf-overlay.ts';

const { leavesPerNode, leafBytes } = limits.disk;
/** Chunks read per step at open, and folded between two syncs: 1 MiB and 8 MiB. */
const chunksPerRead = 32;
const chunksPerSync = 256;
const zeroChunk = Buffer.alloc(chunkBytes);

export interface LeafFileOptions {
  readonly files: Files;
  readonly path: string;
  readonly geometry: Geometry;
  readonly hashes: MerkleHashes;
  /** Default `limits.store.leafOverlayMemoryBytes`. */
  readonly overlayMemoryBytes?: number;
}

export class LeafFile {
  readonly #file: File;
  readonly #spill: File;
  readonly #hashes: MerkleHashes;
  readonly #overlay: LeafOverlay;
  readonly #cache = new Uint8Array(chunkBytes);
  #cached = -1;
  #geometry: Geometry;
  #committed: MerkleNodes;
  #working: MerkleNodes | undefined;
  readonly #dirty = new Set<number>();
  #folding = new Set<number>();
  #tail: Promise<void> = Promise.resolve();
  #jobs = 0;
  #growing = false;
  #closed = false;

  private constructor(options: LeafFileOptions, file: File, spill: File) {
    this.#file = file;
    this.#spill = spill;
    this.#hashes = options.hashes;
    this.#geometry = options.geometry;
    this.#overlay = new LeafOverlay(spill, options.overlayMemoryBytes ?? limits.store.leafOverlayMemoryBytes);
    this.#committed = new MerkleNodes(options.geometry, options.hashes);
  }

  /** Opens or makes the file and hashes it once. What lies past the geometry's last block is cut off. */
  static async open(options: LeafFileOptions): Promise<LeafFile> {
    const file = await options.files.open(options.path, 'create');
    let spill: File | undefined;
    try {
      spill = await options.files.open(`${options.path}.overlay`, 'create');
      await spill.truncate(0);
      const size = options.geometry.blockCount * leafBytes;
      if (file.facts().size !== size) await file.truncate(size);
      const leaves = new LeafFile(options, file, spill);
      leaves.#committed = await leaves.#hashFile(options.geometry);
      return leaves;
    } catch (error) {
      await spill?.close();
      await file.close();
      throw error;
    }
  }

  get geometry(): Geometry {
    return this.#geometry;
  }

  /** Distinct blocks set since the last commit or discard. */
  get overlayBlocks(): number {
    return this.#overlay.blocks;
  }

  /** The working leaf, 32 bytes of its own. */
  get(block: number): Uint8Array {
    invariant(block >= 0 && block < this.#geometry.blockCount, `block ${block} is on the disk`);
    const at = (block % leavesPerNode) * leafBytes;
    return this.#chunk(Math.floor(block / leavesPerNode)).slice(at, at + leafBytes);
  }

  /** Working leaves of the blocks [first, first + count), one after another, in memory of their own. */
  leavesOf(first: number, count: number): Uint8Array {
    return this.#gather(first, count, (index) => this.#chunk(index));
  }

  /** The same of the committed leaves, whatever is laid over them. */
  committedLeavesOf(first: number, count: number): Uint8Array {
    const bytes = new Uint8Array(chunkBytes);
    return this.#gather(first, count, (index) => {
      // What a commit has still to fold counts as committed.
      if (!this.#overlay.has(index) || this.#folding.has(index)) return this.#chunk(index);
      this.#readCommitted(index, bytes);
      return bytes;
    });
  }

  /** Merkle nodes [first, first + count) over the working leaves, in memory of their own. Rehashes what was set under these alone. */
  nodesOf(first: number, count: number): Uint8Array {
    const nodes = this.#rehash(first, first + count) ?? this.#committed;
    const gathered = new Uint8Array(count * leafBytes);
    for (let index = 0; index < count; index += 1) gathered.set(nodes.node(first + index), index * leafBytes);
    return gathered;
  }

  /** Merkle nodes over the working leaves that may differ from the committed ones. */
  changedNodes(): NodeHash[] {
    return this.#overlay.indices().map((node) => ({ node, hash: this.nodesOf(node, 1) }));
  }

  /** Lays a leaf (copied) over the committed one. */
  set(block: number, leaf: Uint8Array): void {
    invariant(block >= 0 && block < this.#geometry.blockCount, `block ${block} is on the disk`);
    invariant(leaf.byteLength === leafBytes, 'a leaf has 32 bytes');
    const index = Math.floor(block / leavesPerNode);
    if (this.#folding.has(index)) this.#fold(index);
    this.#overlay.set(block, leaf, (into) => this.#readCommitted(index, into));
    this.#dirty.add(index);
  }

  /** The root over all working leaves, 32 bytes. Rehashes what was set since the last call. */
  workingRoot(): Uint8Array {
    return (this.#rehash() ?? this.#committed).root();
  }

  committedRoot(): Uint8Array {
    return this.#committed.root();
  }

  /**
   * Makes the working leaves as of the call the committed ones and syncs them. `committedRoot` changes at once; `set` and `get` go on
   * meanwhile, and what is set now belongs to the next commit. If it fails for want of space it can be called again.
   */
  commit(): Promise<void> {
    invariant(!this.#growing, 'no commit while the file grows');
    this.#foldRest();
    this.#committed = this.#rehash() ?? this.#committed;
    this.#working = undefined;
    const indices = this.#overlay.indices();
    this.#folding = new Set(indices);
    return this.#exclusively(async () => {
      let unsynced = 0;
      for (const index of indices) {
        if (this.#folding.has(index)) this.#fold(index);
        unsynced += 1;
        if (unsynced < chunksPerSync) continue;
        unsynced = 0;
        await this.#file.datasync();
      }
      this.#releaseSpill();
      await this.#file.datasync();
    });
  }

  /** Back to the committed leaves. */
  discard(): void {
    for (const index of this.#overlay.indices()) if (!this.#folding.has(index)) this.#overlay.remove(index);
    this.#dirty.clear();
    this.#working = undefined;
    this.#releaseSpill();
  }

  /** All leaves zero, committed and working. Not synced: invariant 4 covers a crash. */
  reset(): void {
    invariant(!this.#growing, 'no reset while the file grows');
    for (const index of this.#overlay.indices()) this.#overlay.remove(index);
    this.#folding.clear();
    this.#dirty.clear();
    this.#working = undefined;
    this.#cached = -1;
    this.#writeZeros(0, this.#geometry.blockCount * leafBytes);
    this.#committed = new MerkleNodes(this.#geometry, this.#hashes);
    this.#releaseSpill();
  }

  /**
   * The disk grew; new blocks have zero leaves. Both roots are of the new size once this resolves, so compare `committedRoot` with
   * what you stored before.
   */
  grow(geometry: Geometry): Promise<void> {
    return this.#exclusively(async () => {
      invariant(geometry.blockSize === this.#geometry.blockSize, 'the block size never changes');
      invariant(geometry.size >= this.#geometry.size, 'a disk never shrinks');
      this.#growing = true;
      try {
        this.#foldRest();
        await this.#file.truncate(geometry.blockCount * leafBytes);
        this.#committed = await this.#hashFile(geometry);
        this.#geometry = geometry;
        this.#working = undefined;
        this.#cached = -1;
        for (const index of this.#overlay.indices()) this.#dirty.add(index);
      } finally {
        this.#growing = false;
      }
    });
  }

  /** Waits for a commit under way. Uncommitted leaves are forgotten. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#tail;
    await this.#spill.truncate(0);
    await this.#spill.close();
    await this.#file.close();
  }

  /** Commits and growths run one after another; the first one begins at once. */
  #exclusively(job: () => Promise<void>): Promise<void> {
    const result = this.#jobs === 0 ? job() : this.#tail.then(job);
    this.#jobs += 1;
    const ended = (): void => {
      this.#jobs -= 1;
    };
    this.#tail = result.then(ended, ended);
    return result;
  }

  /** The chunk of working leaves; valid until the next call. */
  #chunk(index: number): Uint8Array {
    const laidOver = this.#overlay.chunk(index);
    if (laidOver) return laidOver;
    if (this.#cached !== index) {
      this.#cached = -1; // Nothing, if the reading fails.
      this.#readCommitted(index, this.#cache);
      this.#cached = index;
    }
    return this.#cache;
  }

  #gather(first: number, count: number, chunkOf: (index: number) => Uint8Array): Uint8Array {
    invariant(first >= 0 && first + count <= this.#geometry.blockCount, `blocks ${first} + ${count} are on the disk`);
    const gathered = new Uint8Array(count * leafBytes);
    for (let block = first; block < first + count;) {
      const index = Math.floor(block / leavesPerNode);
      const end = Math.min(first + count, (index + 1) * leavesPerNode);
      const at = (block - index * leavesPerNode) * leafBytes;
      gathered.set(chunkOf(index).subarray(at, at + (end - block) * leafBytes), (block - first) * leafBytes);
      block = end;
    }
    return gathered;
  }

  #readCommitted(index: number, into: Uint8Array): void {
    const got = this.#file.readSync(into, index * chunkBytes);
    into.fill(0, got);
  }

  /** The nodes of the working leaves, right in [first, end); undefined: the same as the committed ones. */
  #rehash(first = 0, end = Infinity): MerkleNodes | undefined {
    for (const index of this.#dirty) {
      if (index < first || index >= end) continue;
      this.#working ??= this.#committed.clone();
      this.#working.set(index, this.#chunk(index).subarray(0, leavesInNode(this.#geometry, index) * leafBytes));
      this.#dirty.delete(index);
    }
    return this.#working;
  }

  /** Finishes at once what a commit has still to fold. */
  #foldRest(): void {
    for (const index of [...this.#folding]) this.#fold(index);
  }

  /** Moves one chunk from the overlay into the file. */
  #fold(index: number): void {
    const chunk = this.#overlay.chunk(index);
    invariant(chunk, 'a folding chunk is in the overlay');
    const bytes = chunk.subarray(0, leavesInNode(this.#geometry, index) * leafBytes);
    if (isZeros(bytes)) this.#writeZeros(index * chunkBytes, bytes.byteLength);
    else this.#file.writeSync(bytes, index * chunkBytes);
    if (this.#cached === index) this.#cached = -1;
    this.#folding.delete(index);
    this.#overlay.remove(index);
  }

  #writeZeros(position: number, length: number): void {
    if (this.#file.punchHoleSync(position, length)) return;
    for (let at = 0; at < length; at += chunkBytes) {
      this.#file.writeSync(zeroChunk.subarray(0, Math.min(chunkBytes, length - at)), position + at);
    }
  }

  #releaseSpill(): void {
    if (this.#overlay.indices().length === 0) this.#overlay.releaseSpace(this.#geometry.blockCount * leafBytes);
  }

  /** Nodes over the whole committed file. */
  async #hashFile(geometry: Geometry): Promise<MerkleNodes> {
    const nodes = new MerkleNodes(geometry, this.#hashes);
    const count = nodeCountOf(geometry);
    const step = Buffer.allocUnsafe(Math.min(chunksPerRead, count) * chunkBytes);
    for (let first = 0; first < count; first += chunksPerRead) {
      const got = await this.#file.read(step, first * chunkBytes);
      step.fill(0, got);
      for (let index = first; index < Math.min(first + chunksPerRead, count); index += 1) {
        const at = (index - first) * chunkBytes;
        const chunk = step.subarray(at, at + leavesInNode(geometry, index) * leafBytes);
        if (!isZeros(chunk)) nodes.set(index, chunk);
      }
    }
    return nodes;
  }
}

/** At most a chunk. */
function isZeros(bytes: Uint8Array): boolean {
  return zeroChunk.compare(bytes, 0, bytes.byteLength, 0, bytes.byteLength) === 0;
}

/**
 * A disk as of a recovery point, for reading: what export, NBD export, failover and verify have in common. Needs the target's directory and
 * the vault key or recovery file, nothing that runs (DESIGN §1).
 *
 * How to read one:
 *   const image = new PointImage(await view.diskAt(disk, body, vault), clock, { pool });   // pool: one `ReadPool` per process
 *   await image.checkLeaves();                                                            // first, once; under a second
 *   await image.readBlock(block, into);                                                   // here and there
 *   for await (const { entries, bytes, damaged } of image.runs(image.stored())) …         // everything, in order, through the threads
 * `stored()` gives the blocks that are not zero, so what it leaves out is a hole. A run's bytes are the receiver's. `damaged` names the blocks that can
 * not be served; everything else that goes wrong (`read-failed`, `no-key`, `shutting-down`) ends the iteration. Who wants to look at what there is
 * although it does not make the root (verify) gives `runs` the `entries()` instead and puts their leaves into a `RootBuilder`.
 *
 * Opening copies and replays nothing: the index has the point's Merkle nodes, and when they make the point's root they are the point's. Only where
 * they do not, all records are looked through. Leaves are compared with their node when they are first needed.
 *
 * Invariants:
 *  1. A block is served only after it was rebuilt and matched the leaf of an entry, and that leaf is part of a node that is part of the point's
 *     root. So neither a flipped bit nor a missing, moved or older record is ever served (C10), whatever the index says.
 *  2. Blocks whose leaf is zero are zero, records or not; that too is covered by the root.
 *  3. Memory is bounded: one node of 1,024 leaves takes 32 bytes, and the leaves of some nodes are kept.
 *  4. The index is a cache: where it does not give the leaves of a node, the image goes on by another one (`otherIndex`), if there is one.
 *  5. A target that goes on beside it moves records and unlinks the segments they were in. What is missing, or another one, where the index said it was
 *     is damaged only when nothing was removed since, or when it is still missing where it is now (`DiskAtPoint.renew`).
 */
import { leavesInNode, MerkleNodes, nodeCountOf } from '../disk/merkle.ts';
import type { Geometry } from '../disk/geometry.ts';
import { merkleHashes } from '../kernels/hash.ts';
import { invariant } from '../kit/invariant.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { DiskAtPoint, StoredEntry } from '../store/machine-view.ts';
import { problemOf } from '../store/rebuild-run.ts';
import { damageOf, isDamage } from './damage-of.ts';
import { areZeroLeaves, isZeroLeaf, leafIn } from './node-leaves.ts';
import type { RunReader } from './read-pool.ts';
import { RootBuilder } from './root-builder.ts';
import { SpareMemory } from './spare-memory.ts';

const { leafBytes, leavesPerNode } = limits.disk;
/** Segments may be removed again while an index is opened anew. */
const renewalsMax = 3;
/** Blocks read together, in the order of their entries. */
export interface BlockRun {
  readonly entries: readonly StoredEntry[];
  /** The i-th block at i × blockSize; zeros where it is damaged. */
  readonly bytes: Uint8Array;
  /** By block: why it is not served. */
  readonly damaged: ReadonlyMap<number, Problem>;
}

export interface PointImageOptions {
  /** Without one everything is read on the calling thread. */
  readonly pool?: RunReader | undefined;
  /** The same disk at the same point by an index that can be trusted more (one built from the segments); asked for at most once. */
  readonly otherIndex?: (() => Promise<DiskAtPoint>) | undefined;
}

export class PointImage {
  readonly #clock: Clock;
  readonly #pool: RunReader | undefined;
  readonly #otherIndex: PointImageOptions['otherIndex'];
  #at: DiskAtPoint;
  #other: Promise<DiskAtPoint> | null = null;
  /** Whose root is the point's; null before `checkLeaves`. */
  #tree: MerkleNodes | null = null;
  /** Leaves that match their node of `#tree`, by node, least recently used first; null: all zero. */
  readonly #leavesOfNode = new Map<number, Uint8Array | null>();
  readonly #zeroNode: Uint8Array;
  /** For runs of one block read on this thread. */
  readonly #spare: SpareMemory;

  constructor(at: DiskAtPoint, clock: Clock, options: PointImageOptions = {}) {
    this.#at = at;
    this.#clock = clock;
    this.#pool = options.pool;
    this.#otherIndex = options.otherIndex;
    this.#spare = new SpareMemory(at.geometry.blockSize, limits.recovery.streamsMax);
    this.#zeroNode = merkleHashes.node(new Uint8Array(leavesPerNode * leafBytes));
  }

  get at(): DiskAtPoint {
    return this.#at;
  }

  get geometry(): Geometry {
    return this.#at.geometry;
  }

  /** Blocks that one run holds at most. */
  get runBlocks(): number {
    return Math.max(1, Math.floor(limits.recovery.runBytes / this.geometry.blockSize));
  }

  /** Bytes of blocks the threads would take at once; 0 without. */
  get availableBytes(): number {
    return this.#pool?.availableBytes ?? 0;
  }

  /** Blocks with a record at this point, ascending, as the index lists them: nothing is checked. */
  *entries(fromBlock = 0): Generator<StoredEntry> {
    let next = fromBlock;
    for (const entry of this.#at.entries(fromBlock)) {
      // Else a block could be told twice, and another one counted for the root than is read.
      if (entry.block < next || entry.block >= this.geometry.blockCount) throw this.wrongRoot();
      next = entry.block + 1;
      yield entry;
    }
  }

  /**
   * The blocks in [fromBlock, endBlock) that are not zero, ascending, by entries whose leaves are the point's; after `checkLeaves`.
   * @throws Problem `damaged` when the index does not give the leaves of a node.
   */
  async *stored(fromBlock = 0, endBlock = this.geometry.blockCount): AsyncGenerator<StoredEntry> {
    for (let from = fromBlock; from < endBlock;) {
      const node = Math.floor(from / leavesPerNode);
      const end = Math.min((node + 1) * leavesPerNode, endBlock);
      yield* (await this.#storedInNode(node, from, end)) ?? [];
      from = end;
    }
  }

  /** Content of the block as of an entry, into `into` (blockSize bytes), on the calling thread. @throws Problem `damaged`. */
  async read(entry: StoredEntry, into: Uint8Array): Promise<void> {
    try {
      await this.#at.read(entry, into);
    } catch (error) {
      if (!isDamage(error)) throw error;
      await this.#readAnew(entry, into, error);
    }
  }

  /** The blocks of these entries, at most `runBlocks`. @throws Problem `read-failed`, `no-key`, `shutting-down`. */
  async readRun(entries: readonly StoredEntry[]): Promise<BlockRun> {
    if (!this.#pool || this.#isHere(entries.length)) return this.#readHere(entries);
    const { bytes: buffer, failures } = await this.#pool.read(this.#at.plan(entries));
    const bytes = new Uint8Array(buffer);
    const damaged = new Map<number, Problem>();
    for (const failure of failures) {
      const entry = entries[failure.index];
      invariant(entry, 'a failure is of a block of the run');
      const problem = problemOf(failure);
      if (failure.code !== 'damaged') throw problem;
      const why = await damageOf(this.#readAnew(entry, this.#blockIn(bytes, failure.index), problem));
      if (why) damaged.set(entry.block, why);
    }
    return { entries, bytes, damaged };
  }

  /** A run nobody looks at any more: its memory is used again. Optional, and worth it for who reads much. */
  giveBack(run: Pick<BlockRun, 'bytes'>): void {
    const { buffer } = run.bytes;
    if (!(buffer instanceof ArrayBuffer)) return;
    if (this.#isHere(buffer.byteLength / this.geometry.blockSize)) this.#spare.give(buffer);
    else this.#pool?.giveBack(buffer);
  }

  /** Reads the blocks of all entries, ascending, and gives them in their order; some runs are under way at a time. */
  async *runs(entries: Iterable<StoredEntry> | AsyncIterable<StoredEntry>): AsyncGenerator<BlockRun> {
    const underWay: Promise<BlockRun>[] = [];
    const begin = (group: readonly StoredEntry[]): void => {
      const run = this.readRun(group);
      // Heard where it is awaited, or not at all if another one fails before.
      run.catch(() => undefined);
      underWay.push(run);
    };
    const aheadMax = this.#pool ? limits.recovery.runsAheadMax : 1;
    let group: StoredEntry[] = [];
    try {
      for await (const entry of entries) {
        group.push(entry);
        if (group.length < this.runBlocks) continue;
        begin(group);
        group = [];
        const oldest = underWay.length >= aheadMax ? underWay.shift() : undefined;
        if (oldest) yield await oldest;
      }
      if (group.length > 0) begin(group);
      for (let oldest = underWay.shift(); oldest; oldest = underWay.shift()) yield await oldest;
    } finally {
      await Promise.allSettled(underWay);
    }
  }

  /** Any block, for who reads here and there; after `checkLeaves`. @throws Problem `damaged`. */
  async readBlock(block: number, into: Uint8Array): Promise<void> {
    const entry = await this.entryOf(block);
    if (entry) await this.read(entry, into);
    else into.fill(0);
  }

  /** Whose leaf is the point's; null when the block is zero. After `checkLeaves`. @throws Problem `damaged`. */
  async entryOf(block: number): Promise<StoredEntry | null> {
    const leaves = await this.#leavesIn(Math.floor(block / leavesPerNode));
    const leaf = leaves && leafIn(leaves, block);
    if (!leaf || isZeroLeaf(leaf)) return null;
    return this.#trusted((at) => entryWithLeaf(at, { block, leaf }));
  }

  /** How many blocks from `block` on, below `endBlock` and within its node, are all zero or all not. After `checkLeaves`. @throws Problem `damaged`. */
  async alike(block: number, endBlock: number): Promise<{ readonly zero: boolean; readonly blocks: number }> {
    const node = Math.floor(block / leavesPerNode);
    const end = Math.min((node + 1) * leavesPerNode, endBlock);
    const leaves = await this.#leavesIn(node);
    if (!leaves) return { zero: true, blocks: end - block };
    const zero = isZeroLeaf(leafIn(leaves, block));
    let next = block + 1;
    while (next < end && isZeroLeaf(leafIn(leaves, next)) === zero) next += 1;
    return { zero, blocks: next - block };
  }

  /** Whether `alike` answers without a look into the index. */
  knows(block: number): boolean {
    const node = Math.floor(block / leavesPerNode);
    return this.#leavesOfNode.has(node) || this.#isZeroNode(node);
  }

  /** Once per image; reads no content. @throws Problem `damaged` when records of this point are missing or not what was committed. */
  async checkLeaves(): Promise<void> {
    for (let renewals = 0; this.#tree === null; renewals += 1) {
      try {
        this.#tree = (await this.#treeOfNodes()) ?? (await this.#treeOfEntries());
      } catch (error) {
        if (!isDamage(error) || renewals === renewalsMax || !(await this.#at.renew())) throw error;
      }
    }
  }

  wrongRoot(): Problem {
    const { machine, disk, point } = this.#at;
    return new Problem(
      'damaged',
      `point ${point} of ${machine}/${disk}: the stored records do not make the committed root`,
      {
        remedy: 'run tidemark verify to see which points are good, and choose another one',
      },
    );
  }

  /** Null when the index does not have all nodes of the point. */
  async #treeOfNodes(): Promise<MerkleNodes | null> {
    const tree = new MerkleNodes(this.geometry, merkleHashes);
    const count = nodeCountOf(this.geometry);
    let sinceTurn = 0;
    for (const { node, hash } of this.#at.nodes()) {
      if (node < count) tree.put(node, hash);
      sinceTurn += 1;
      if (sinceTurn % limits.store.indexStepEntries === 0) await this.#clock.turn();
    }
    return Buffer.from(tree.root()).toString('hex') === this.#at.root ? tree : null;
  }

  async #treeOfEntries(): Promise<MerkleNodes> {
    const builder = new RootBuilder(this.geometry);
    let sinceTurn = 0;
    for (const entry of this.entries()) {
      builder.add(entry.block, entry.leaf);
      sinceTurn += 1;
      if (sinceTurn % limits.store.indexStepEntries === 0) await this.#clock.turn();
    }
    if (builder.root() !== this.#at.root) throw this.wrongRoot();
    return builder.tree();
  }

  /** Invariant 5, of a block that could not be read. @throws the last failure, Problem `damaged`, `read-failed`, `no-key`. */
  async #readAnew(entry: StoredEntry, into: Uint8Array, failure: Problem): Promise<void> {
    let problem = failure;
    for (let tries = 0; tries < renewalsMax; tries += 1) {
      // Once in any case: others may have had it renewed after this entry, or one it takes pages from, was looked up.
      if (!(await this.#at.renew()) && tries > 0) break;
      const now = await this.#trusted((at) => entryWithLeaf(at, entry));
      const why = await damageOf(this.#at.read(now, into));
      if (!why) return;
      problem = why;
    }
    throw problem;
  }

  /** What `look` finds by the index of the image, anew or by the other one (invariants 4 and 5); null: not found. @throws Problem `damaged`. */
  async #trusted<T>(look: (at: DiskAtPoint) => T | null): Promise<T> {
    let found = this.#tryLook(look);
    for (let renewals = 0; found === null && renewals < renewalsMax && (await this.#at.renew()); renewals += 1)
      found = this.#tryLook(look);
    if (found !== null) return found;
    if (!this.#otherIndex) throw this.wrongRoot();
    this.#other ??= this.#otherIndex();
    try {
      this.#at = await this.#other;
    } catch (error) {
      this.#other = null;
      throw error;
    }
    const again = look(this.#at);
    if (again === null) throw this.wrongRoot();
    return again;
  }

  #tryLook<T>(look: (at: DiskAtPoint) => T | null): T | null {
    try {
      return look(this.#at);
    } catch (error) {
      // What a damaged index gives need not even be an entry.
      if (!this.#otherIndex || (isProblem(error) && error.code !== 'damaged' && error.code !== 'index-unreadable'))
        throw error;
      return null;
    }
  }

  /** The node's blocks in [from, end) that are not zero. */
  async #storedInNode(node: number, from: number, end: number): Promise<StoredEntry[] | null> {
    const leaves = await this.#leavesIn(node);
    if (!leaves) return null;
    return this.#trusted((at) => {
      const found: StoredEntry[] = [];
      let next = from;
      for (const entry of at.entries(from, end)) {
        if (entry.block >= end) break;
        if (entry.block < next || Buffer.compare(entry.leaf, leafIn(leaves, entry.block)) !== 0) return null;
        if (!areZeroLeaves(leaves, next, entry.block)) return null;
        next = entry.block + 1;
        if (!isZeroLeaf(entry.leaf)) found.push(entry);
      }
      return areZeroLeaves(leaves, next, end) ? found : null;
    });
  }

  #isZeroNode(node: number): boolean {
    invariant(this.#tree, 'leaves are checked before blocks are read');
    const count = leavesInNode(this.geometry, node);
    const zero = count === leavesPerNode ? this.#zeroNode : merkleHashes.node(new Uint8Array(count * leafBytes));
    return Buffer.compare(this.#tree.node(node), zero) === 0;
  }

  /** The leaves of a node that is part of the point's root (invariant 1); null: all are zero. */
  async #leavesIn(node: number): Promise<Uint8Array | null> {
    const known = this.#leavesOfNode.get(node);
    if (known !== undefined) {
      this.#leavesOfNode.delete(node);
      this.#leavesOfNode.set(node, known);
      return known;
    }
    if (this.#isZeroNode(node)) return null;
    const found = await this.#trusted((at) => this.#lookUpLeaves(at, node));
    this.#leavesOfNode.set(node, found);
    if (this.#leavesOfNode.size > limits.recovery.nodesKeptMax) {
      const oldest = this.#leavesOfNode.keys().next();
      if (oldest.done !== true) this.#leavesOfNode.delete(oldest.value);
    }
    return found;
  }

  #lookUpLeaves(at: DiskAtPoint, node: number): Uint8Array | null {
    const first = node * leavesPerNode;
    const count = leavesInNode(this.geometry, node);
    const leaves = new Uint8Array(count * leafBytes);
    for (const { block, leaf } of at.entries(first, first + count)) {
      if (block >= first + count) break;
      if (block < first || leaf.byteLength !== leafBytes) return null;
      leaves.set(leaf, (block - first) * leafBytes);
    }
    invariant(this.#tree, 'leaves are checked before blocks are read');
    return Buffer.compare(merkleHashes.node(leaves), this.#tree.node(node)) === 0 ? leaves : null;
  }

  /** Whether a run of so many blocks is read on the calling thread. */
  #isHere(blocks: number): boolean {
    return !this.#pool || (blocks === 1 && this.geometry.blockSize <= limits.recovery.runHereBytesMax);
  }

  async #readHere(entries: readonly StoredEntry[]): Promise<BlockRun> {
    const spare = entries.length === 1 ? this.#spare.take() : undefined;
    const bytes = new Uint8Array(spare ?? new ArrayBuffer(entries.length * this.geometry.blockSize));
    const damaged = new Map<number, Problem>();
    for (const [index, entry] of entries.entries()) {
      const why = await damageOf(this.read(entry, this.#blockIn(bytes, index)));
      if (why) damaged.set(entry.block, why);
    }
    return { entries, bytes, damaged };
  }

  #blockIn(run: Uint8Array, index: number): Uint8Array {
    const { blockSize } = this.geometry;
    return run.subarray(index * blockSize, (index + 1) * blockSize);
  }
}

function entryWithLeaf(at: DiskAtPoint, { block, leaf }: Pick<StoredEntry, 'block' | 'leaf'>): StoredEntry | null {
  const entry = at.entry(block);
  return entry?.block === block && Buffer.compare(entry.leaf, leaf) === 0 ? entry : null;
}

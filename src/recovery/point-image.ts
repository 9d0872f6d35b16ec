/**
 * A disk as of a recovery point, for reading: what export, NBD export and verify have in common. Needs the target's directory and the
 * vault key or recovery file, nothing that runs (DESIGN §1).
 *
 * Invariants:
 *  1. A block is served only after it was rebuilt and matched the leaf of an entry, and the leaves of those very entries made the point's
 *     root. So neither a flipped bit nor a missing, moved or older record is ever served (C10), whatever the index says.
 *  2. Blocks that no entry names are zero; that too is covered by the root.
 *  3. Memory is bounded: one node of 1,024 leaves takes 32 bytes, and the entries of a few nodes are kept.
 */
import { MerkleNodes, leavesInNode } from '../disk/merkle.ts';
import type { Geometry } from '../disk/geometry.ts';
import { merkleHashes } from '../kernels/hash.ts';
import { invariant } from '../kit/invariant.ts';
import { Problem } from '../kit/problem.ts';
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { DiskAtPoint, StoredEntry } from '../store/machine-view.ts';

const { leafBytes, leavesPerNode } = limits.disk;

/** Collects leaves in ascending block order into a root. */
export class RootBuilder {
  readonly #nodes: MerkleNodes;
  readonly #geometry: Geometry;
  readonly #leaves = new Uint8Array(leavesPerNode * leafBytes);
  #node = -1;

  constructor(geometry: Geometry) {
    this.#geometry = geometry;
    this.#nodes = new MerkleNodes(geometry, merkleHashes);
  }

  add(block: number, leaf: Uint8Array): void {
    const node = Math.floor(block / leavesPerNode);
    if (node !== this.#node) this.#flush(node);
    this.#leaves.set(leaf, (block % leavesPerNode) * leafBytes);
  }

  /** Hex. */
  root(): string {
    return Buffer.from(this.tree().root()).toString('hex');
  }

  /** The tree over everything that was added. */
  tree(): MerkleNodes {
    this.#flush(-1);
    return this.#nodes;
  }

  #flush(next: number): void {
    if (this.#node >= 0)
      this.#nodes.set(this.#node, this.#leaves.subarray(0, leavesInNode(this.#geometry, this.#node) * leafBytes));
    this.#leaves.fill(0);
    this.#node = next;
  }
}

export class PointImage {
  readonly at: DiskAtPoint;
  readonly #clock: Clock;
  /** Whose root is the point's; null before `checkLeaves`. */
  #tree: MerkleNodes | null = null;
  /** Entries of nodes that match `#tree`, by node, oldest first. */
  readonly #entriesOfNode = new Map<number, ReadonlyMap<number, StoredEntry>>();

  constructor(at: DiskAtPoint, clock: Clock) {
    this.at = at;
    this.#clock = clock;
  }

  get geometry(): Geometry {
    return this.at.geometry;
  }

  /** Blocks with a record at this point, ascending. Who reads them all puts their leaves into a `RootBuilder` and compares (invariant 1). */
  *entries(fromBlock = 0): Generator<StoredEntry> {
    let next = fromBlock;
    for (const entry of this.at.entries(fromBlock)) {
      // Else a block could be told twice, and another one counted for the root than is read.
      if (entry.block < next || entry.block >= this.geometry.blockCount) throw this.wrongRoot();
      next = entry.block + 1;
      yield entry;
    }
  }

  /** Content of the block as of an entry of `entries`, into `into` (blockSize bytes). @throws Problem `damaged`. */
  read(entry: StoredEntry, into: Uint8Array): Promise<void> {
    return this.at.read(entry, into);
  }

  /** Any block, for who reads here and there; after `checkLeaves`. @throws Problem `damaged`. */
  async readBlock(block: number, into: Uint8Array): Promise<void> {
    const entry = this.#nodeEntries(Math.floor(block / leavesPerNode)).get(block);
    if (entry) await this.read(entry, into);
    else into.fill(0);
  }

  /** Once per image; reads no content. @throws Problem `damaged` when records of this point are missing or not what was committed. */
  async checkLeaves(): Promise<void> {
    if (this.#tree) return;
    const builder = new RootBuilder(this.geometry);
    let sinceTurn = 0;
    for (const entry of this.entries()) {
      builder.add(entry.block, entry.leaf);
      sinceTurn += 1;
      if (sinceTurn < limits.store.indexStepEntries) continue;
      sinceTurn = 0;
      await this.#clock.turn();
    }
    if (builder.root() !== this.at.root) throw this.wrongRoot();
    this.#tree = builder.tree();
  }

  wrongRoot(): Problem {
    const { machine, disk, point } = this.at;
    return new Problem(
      'damaged',
      `point ${point} of ${machine}/${disk}: the stored records do not make the committed root`,
      {
        remedy: 'run tidemark verify to see which points are good, and choose another one',
      },
    );
  }

  /** The entries of a node's blocks, after their leaves matched the node that is part of the point's root. */
  #nodeEntries(node: number): ReadonlyMap<number, StoredEntry> {
    const known = this.#entriesOfNode.get(node);
    if (known) {
      this.#entriesOfNode.delete(node);
      this.#entriesOfNode.set(node, known);
      return known;
    }
    invariant(this.#tree, 'leaves are checked before blocks are read');
    const first = node * leavesPerNode;
    const leaves = new Uint8Array(leavesInNode(this.geometry, node) * leafBytes);
    const found = new Map<number, StoredEntry>();
    for (const entry of this.entries(first)) {
      if (entry.block >= first + leavesPerNode) break;
      leaves.set(entry.leaf, (entry.block - first) * leafBytes);
      found.set(entry.block, entry);
    }
    if (Buffer.compare(merkleHashes.node(leaves), this.#tree.node(node)) !== 0) throw this.wrongRoot();
    this.#entriesOfNode.set(node, found);
    if (this.#entriesOfNode.size > limits.recovery.nodesKeptMax) {
      const oldest = this.#entriesOfNode.keys().next();
      if (oldest.done !== true) this.#entriesOfNode.delete(oldest.value);
    }
    return found;
  }
}

/**
 * A disk as of a recovery point, for reading: what export, NBD export and verify have in common. Needs the target's directory and the
 * vault key or recovery file, nothing that runs (DESIGN §1).
 *
 * Invariants:
 *  1. A block is served only after it was rebuilt and matched its leaf (`PointReader`), and the leaves as a whole matched the point's root
 *     (`checkLeaves`). So neither a flipped bit nor a missing record is ever served (C10).
 *  2. Blocks that no record names are zero; that too is covered by the root.
 */
import { MerkleNodes, leavesInNode } from '../disk/merkle.ts';
import type { Geometry } from '../disk/geometry.ts';
import { merkleHashes } from '../kernels/hash.ts';
import { Problem } from '../kit/problem.ts';
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { DiskAtPoint } from '../store/machine-view.ts';

const { leafBytes, leavesPerNode } = limits.disk;

export interface StoredBlock {
  readonly block: number;
  /** Known to be all zero without reading. */
  readonly zero: boolean;
}

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
    this.#flush(-1);
    return Buffer.from(this.#nodes.root()).toString('hex');
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
  #leavesMatch: boolean | null = null;

  constructor(at: DiskAtPoint, clock: Clock) {
    this.at = at;
    this.#clock = clock;
  }

  get geometry(): Geometry {
    return this.at.geometry;
  }

  /** Blocks with a record at this point, ascending. */
  *blocks(): Generator<StoredBlock> {
    for (const entry of this.at.entries()) yield { block: entry.block, zero: entry.zero };
  }

  /** Reads a whole block into `into` (blockSize bytes). @throws Problem `damaged`. */
  readBlock(block: number, into: Uint8Array): Promise<void> {
    return this.at.readBlock(block, into);
  }

  /** Whether the leaves in the index make the point's root; looked at once. Reads no content. */
  async leavesMatchRoot(): Promise<boolean> {
    this.#leavesMatch ??= await this.#compareRoots();
    return this.#leavesMatch;
  }

  async #compareRoots(): Promise<boolean> {
    const builder = new RootBuilder(this.geometry);
    let sinceTurn = 0;
    for (const entry of this.at.entries()) {
      builder.add(entry.block, entry.leaf);
      sinceTurn += 1;
      if (sinceTurn < limits.store.indexStepEntries) continue;
      sinceTurn = 0;
      await this.#clock.turn();
    }
    return builder.root() === this.at.root;
  }

  /** @throws Problem `damaged` when records of this point are missing or not what was committed. */
  async checkLeaves(): Promise<void> {
    if (await this.leavesMatchRoot()) return;
    const { machine, disk, point } = this.at;
    throw new Problem(
      'damaged',
      `point ${point} of ${machine}/${disk}: the stored records do not make the committed root`,
      {
        remedy: 'run tidemark verify to see which points are good, and choose another one',
      },
    );
  }
}

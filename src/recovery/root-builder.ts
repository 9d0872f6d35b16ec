/** The root over leaves that come in ascending block order, in the memory of one node and the tree above. */
import { leavesInNode, MerkleNodes } from '../disk/merkle.ts';
import type { Geometry } from '../disk/geometry.ts';
import { merkleHashes } from '../kernels/hash.ts';
import { limits } from '../limits.ts';

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

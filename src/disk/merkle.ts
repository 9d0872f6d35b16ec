/**
 * The Merkle tree over a disk's leaves: leaves → nodes of 1,024 leaves → root. Two levels are enough: 1 TiB of 64 KiB blocks has
 * 16,384 nodes, 512 KiB. The tree holds only nodes; leaves live in a file (`store/leaf-file.ts`) and are handed in per node.
 *
 * node i = H_node(leaf bytes of its blocks, in order; the last node has only as many leaves as there are blocks)
 * root   = H_root(u64le size ‖ u32le blockSize ‖ u32le blockCount ‖ nodes)
 *
 * H_node and H_root are BLAKE3 keyed with two fixed labels (domain separation; `kernels/hash.ts`), so a node can not pass for a
 * root or a leaf. The leaf of an all-zero or never-written block is 32 zero bytes: a hole in the leaf file needs no work.
 */
import { limits } from '../limits.ts';
import type { Geometry } from './geometry.ts';

const { leafBytes, leavesPerNode } = limits.disk;

/** The leaf of an all-zero or never-written block. Do not write to it. */
export const zeroLeaf: Uint8Array = new Uint8Array(leafBytes);

export interface MerkleHashes {
  /** 32 bytes; `leaves` is a whole number of leaves. */
  node(leaves: Uint8Array): Uint8Array;
  root(header: Uint8Array, nodes: Uint8Array): Uint8Array;
}

export function nodeCountOf(geometry: Geometry): number {
  return Math.ceil(geometry.blockCount / leavesPerNode);
}

/** Leaves under node `index`. */
export function leavesInNode(geometry: Geometry, index: number): number {
  return Math.min(leavesPerNode, geometry.blockCount - index * leavesPerNode);
}

export class MerkleNodes {
  readonly geometry: Geometry;
  readonly #nodes: Uint8Array;
  readonly #hashes: MerkleHashes;

  /** Starts as the tree of an all-zero disk. */
  constructor(geometry: Geometry, hashes: MerkleHashes) {
    this.geometry = geometry;
    this.#hashes = hashes;
    const count = nodeCountOf(geometry);
    this.#nodes = new Uint8Array(count * leafBytes);
    const zeroNode = hashes.node(new Uint8Array(leavesPerNode * leafBytes));
    for (let index = 0; index < count; index += 1) this.#nodes.set(zeroNode, index * leafBytes);
    const lastLeaves = leavesInNode(geometry, count - 1);
    if (lastLeaves !== leavesPerNode) this.set(count - 1, new Uint8Array(lastLeaves * leafBytes));
  }

  /** Rehashes node `index` from all its leaves (leavesInNode × 32 bytes). */
  set(index: number, leaves: Uint8Array): void {
    this.#nodes.set(this.#hashes.node(leaves), index * leafBytes);
  }

  /** Takes the node as it was computed before (32 bytes, copied). */
  put(index: number, node: Uint8Array): void {
    this.#nodes.set(node, index * leafBytes);
  }

  /** 32 bytes. A view; valid until the next `set`. */
  node(index: number): Uint8Array {
    return this.#nodes.subarray(index * leafBytes, (index + 1) * leafBytes);
  }

  root(): Uint8Array {
    const header = new Uint8Array(16);
    const view = new DataView(header.buffer);
    view.setBigUint64(0, BigInt(this.geometry.size), true);
    view.setUint32(8, this.geometry.blockSize, true);
    view.setUint32(12, this.geometry.blockCount, true);
    return this.#hashes.root(header, this.#nodes);
  }

  /** A copy that changes on its own. */
  clone(): MerkleNodes {
    const copy = new MerkleNodes(this.geometry, this.#hashes);
    copy.#nodes.set(this.#nodes);
    return copy;
  }
}

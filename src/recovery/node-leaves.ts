/** The leaves of one Merkle node, one after another: those behind the disk's last block are not there. */
import { zeroLeaf } from '../disk/merkle.ts';
import { limits } from '../limits.ts';

const { leafBytes, leavesPerNode } = limits.disk;

/** A view of the leaf of a block of the node. */
export function leafIn(leaves: Uint8Array, block: number): Uint8Array {
  const at = (block % leavesPerNode) * leafBytes;
  return leaves.subarray(at, at + leafBytes);
}

export function isZeroLeaf(leaf: Uint8Array): boolean {
  return Buffer.compare(leaf, zeroLeaf) === 0;
}

/** Whether the leaves of [from, end), in one node, are zero. */
export function areZeroLeaves(leaves: Uint8Array, from: number, end: number): boolean {
  for (let block = from; block < end; block += 1) if (!isZeroLeaf(leafIn(leaves, block))) return false;
  return true;
}

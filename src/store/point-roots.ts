/**
 * Whether the index has what makes the roots of points: the Merkle nodes it keeps of them, or else the leaves of its records. Nothing is read but the index.
 * In steps, so that whoever asks decides how fast.
 */
import type { Geometry } from '../disk/geometry.ts';
import { leavesInNode, MerkleNodes, nodeCountOf } from '../disk/merkle.ts';
import { merkleHashes } from '../kernels/hash.ts';
import { limits } from '../limits.ts';
import type { NodeHash } from './index-nodes.ts';
import type { IndexReader } from './index-reader.ts';
import { sameBytes } from './segment-format.ts';

const { leavesPerNode, leafBytes } = limits.disk;

export interface DiskAtRoot {
  readonly no: number;
  readonly point: number;
  readonly geometry: Geometry;
  /** Hex. */
  readonly root: string;
  /** The highest seq the point, or one before it, lists of the disk. */
  readonly maxSeq: number;
}

export type RootFinding =
  | { readonly kind: 'whole' }
  /** The records are all there; these nodes were not what they say. */
  | { readonly kind: 'nodes'; readonly changed: readonly NodeHash[] }
  /** Records that the point reads are not what they were, or missing. */
  | { readonly kind: 'records' };

/** Each step holds the thread for a thousand look-ups or so. */
export function* findRoot(index: IndexReader, at: DiskAtRoot): Generator<void, RootFinding> {
  const { geometry, no, point, root, maxSeq } = at;
  const count = nodeCountOf(geometry);
  const kept = new MerkleNodes(geometry, merkleHashes);
  let steps = 0;
  for (const { node, hash } of index.nodesAt(no, point)) {
    if (node < count) kept.put(node, hash);
    steps += 1;
    if (steps % limits.store.indexStepEntries === 0) yield;
  }
  if (makes(kept, root)) return { kind: 'whole' };
  const changed: NodeHash[] = [];
  const made = new MerkleNodes(geometry, merkleHashes);
  for (let node = 0; node < count; node += 1) {
    const first = node * leavesPerNode;
    const leaves = new Uint8Array(leavesInNode(geometry, node) * leafBytes);
    for (const entry of index.entriesAt(no, maxSeq, first, first + leaves.byteLength / leafBytes))
      leaves.set(entry.leaf, (entry.block - first) * leafBytes);
    made.set(node, leaves);
    const hash = Uint8Array.from(made.node(node));
    if (!sameBytes(hash, kept.node(node))) changed.push({ node, hash });
    yield;
  }
  return makes(made, root) ? { kind: 'nodes', changed } : { kind: 'records' };
}

function makes(nodes: MerkleNodes, root: string): boolean {
  return Buffer.from(nodes.root()).toString('hex') === root;
}

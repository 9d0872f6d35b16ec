/**
 * Merkle nodes of points in the index (FORMAT.md, Index): what a disk's tree was at a point is known without a look at its records, whatever
 * their number, so that a point opens at once.
 *
 * A point has a row for each node whose leaves it changed; a node without a row at the point or before it is that of zero leaves. A cache like all
 * of the index: a reader takes the tree for the point's only if it makes the point's root, so a row that is missing, stale or flipped costs
 * a scan of the records and nothing else. Whoever opens the disk for writing compares the newest point's tree with its leaf file and writes the
 * rows that are missing; an index that was begun anew gets those of all points before (`node-history.ts`), and then a mark that it did.
 *
 * Keyed by point and not by seq: a point at which the disk grew without a write has another last node and the same seq.
 */
import type { Database } from 'lmdb';
import { limits } from '../limits.ts';

const keyBytes = 10;
const highestPoint = 2 ** 32 - 1;
/** No node: the row that says that the index has the rows of all points. */
const markNode = 2 ** 32 - 1;

export interface NodeHash {
  readonly node: number;
  /** 32 bytes. */
  readonly hash: Uint8Array;
}

/** Sorts by disk, node, point. */
export function nodeKey(diskNo: number, node: number, point: number): Buffer {
  const key = Buffer.allocUnsafe(keyBytes);
  key.writeUInt16BE(diskNo, 0);
  key.writeUInt32BE(node, 2);
  key.writeUInt32BE(point, 6);
  return key;
}

/** Put as a row of point 0. */
export const completeMark: NodeHash = { node: markNode, hash: new Uint8Array(limits.disk.leafBytes) };

export function isComplete(store: Database<Buffer, Buffer>, diskNo: number): boolean {
  return store.get(nodeKey(diskNo, markNode, 0)) !== undefined;
}

/** Behind the rows of all nodes of the disk. */
export function nodesEndKey(diskNo: number): Buffer {
  return nodeKey(diskNo, markNode, 0);
}

export function readNodeKey(key: Buffer): { readonly node: number; readonly point: number } {
  return { node: key.readUInt32BE(2), point: key.readUInt32BE(6) };
}

/** The newest row up to `point` of every node of the disk that has one, nodes descending. Every step looks anew: no snapshot is held between two. */
export function* nodesAt(store: Database<Buffer, Buffer>, diskNo: number, point: number): Generator<NodeHash> {
  // Two steps per node at most: one lands on its newest row of all; if that is newer than the point, one more goes below.
  let start = nodeKey(diskNo, markNode - 1, highestPoint);
  const end = nodeKey(diskNo, 0, 0);
  for (;;) {
    const [found] = store.getRange({ start, end, reverse: true, inclusiveEnd: true, limit: 1 });
    if (!found || found.key.byteLength !== keyBytes) return;
    const node = found.key.readUInt32BE(2);
    if (found.key.readUInt32BE(6) > point) {
      start = nodeKey(diskNo, node, point);
      continue;
    }
    if (found.value.byteLength === limits.disk.leafBytes) yield { node, hash: found.value };
    if (node === 0) return;
    start = nodeKey(diskNo, node - 1, highestPoint);
  }
}

/**
 * The Merkle nodes of all points, from the records of an index that was begun anew: else every point older than the index would be opened by a
 * scan of all its records. One pass over the records, node by node; within a node in the order of the layers, hashing its leaves as of every
 * point that changed one.
 *
 * What comes out is believed by nobody before it made the point's root (`index-nodes.ts`), so records that are missing or were folded away cost
 * points nothing but that scan. Killed in the middle it is done again: the mark comes last.
 * Memory: the records of one node, at most `nodeRecordsMax`; a node with more keeps only what later points bring.
 */
import { geometryOf, type Geometry } from '../disk/geometry.ts';
import { leavesInNode, nodeCountOf } from '../disk/merkle.ts';
import { merkleHashes } from '../kernels/hash.ts';
import { systemClock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import { completeMark, type NodeHash } from './index-nodes.ts';
import type { PointsView } from './points-view.ts';
import type { RecordIndex } from './record-index.ts';

const { leavesPerNode, leafBytes } = limits.disk;
const { nodeRecordsMax, indexStepEntries } = limits.store;

/** The disk as of a point. */
interface Stage {
  readonly point: number;
  /** The highest seq listed so far. */
  readonly maxSeq: number;
  readonly geometry: Geometry;
}

interface Version {
  readonly seq: number;
  /** Within the node. */
  readonly slot: number;
  readonly leaf: Uint8Array;
}

function stagesOf(view: PointsView, diskNo: number, blockSize: number): Stage[] {
  const stages: Stage[] = [];
  let maxSeq = 0;
  for (const { point, disks } of view.points) {
    const disk = disks.find(({ no }) => no === diskNo);
    if (!disk) continue;
    maxSeq = disk.layers?.last ?? maxSeq;
    stages.push({ point, maxSeq, geometry: geometryOf(disk.size, blockSize) });
  }
  return stages;
}

/** The rows of one node: at each point that changed a leaf of it, or how many it has. */
function* rowsOf(node: number, versions: Version[], stages: readonly Stage[]): Generator<NodeHash & { point: number }> {
  versions.sort((a, b) => a.seq - b.seq);
  const leaves = new Uint8Array(leavesPerNode * leafBytes);
  let applied = 0;
  let hashed = { versions: 0, leaves: 0 };
  for (const { point, maxSeq, geometry } of stages) {
    for (let next = versions[applied]; next && next.seq <= maxSeq; next = versions[applied]) {
      leaves.set(next.leaf, next.slot * leafBytes);
      applied += 1;
    }
    if (applied === 0 || node >= nodeCountOf(geometry)) continue;
    const count = leavesInNode(geometry, node);
    if (applied === hashed.versions && count === hashed.leaves) continue;
    hashed = { versions: applied, leaves: count };
    yield { point, node, hash: merkleHashes.node(leaves.subarray(0, count * leafBytes)) };
  }
}

/** Rows waiting for the index, by point: it takes those of one point together. */
class Rows {
  readonly #index: RecordIndex;
  readonly #diskNo: number;
  readonly #byPoint = new Map<number, NodeHash[]>();
  #waiting = 0;

  constructor(index: RecordIndex, diskNo: number) {
    this.#index = index;
    this.#diskNo = diskNo;
  }

  async add({ point, node, hash }: NodeHash & { point: number }): Promise<void> {
    const rows = this.#byPoint.get(point) ?? [];
    rows.push({ node, hash });
    this.#byPoint.set(point, rows);
    this.#waiting += 1;
    if (this.#waiting >= indexStepEntries) await this.flush();
  }

  async flush(): Promise<void> {
    for (const [point, rows] of this.#byPoint) {
      await this.#index.room();
      this.#index.applyNodes(this.#diskNo, point, rows);
    }
    this.#byPoint.clear();
    this.#waiting = 0;
  }
}

/** While nothing else is applied to the index. @throws Problem `index-failed`. */
export async function noteHistory(
  index: RecordIndex,
  view: PointsView,
  disk: { readonly no: number; readonly blockSize: number },
): Promise<void> {
  const stages = stagesOf(view, disk.no, disk.blockSize);
  const rows = new Rows(index, disk.no);
  let node = -1;
  let versions: Version[] = [];
  // Other machines go on meanwhile.
  let sinceTurn = 0;
  const settle = async (): Promise<void> => {
    if (versions.length <= nodeRecordsMax) for (const row of rowsOf(node, versions, stages)) await rows.add(row);
    versions = [];
  };
  for (const { block, seq, leaf } of (await index.reader()).versionsOf(disk.no)) {
    const next = Math.floor(block / leavesPerNode);
    if (next !== node) await settle();
    node = next;
    sinceTurn += 1;
    if (sinceTurn % indexStepEntries === 0) await systemClock.turn();
    // One more than is used tells that there are too many.
    if (versions.length <= nodeRecordsMax) versions.push({ seq, slot: block % leavesPerNode, leaf });
  }
  await settle();
  await rows.flush();
  await index.room();
  index.applyNodes(disk.no, 0, [completeMark]);
}

/**
 * Finds out where the target differs from the leaf file (PROTOCOL.md, "Comparing a disk"): nodes, then the leaves of the nodes that differ.
 * Each block that differs gets the target's leaf and is marked, so the next cycle reads it and sends what it has to. Afterwards the working
 * leaves are the target's working state, whatever was marked before. Reads no data.
 */
import { leavesInNode, nodeCountOf } from '../disk/merkle.ts';
import { limits } from '../limits.ts';
import type { ChecksumBounds, Difference } from '../wire/checksums.ts';
import type { ReplicaDisk } from './replica-disk.ts';
import type { Session } from './session.ts';

const { leafBytes, leavesPerNode } = limits.disk;
const { checksumsPerFrameMax, comparisonsMax } = limits.wire;
const nodesPerFrame = checksumsPerFrameMax / leavesPerNode;

/** A range of nodes, end excluded. */
interface NodeRange {
  readonly first: number;
  readonly end: number;
}

function* pieces(count: number, size: number): Generator<NodeRange> {
  for (let first = 0; first < count; first += size) yield { first, end: Math.min(first + size, count) };
}

/** Neighbours together, as many as fit into a frame. */
function* neighbours(nodes: readonly number[]): Generator<NodeRange> {
  let first = 0;
  let end = 0;
  for (const node of nodes) {
    if (node !== end || node - first >= nodesPerFrame) {
      if (end > first) yield { first, end };
      first = node;
    }
    end = node + 1;
  }
  if (end > first) yield { first, end };
}

/** Runs them a few at a time; `take` sees the results in order. Rejects with the first failure. */
async function inOrder<T, R>(
  items: Iterable<T>,
  run: (item: T) => Promise<R>,
  take: (result: R) => void,
): Promise<void> {
  const running: Promise<R>[] = [];
  const takeOldest = async (): Promise<void> => {
    const oldest = running.shift();
    if (oldest) take(await oldest);
  };
  try {
    for (const item of items) {
      if (running.length >= comparisonsMax) await takeOldest();
      running.push(run(item));
    }
    while (running.length > 0) await takeOldest();
  } finally {
    await Promise.allSettled(running);
  }
}

/** Rejects when the session ends. */
export async function compareDisk(session: Session, index: number, disk: ReplicaDisk): Promise<void> {
  const { leaves } = disk;
  const { geometry } = leaves;
  const nodeBytes = leavesPerNode * geometry.blockSize;
  const bounds: ChecksumBounds = { leaves: geometry.blockCount, nodes: nodeCountOf(geometry) };
  const differing: number[] = [];
  disk.enter('comparing', bounds.nodes * nodeBytes);

  const compareNodes = ({ first, end }: NodeRange): Promise<Difference> => {
    const count = end - first;
    return session.compare(index, { level: 'nodes', first, count, hashes: leaves.nodesOf(first, count) }, bounds);
  };
  await inOrder(pieces(bounds.nodes, checksumsPerFrameMax), compareNodes, (answer) => {
    disk.progressed((answer.count - answer.differing.length) * nodeBytes);
    for (const node of answer.differing) differing.push(node);
  });

  const compareLeaves = (range: NodeRange): Promise<Difference> => {
    const first = range.first * leavesPerNode;
    const count = (range.end - range.first - 1) * leavesPerNode + leavesInNode(geometry, range.end - 1);
    return session.compare(index, { level: 'leaves', first, count, hashes: leaves.leavesOf(first, count) }, bounds);
  };
  await inOrder(neighbours(differing), compareLeaves, ({ differing: blocks, hashes, count }) => {
    for (const [at, block] of blocks.entries()) {
      disk.differs(block, hashes.subarray(at * leafBytes, (at + 1) * leafBytes));
    }
    disk.progressed(count * geometry.blockSize);
  });
  disk.comparisonDue = false;
}

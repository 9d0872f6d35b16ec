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
export interface NodeRange {
  readonly first: number;
  readonly end: number;
}

function* pieces({ first: from, end }: NodeRange, size: number): Generator<NodeRange> {
  for (let first = from; first < end; first += size) yield { first, end: Math.min(first + size, end) };
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

/** What is compared, and who is told what came of it. */
export interface Comparing {
  readonly session: Session;
  readonly index: number;
  readonly disk: ReplicaDisk;
  readonly differs: (block: number, leaf: Uint8Array) => void;
  /** So many bytes more are known to be equal, or were looked at block by block. */
  readonly progressed?: (bytes: number) => void;
}

/** The nodes of the range that differ, ascending. Rejects when the session ends. */
export async function differingNodes(
  { session, index, disk, progressed }: Omit<Comparing, 'differs'>,
  range: NodeRange,
): Promise<number[]> {
  const { leaves } = disk;
  const nodeBytes = leavesPerNode * leaves.geometry.blockSize;
  const differing: number[] = [];
  const compare = ({ first, end }: NodeRange): Promise<Difference> => {
    const count = end - first;
    const hashes = leaves.nodesOf(first, count);
    return session.compare(index, { level: 'nodes', first, count, hashes }, boundsOf(disk));
  };
  await inOrder(pieces(range, checksumsPerFrameMax), compare, (answer) => {
    progressed?.((answer.count - answer.differing.length) * nodeBytes);
    for (const node of answer.differing) differing.push(node);
  });
  return differing;
}

/** Tells the blocks of these nodes that differ, ascending. Rejects when the session ends. */
export async function compareNodes(
  { session, index, disk, differs, progressed }: Comparing,
  nodes: readonly number[],
): Promise<void> {
  const { leaves } = disk;
  const { geometry } = leaves;
  const compare = (range: NodeRange): Promise<Difference> => {
    const first = range.first * leavesPerNode;
    const count = (range.end - range.first - 1) * leavesPerNode + leavesInNode(geometry, range.end - 1);
    const hashes = leaves.leavesOf(first, count);
    return session.compare(index, { level: 'leaves', first, count, hashes }, boundsOf(disk));
  };
  await inOrder(neighbours(nodes), compare, ({ differing: blocks, hashes, count }) => {
    for (const [at, block] of blocks.entries()) differs(block, hashes.subarray(at * leafBytes, (at + 1) * leafBytes));
    progressed?.(count * geometry.blockSize);
  });
}

/** The whole disk. Rejects when the session ends. */
export async function compareDisk(session: Session, index: number, disk: ReplicaDisk): Promise<void> {
  const { geometry } = disk.leaves;
  const comparing: Comparing = {
    session,
    index,
    disk,
    differs: (block, leaf) => {
      disk.differs(block, leaf);
    },
    progressed: (bytes) => {
      disk.progressed(bytes);
    },
  };
  const end = nodeCountOf(geometry);
  disk.enter('comparing', end * leavesPerNode * geometry.blockSize);
  await compareNodes(comparing, await differingNodes(comparing, { first: 0, end }));
  disk.comparisonDue = false;
}

function boundsOf({ leaves: { geometry } }: ReplicaDisk): ChecksumBounds {
  return { leaves: geometry.blockCount, nodes: nodeCountOf(geometry) };
}

/**
 * Which points of a disk have all their records: the leaves in the records, without any content and any key, must make the root that was committed.
 *
 * Node by node, and within a node from point to point: a node is hashed anew only for the points that changed something in it. A root needs the
 * hashes of all nodes at its point, so those are collected for a window of points; the window shrinks when they would take too much memory,
 * and another pass does the points behind it.
 */
import { MerkleNodes, leavesInNode } from '../disk/merkle.ts';
import { merkleHashes } from '../kernels/hash.ts';
import type { Clock } from '../kit/clock.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { DiskHistory, PointOfDisk, Version } from '../store/disk-history.ts';

const { leafBytes, leavesPerNode } = limits.disk;

export interface RootOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Changes of leaves, and hashes of nodes, kept at a time; `limits.recovery.verifyChangesMax` but in tests. */
  readonly changesMax?: number;
}

/** For each of the history's points whether the root matches. @throws Problem `interrupted`. */
export async function checkRoots(history: LeafHistory, options: RootOptions): Promise<boolean[]> {
  const good: boolean[] = [];
  while (good.length < history.points.length) {
    const window = new Window(history, good.length, options.changesMax ?? limits.recovery.verifyChangesMax);
    let blocks = 0;
    for (const block of history.blocks()) {
      window.add(block);
      blocks += 1;
      if (blocks % limits.store.indexStepEntries !== 0) continue;
      await options.clock.turn();
      if (options.signal.aborted) throw new Problem('interrupted', 'the verification was interrupted');
    }
    good.push(...window.verdicts());
  }
  return good;
}

/** Of a `DiskHistory`. */
export interface LeafHistory extends Pick<DiskHistory, 'points' | 'blocks'> {
  versions(
    block: number,
    first: number,
    end: number,
  ): Iterable<Pick<Version, 'from' | 'end'> & { readonly entry: Pick<Version['entry'], 'leaf'> }>;
}

interface LeafChange {
  /** From this point of the history on. */
  readonly at: number;
  readonly block: number;
  readonly leaf: Uint8Array;
}

interface NodeHash {
  readonly node: number;
  readonly hash: Uint8Array;
}

/** Points [first, end) of a history. */
class Window {
  readonly #history: LeafHistory;
  readonly #first: number;
  readonly #changesMax: number;
  /** Points at which the disk is larger than at the one before. */
  readonly #resizes: readonly number[];
  #end: number;
  /** Of `#node`, by blocks; within a block newest first. */
  #changes: LeafChange[] = [];
  #node = -1;
  /** Point → hashes of the nodes it changed; the first one has all that are not of zeros. */
  readonly #hashes = new Map<number, NodeHash[]>();
  #hashCount = 0;
  /** Points that select a block behind the end of their disk. */
  readonly #beyond = new Set<number>();

  constructor(history: LeafHistory, first: number, changesMax: number) {
    this.#history = history;
    this.#first = first;
    this.#end = history.points.length;
    this.#changesMax = changesMax;
    const sizeAt = (at: number): number | undefined => history.points[at]?.geometry.size;
    this.#resizes = [...history.points.keys()].filter((at) => at > first && sizeAt(at) !== sizeAt(at - 1));
  }

  add(block: number): void {
    const node = Math.floor(block / leavesPerNode);
    if (node !== this.#node) this.#flush(node);
    for (const { entry, from, end } of this.#history.versions(block, this.#first, this.#end)) {
      for (let at = from; at < end && block >= this.#point(at).geometry.blockCount; at += 1) this.#beyond.add(at);
      this.#changes.push({ at: from, block, leaf: Uint8Array.from(entry.leaf) });
    }
    while (this.#changes.length > this.#changesMax && this.#end > this.#first + 1) this.#shrink();
  }

  /** Of the points from the first one on, at least of that one. */
  *verdicts(): Generator<boolean> {
    this.#flush(-1);
    const { geometry } = this.#point(this.#first);
    let tree = new MerkleNodes(geometry, merkleHashes);
    const known = new Set<number>();
    for (let at = this.#first; at < this.#end; at += 1) {
      const { geometry: now, root } = this.#point(at);
      if (now.size !== tree.geometry.size) {
        const grown = new MerkleNodes(now, merkleHashes);
        for (const node of known) grown.put(node, tree.node(node));
        tree = grown;
      }
      for (const { node, hash } of this.#hashes.get(at) ?? []) {
        tree.put(node, hash);
        known.add(node);
      }
      yield !this.#beyond.has(at) && Buffer.from(tree.root()).toString('hex') === root;
    }
  }

  #point(at: number): PointOfDisk {
    const point = this.#history.points[at];
    if (!point) throw new RangeError(`the history has no point ${at}`);
    return point;
  }

  /** Hashes the node at every point that changed it, then begins the next one. */
  #flush(next: number): void {
    const leaves = new Uint8Array(leavesPerNode * leafBytes);
    const changes = this.#changes.sort((a, b) => a.at - b.at);
    const resizes = changes.length > 0 ? this.#resizesOf(this.#node) : [];
    const points = new Set([...changes.map(({ at }) => at), ...resizes]);
    let taken = 0;
    for (const at of [...points].sort((a, b) => a - b)) {
      for (let change = changes[taken]; change && change.at <= at; change = changes[taken]) {
        leaves.set(change.leaf, (change.block % leavesPerNode) * leafBytes);
        taken += 1;
      }
      if (at < this.#end) this.#keep(at, leaves);
    }
    while (this.#hashCount > this.#changesMax && this.#end > this.#first + 1) this.#shrink();
    this.#changes = [];
    this.#node = next;
  }

  #keep(at: number, leaves: Uint8Array): void {
    const count = leavesInNode(this.#point(at).geometry, this.#node);
    if (count <= 0) return;
    const hashes = this.#hashes.get(at) ?? [];
    hashes.push({ node: this.#node, hash: merkleHashes.node(leaves.subarray(0, count * leafBytes)) });
    this.#hashes.set(at, hashes);
    this.#hashCount += 1;
  }

  /** Points at which the node got more leaves because the disk grew. */
  #resizesOf(node: number): number[] {
    const leaves = (at: number): number => leavesInNode(this.#point(at).geometry, node);
    return this.#resizes.filter((at) => leaves(at - 1) !== leaves(at));
  }

  /** Leaves the later half of the points to another pass. */
  #shrink(): void {
    this.#end = this.#first + Math.ceil((this.#end - this.#first) / 2);
    this.#changes = this.#changes.filter(({ at }) => at < this.#end);
    for (const [at, hashes] of this.#hashes) {
      if (at < this.#end) continue;
      this.#hashCount -= hashes.length;
      this.#hashes.delete(at);
    }
  }
}

/**
 * Heals old points where the source still had what was damaged: it sent the block again, as part of the next point, and what it sent has the leaf of the
 * damaged version. From REPAIRED on that version takes all its pages from the new record (FORMAT.md, "points.log"), and its points are looked at again.
 *
 * Invariants:
 *  1. A version is healed only by a record of a committed point that was just read and matched with the leaf.
 *  2. The leaf is the version's own: the index may have lost a record that the point reads really. So the Merkle nodes as of each point that is healed
 *     have to make its root, and the leaves the index has for it that node.
 *  3. Whoever took pages from the healed version, or through it, takes them from the healthy record too: what the version had of its own is no longer
 *     in the index, though it may have been whole. So the page maps above it are made anew with it, and in an index made anew after it.
 *  4. REPAIRED is durable first; the index is told then, and again at each opening (`rewriteRepaired`), in case it was begun anew or was not told.
 */
import { geometryOf } from '../disk/geometry.ts';
import { leavesInNode, MerkleNodes, nodeCountOf } from '../disk/merkle.ts';
import { fullMask } from '../disk/page-mask.ts';
import { merkleHashes } from '../kernels/hash.ts';
import { limits } from '../limits.ts';
import { codec } from '../wire/sealed.ts';
import type { DiskStore } from './disk-store.ts';
import { recordKey, recordValueBytesMax, writeRecord, type IndexEntry } from './index-codec.ts';
import { mendedPages, type IndexChange } from './index-pages.ts';
import type { IndexReader } from './index-reader.ts';
import { maxSeqAt } from './point-layers.ts';
import type { PointsView } from './points-view.ts';
import { seqsOf } from './rebuild.ts';
import type { RecordIndex } from './record-index.ts';
import { sameBytes } from './segment-format.ts';
import type { StoredRecords } from './stored-records.ts';

const { pagesPerBlock, leavesPerNode, leafBytes } = limits.disk;

/** As in REPAIRED: block, damaged seq, seq of the next version, healthy seq. */
export type Healed = [number, number, number, number];

export interface RepairsParts {
  readonly index: RecordIndex;
  readonly points: PointsView;
  readonly records: StoredRecords;
}

/** The damaged version in the index: nothing of its own, all pages from the healthy record. */
function repairedRecord(diskNo: number, seq: number, healthy: IndexEntry): Required<IndexChange> {
  const room = Buffer.allocUnsafeSlow(recordValueBytesMax);
  const row = { ...healthy, pageMask: fullMask, codec: codec.raw, storedLength: 0, rawLength: 0, nonce: 0 };
  const pages = new Array<number>(pagesPerBlock).fill(healthy.seq);
  const length = writeRecord(room, 0, { ...row, tag: new Uint8Array(16) }, { segment: 0, payloadOffset: 0 }, pages);
  return { store: 'records', key: recordKey(diskNo, healthy.block, seq), value: room.subarray(0, length) };
}

/** The record as it should be in the index. */
export function recordChange(diskNo: number, entry: IndexEntry): IndexChange {
  const room = Buffer.allocUnsafeSlow(recordValueBytesMax);
  const length = writeRecord(room, 0, entry, entry, entry.pages);
  return { store: 'records', key: recordKey(diskNo, entry.block, entry.seq), value: room.subarray(0, length) };
}

/** Tells an index that was filled from the segments of the repairs (invariants 3 and 4). */
export async function rewriteRepaired(
  index: RecordIndex,
  disks: readonly { readonly no: number }[],
  points: PointsView,
): Promise<void> {
  for (const { no } of disks) {
    // The last one said of a version counts.
    const last = new Map(points.repaired(no).map((each) => [`${each.block}/${each.damagedSeq}`, each]));
    const blocks = new Set<number>();
    for (const { block, damagedSeq, healthySeq } of last.values()) {
      const healthy = index.get(no, block, healthySeq);
      // Where fold took it no kept point reads either.
      if (!healthy) continue;
      blocks.add(block);
      const known = index.get(no, block, damagedSeq);
      if (known?.pageMask === fullMask && known.pages?.[0] === healthySeq) continue;
      await index.room();
      index.rewrite([repairedRecord(no, damagedSeq, healthy)]);
    }
    const reader = await index.reader();
    for (const block of blocks) {
      await index.room();
      index.rewrite(mendedPages(reader, no, block));
    }
  }
}

export class Repairs {
  readonly #parts: RepairsParts;
  /** Disk and block → the newest record looked at, and at how many points it was damaged then. */
  readonly #lookedAt = new Map<string, string>();

  constructor(parts: RepairsParts) {
    this.#parts = parts;
  }

  /** Damaged versions of the disk's blocks that a newer record can stand in for. @throws Problem `read-failed`. */
  async due(disk: DiskStore): Promise<Healed[]> {
    const { points, records } = this.#parts;
    const healed: Healed[] = [];
    const complete = new Map<string, boolean>();
    for (const [block, at] of this.#damagedAt(disk.no)) {
      for (const healthy of this.#candidates(disk.no, block, at.length)) {
        for (const [seq, [nextSeq, readers]] of this.#versionsLike(disk.no, healthy, at)) {
          if (healed.some(([known, damagedSeq]) => known === block && damagedSeq === seq)) continue;
          const isTold = async (point: number): Promise<boolean> => {
            const key = `${point}/${Math.floor(block / leavesPerNode)}`;
            const told = complete.get(key) ?? (await this.#leavesHold(disk.no, block, point));
            complete.set(key, told);
            return told;
          };
          let isSure = true;
          for (const point of readers) isSure &&= await isTold(point);
          // Invariant 1.
          if (!isSure || (await records.check(disk, healthy)) !== null) continue;
          healed.push([block, seq, nextSeq, healthy.seq]);
          if (healed.length >= limits.store.damagedBlocksMax) return healed;
        }
      }
    }
    // Said so that a version of a disk that is healed is not looked for again.
    if (points.damaged.size === 0) this.#lookedAt.clear();
    return healed;
  }

  /** What the index, as it is then, has to be told of them. */
  changes(index: IndexReader, diskNo: number, healed: readonly Healed[]): IndexChange[] {
    const changes: IndexChange[] = [];
    const blocks = new Map<number, Map<number, Buffer>>();
    for (const [block, damagedSeq, , healthySeq] of healed) {
      const healthy = index.get(diskNo, block, healthySeq);
      if (!healthy) continue;
      const change = repairedRecord(diskNo, damagedSeq, healthy);
      changes.push(change);
      blocks.set(block, (blocks.get(block) ?? new Map<number, Buffer>()).set(damagedSeq, change.value));
    }
    for (const [block, instead] of blocks) changes.push(...mendedPages(index, diskNo, block, instead));
    return changes;
  }

  #damagedAt(diskNo: number): Map<number, number[]> {
    const blocks = new Map<number, number[]>();
    for (const [point, disks] of this.#parts.points.damaged) {
      if (this.#parts.points.isRetired(point)) continue;
      for (const block of disks.get(diskNo) ?? []) {
        const at = blocks.get(block) ?? [];
        at.push(point);
        blocks.set(block, at);
      }
    }
    return blocks;
  }

  /** Whole records that the block's newest one is or takes pages from; none if they were looked at before. */
  #candidates(diskNo: number, block: number, damagedAt: number): IndexEntry[] {
    const { index, points } = this.#parts;
    const newest = index.lookup(diskNo, block, points.listedSeq(diskNo));
    const key = `${diskNo}/${block}`;
    const now = `${newest?.seq ?? 0}/${damagedAt}`;
    if (!newest || this.#lookedAt.get(key) === now) return [];
    this.#lookedAt.set(key, now);
    const seqs = new Set([newest.seq, ...seqsOf(newest)]);
    return [...seqs].flatMap((seq) => {
      const record = index.get(diskNo, block, seq);
      return record?.pageMask === fullMask && record.pages === null ? [record] : [];
    });
  }

  /** The older versions with the leaf of `healthy` that the points read: seq → the seq of the next version, the points. */
  #versionsLike(diskNo: number, healthy: IndexEntry, at: readonly number[]): Map<number, [number, number[]]> {
    const { index, points } = this.#parts;
    const like = new Map<number, [number, number[]]>();
    for (const point of at) {
      const version = index.lookup(diskNo, healthy.block, maxSeqAt(points, diskNo, point));
      if (!version || version.seq >= healthy.seq || !sameBytes(version.leaf, healthy.leaf)) continue;
      const known = like.get(version.seq) ?? [this.#nextSeq(diskNo, version, healthy.seq), []];
      known[1].push(point);
      like.set(version.seq, known);
    }
    return like;
  }

  #nextSeq(diskNo: number, { block, seq }: IndexEntry, below: number): number {
    for (let next = below; ;) {
      const before = this.#parts.index.lookup(diskNo, block, next - 1);
      if (!before || before.seq <= seq) return next;
      next = before.seq;
    }
  }

  /** Invariant 2, for the node the block is in. */
  async #leavesHold(diskNo: number, block: number, point: number): Promise<boolean> {
    const { index, points } = this.#parts;
    const listed = points.point(point)?.disks.find(({ no }) => no === diskNo);
    if (!listed) return false;
    const geometry = geometryOf(listed.size, listed.blockSize);
    const reader = await index.reader();
    const nodes = new MerkleNodes(geometry, merkleHashes);
    const count = nodeCountOf(geometry);
    for (const { node, hash } of reader.nodesAt(diskNo, point)) if (node < count) nodes.put(node, hash);
    if (Buffer.from(nodes.root()).toString('hex') !== listed.root) return false;
    const node = Math.floor(block / leavesPerNode);
    const first = node * leavesPerNode;
    const leaves = new Uint8Array(leavesInNode(geometry, node) * leafBytes);
    const maxSeq = maxSeqAt(points, diskNo, point);
    for (const entry of reader.entriesAt(diskNo, maxSeq, first, first + leaves.byteLength / leafBytes))
      leaves.set(entry.leaf, (entry.block - first) * leafBytes);
    return sameBytes(merkleHashes.node(leaves), nodes.node(node));
  }
}

/**
 * What was found out about the content of points, as `points.log` says: PROVEN, DAMAGED and REPAIRED (FORMAT.md).
 *
 * Invariants:
 *  1. Damage takes back the proofs of all later points: they are looked at again.
 *  2. A repair takes damage off the points that read the version, and with the last of it the point's word against it; its proof has to be made anew. Where
 *     the version is of the point's own layers, from the first block on; else what the point changed stays as proven as it was.
 *  3. Damage that is found, and told of each later point that took it over, costs a look at each of them once: not again with each that is told.
 */
import type { DamagedBody, PointBody, ProvenBody, RepairedBody } from './points-record.ts';

/** A version of a block whose content is that of a later record now. */
export interface RepairedVersion {
  readonly block: number;
  readonly damagedSeq: number;
  readonly healthySeq: number;
}

export class PointProofs {
  readonly proven = new Map<number, ProvenBody>();
  readonly provenBefore = new Map<number, ProvenBody>();
  /** Point → disk number → blocks. */
  readonly damaged = new Map<number, Map<number, Set<number>>>();
  /** Disk number → repairs in the order they were made. */
  readonly repaired = new Map<number, RepairedVersion[]>();
  /** Of each DAMAGED its point, of each REPAIRED 0, in their order. */
  readonly changes: number[] = [];
  /** No point above it is proven. */
  #highestProven = 0;

  prove(body: ProvenBody): void {
    this.proven.set(body.point, body);
    this.#highestProven = Math.max(this.#highestProven, body.point);
  }

  /** Invariants 1 and 3. */
  damage({ point, disk, blocks }: DamagedBody): void {
    const disks = this.damaged.get(point) ?? new Map<number, Set<number>>();
    this.damaged.set(point, disks);
    const known = disks.get(disk) ?? new Set();
    disks.set(disk, known);
    for (const each of blocks) known.add(each);
    this.changes.push(point);
    for (; this.#highestProven > point; this.#highestProven -= 1) {
      const body = this.proven.get(this.#highestProven);
      if (!body) continue;
      this.proven.delete(body.point);
      this.provenBefore.set(body.point, body);
    }
  }

  /** Invariant 2. @param points all there are. */
  repair({ disk, versions }: RepairedBody, points: readonly PointBody[]): void {
    this.changes.push(0);
    const repaired = this.repaired.get(disk) ?? [];
    this.repaired.set(disk, repaired);
    for (const [block, damagedSeq, , healthySeq] of versions) repaired.push({ block, damagedSeq, healthySeq });
    let maxSeq = 0;
    for (const { point, disks } of points) {
      const layers = disks.find(({ no }) => no === disk)?.layers ?? null;
      maxSeq = layers?.last ?? maxSeq;
      const blocks = this.damaged.get(point)?.get(disk);
      if (!blocks) continue;
      const before = blocks.size;
      for (const [block, damagedSeq, nextSeq] of versions) {
        if (maxSeq < damagedSeq || maxSeq >= nextSeq || !blocks.delete(block)) continue;
        this.#lookAgain(point, layers !== null && layers.first <= damagedSeq);
      }
      if (before > 0 && blocks.size === 0) this.#forget(point, disk);
    }
  }

  #lookAgain(point: number, own: boolean): void {
    const body = this.proven.get(point);
    this.proven.delete(point);
    if (own) this.provenBefore.delete(point);
    else if (body) this.provenBefore.set(point, body);
  }

  #forget(point: number, disk: number): void {
    const disks = this.damaged.get(point);
    disks?.delete(disk);
    if (disks?.size === 0) this.damaged.delete(point);
  }
}

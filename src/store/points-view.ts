/**
 * What `points.log` says, in memory: the points, who may write, what was proven, what was found damaged, why there are gaps.
 * Changed by its log alone, one durable record at a time.
 */
import type { Problem } from '../kit/problem.ts';
import { epochOf } from '../wire/seq.ts';
import { PointProofs, type RepairedVersion } from './point-proofs.ts';
import { KeptPoints } from './points-kept.ts';
import { endOfExtents, latest, type Extent, type Position } from './segment-format.ts';
import {
  releasedInstance,
  type BootedBody,
  type EpochBody,
  type FailoverBody,
  type GapBody,
  type MachineBody,
  type PointBody,
  type PointsEntry,
  type ProvenBody,
} from './points-record.ts';

/**
 * `damaged` wins over `proven`. A proof looks at what its point changed and at what was known to be damaged before; damage that is found at an
 * earlier point afterwards takes the proof back until that has been looked at too.
 */
export type PointState = 'committed' | 'proven' | 'damaged';

export class PointsView {
  readonly #points: PointBody[] = [];
  readonly #proofs = new PointProofs();
  readonly #gaps: GapBody[] = [];
  #extents: Extent[] = [];
  #mark: Position | null = null;
  /** Disk number → the points that list layers of it, ascending, each with the highest seq. */
  readonly #listed = new Map<number, { readonly point: number; readonly last: number }[]>();
  #epoch: EpochBody | null = null;
  /** With the first point each counts for, ascending. */
  readonly #definitions: { readonly from: number; readonly body: MachineBody }[] = [];
  #failover: FailoverBody | null = null;
  readonly #failovers = new Map<string, FailoverBody>();
  readonly #booted = new Map<number, BootedBody>();
  #newestBooted: BootedBody | null = null;
  readonly #keeping = new KeptPoints();

  /** All there ever were, also those that are retired: ascending, point n is the n-th. */
  get points(): readonly PointBody[] {
    return this.#points;
  }

  get lastPoint(): PointBody | null {
    return this.#points.at(-1) ?? null;
  }

  point(number: number): PointBody | null {
    return this.#points[number - 1] ?? null;
  }

  /** Those that can be read, ascending. The newest is always one of them. */
  get kept(): readonly PointBody[] {
    return this.#keeping.kept;
  }

  /** No longer offered: what only this point needed may be gone. */
  isRetired(point: number): boolean {
    return this.#keeping.retired.has(point);
  }

  isPinned(point: number): boolean {
    return this.#keeping.pinned.has(point);
  }

  /** For who asks for a retired point by its number. */
  retiredProblem(machine: string, point: number): Problem {
    return this.#keeping.problem(machine, point);
  }

  /** Segments whose files may be gone: nothing is missing where they are not. */
  get removed(): ReadonlySet<number> {
    return this.#keeping.removed;
  }

  /** The highest seq of the disk that points up to this one (all of them, when none is said) list; 0: none. */
  listedSeq(diskNo: number, point = this.#points.length): number {
    const listed = this.#listed.get(diskNo) ?? [];
    let [from, end] = [0, listed.length];
    while (from < end) {
      const middle = (from + end) >>> 1;
      if ((listed[middle]?.point ?? point) <= point) from = middle + 1;
      else end = middle;
    }
    return listed[from - 1]?.last ?? 0;
  }

  /** Who may write now; `null` before the first session. */
  get epoch(): EpochBody | null {
    return this.#epoch;
  }

  /** The machine as of the point; null: nobody had said by then what it is. */
  definitionAt(point: number): MachineBody['definition'] | null {
    return this.#definitions.findLast(({ from }) => from <= point)?.body.definition ?? null;
  }

  /** 0 before the first unplanned failover; says which side is primary since when (C9). */
  get generation(): number {
    return this.#failover?.generation ?? 0;
  }

  /** The failover that made the replica the primary: the source is refused (FAILOVER.md). Null: the source is the primary. */
  get failover(): FailoverBody | null {
    return this.#failover?.step === 'cancelled' ? null : this.#failover;
  }

  /** The last step of the failover of this id, also when others came after it; null: the log does not name it. */
  lastOfFailover(id: string): FailoverBody | null {
    return this.#failovers.get(id) ?? null;
  }

  /** The newest proof that the point starts; null: it was never tried, or not with success. */
  bootedAt(point: number): BootedBody | null {
    return this.#booted.get(point) ?? null;
  }

  /** The last proof that one of its points starts, whichever; null: none ever did. */
  get newestBooted(): BootedBody | null {
    return this.#newestBooted;
  }

  get proven(): ReadonlyMap<number, ProvenBody> {
    return this.#proofs.proven;
  }

  /** Proofs taken back: what these points changed was whole; what they took over is to be looked at again. */
  get provenBefore(): ReadonlyMap<number, ProvenBody> {
    return this.#proofs.provenBefore;
  }

  /** Point → disk number → blocks found damaged. */
  get damaged(): ReadonlyMap<number, ReadonlyMap<number, ReadonlySet<number>>> {
    return this.#proofs.damaged;
  }

  /** Of each DAMAGED its point, of each REPAIRED 0, in their order: who goes through the points sees what was found out behind it. */
  get damageChanges(): readonly number[] {
    return this.#proofs.changes;
  }

  /** Versions of the disk's blocks that were damaged and have the content of a later record; the last one said of a version counts. */
  repaired(diskNo: number): readonly RepairedVersion[] {
    return this.#proofs.repaired.get(diskNo) ?? [];
  }

  get gaps(): readonly GapBody[] {
    return this.#gaps;
  }

  stateOf(point: number): PointState {
    if (this.damaged.has(point)) return 'damaged';
    return this.proven.has(point) ? 'proven' : 'committed';
  }

  /** What all points rely on, for replay; without what was removed. */
  get extents(): readonly Extent[] {
    return this.#extents;
  }

  /** Where the next point's extents begin (`SegmentLog.extentsSince`); `null` before the first. */
  get mark(): Position | null {
    return this.#mark;
  }

  /** Why the entry can not follow what is here; `null` when it can. */
  objection(entry: PointsEntry): string | null {
    switch (entry.type) {
      case 'epoch': {
        const now = this.#epoch?.epoch ?? -1;
        const { epoch, instance } = entry.body;
        // A release is asked for by what was read a moment ago.
        const follows = instance === releasedInstance ? epoch === Math.max(now, 0) + 1 : epoch > now;
        return follows ? null : `epoch ${epoch} does not follow ${now}`;
      }
      case 'point': {
        const expected = this.#points.length + 1;
        // The second fence (C9): whoever writes under an epoch that was taken over commits nothing.
        const now = this.#epoch?.epoch ?? 0;
        if (entry.body.epoch < now) return `point of epoch ${entry.body.epoch} under epoch ${now}`;
        if (this.failover) return `point of the source after failover ${this.failover.id}`;
        if (entry.body.point !== expected) return `point ${entry.body.point} where ${expected} is due`;
        return this.#objectionToLayers(entry.body);
      }
      case 'proven':
      case 'damaged':
      case 'booted':
        return this.point(entry.body.point) ? null : `there is no point ${entry.body.point}`;
      case 'failover':
        return this.#objectionToFailover(entry.body);
      case 'pin':
        return this.#keeping.objectionToPin(entry.body);
      case 'retired':
        return this.#keeping.objectionToRetired(entry.body);
      case 'removed':
        return this.#keeping.objectionToRemoved(entry.body, this.#mark);
      case 'gap':
      case 'machine':
      case 'repaired':
        return null;
    }
  }

  /** Takes over a durable entry that has no objection. */
  apply(entry: PointsEntry): void {
    switch (entry.type) {
      case 'epoch':
        this.#epoch = entry.body;
        return;
      case 'point':
        this.#points.push(entry.body);
        this.#keeping.add(entry.body);
        this.#list(entry.body);
        this.#rely(entry.body.extents);
        return;
      case 'proven':
        this.#proofs.prove(entry.body);
        return;
      case 'damaged':
        this.#proofs.damage(entry.body);
        return;
      case 'repaired':
        this.#proofs.repair(entry.body, this.#points);
        return;
      case 'gap':
        this.#gaps.push(entry.body);
        return;
      case 'machine':
        this.#definitions.push({ from: this.#points.length + 1, body: entry.body });
        return;
      case 'failover':
        this.#failover = entry.body;
        this.#failovers.set(entry.body.id, entry.body);
        return;
      case 'booted':
        this.#booted.set(entry.body.point, entry.body);
        this.#newestBooted = entry.body;
        return;
      case 'pin':
        this.#keeping.pin(entry.body);
        return;
      case 'retired':
        this.#keeping.retire(entry.body);
        return;
      case 'removed':
        this.#keeping.remove(entry.body);
        this.#extents = this.#extents.filter(({ segment }) => !this.removed.has(segment));
        this.#rely(entry.body.extents);
        return;
    }
  }

  #list({ point, disks }: PointBody): void {
    for (const { no, layers } of disks) {
      if (layers === null) continue;
      const listed = this.#listed.get(no) ?? [];
      this.#listed.set(no, listed);
      listed.push({ point, last: layers.last });
    }
  }

  #rely(extents: readonly Extent[]): void {
    this.#extents.push(...extents);
    this.#mark = latest(this.#mark, endOfExtents(extents));
  }

  /** One at a time: begun, then cancelled or committed. Generations rise with each change of the primary. */
  #objectionToFailover({ id, step, generation, point }: FailoverBody): string | null {
    if (!this.point(point)) return `there is no point ${point}`;
    if (step === 'begun' && this.isRetired(point)) return `point ${point} is retired`;
    const open = this.failover;
    const due = this.generation + (step === 'committed' ? 0 : 1);
    if (generation !== due) return `generation ${generation} where ${due} is due`;
    if (step === 'begun') return open === null ? null : `failover ${open.id} is ${open.step}`;
    if (open?.id !== id) return `failover ${id} was not begun`;
    return open.step === 'begun' ? null : `failover ${id} is ${open.step}`;
  }

  /** Seqs of a disk rise, and no layer is of an epoch after its point's. */
  #objectionToLayers({ point, epoch, disks }: PointBody): string | null {
    for (const { no, layers } of disks) {
      if (layers === null) continue;
      const listed = this.listedSeq(no);
      if (layers.first <= listed) return `point ${point} lists layer ${layers.first} of disk ${no} after ${listed}`;
      if (epochOf(layers.last) > epoch)
        return `point ${point} of epoch ${epoch} lists layer ${layers.last} of disk ${no}`;
    }
    return null;
  }
}

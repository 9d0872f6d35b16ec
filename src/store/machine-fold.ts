/**
 * Retention, fold and compaction of one machine, step by step: points that are due are retired, what nobody reads leaves the index, segments with little left
 * in them are emptied and removed. Who calls says when and how fast (`target/folder.ts`).
 *
 * Invariants:
 *  1. Points in use are kept: RETIRED is durable before this looks who holds what (`points-in-use.ts`).
 *  2. A file is unlinked `removeAfterMs` after REMOVED, and the index named the new places before that: who looked a record up has read it by then. It
 *     also waits for everybody who holds points since before REMOVED, unless the store is full: some read by an index of their own, which
 *     knows the old places alone. A process that ends earlier leaves the file to the next one.
 *  3. Compaction needs room to give room. While there is plenty it takes none of what ingest needs (it stops above `freeBytesResume`); while the store is
 *     full it may use the half of what lies below `freeBytesStop`; the rest stays for points and drops. Segments without anything live cost nothing.
 *  4. What fails ends the pass, never the store: all that was begun is begun again, or is there twice and dead once.
 *  5. A segment that is damaged, or that the medium does not give back, keeps no other one from being compacted.
 */
import type { Clock } from '../kit/clock.ts';
import type { Files } from '../posix/files.ts';
import { limits } from '../limits.ts';
import { moveLive, type CompactParts } from './compact.ts';
import { segmentsToCompact, type SegmentUse } from './compact-plan.ts';
import { foldIndex, type FoldPace, type LiveAccount } from './fold.ts';
import { lostBlocks, type LostBlocks } from './lost-blocks.ts';
import { machinePaths } from './machine-directory.ts';
import type { MachineLog } from './machine-log.ts';
import { settledMark } from './point-layers.ts';
import { heldSinceMs, pointsInUse } from './points-in-use.ts';
import type { PointsEntry } from './points-record.ts';
import type { PointsView } from './points-view.ts';
import { pointsToRetire, type RetentionPolicy } from './retention.ts';
import { segmentName, segmentNumberOf } from './segment-format.ts';
import type { Damage } from './segment-walk.ts';

export interface MachineFoldParts {
  readonly files: Files;
  readonly clock: Clock;
  /** The target's directory. */
  readonly data: string;
  readonly machine: string;
  /** 16 bytes. */
  readonly machineId: Uint8Array;
  readonly log: MachineLog;
  readonly points: PointsView;
  readonly disks: () => readonly { readonly no: number; readonly geometry: { readonly blockSize: number } }[];
  /** Appends to `points.log`, in turn with commits, what is made then. */
  readonly record: (make: () => PointsEntry) => Promise<void>;
  readonly markDamaged: (lost: LostBlocks) => Promise<void>;
}

/** Bytes, as of the last pass. */
export interface SpaceUse {
  /** Of all segment files. */
  readonly stored: number;
  /** Of live records in them. */
  readonly live: number;
  /** What compaction would give back now. */
  readonly backlog: number;
}

export interface FoldOutcome {
  readonly retired: number;
  readonly recordsDropped: number;
  readonly bytesMoved: number;
  readonly segmentsRemoved: number;
  /** Bytes of their files. */
  readonly bytesRemoved: number;
  readonly damage: readonly Damage[];
  /** Segments that could not be read, with what the system said. */
  readonly unreadable: readonly UnreadableSegment[];
  /** False: stopped, or there was no room to go on. */
  readonly complete: boolean;
}

interface UnreadableSegment {
  readonly segment: number;
  readonly error: string;
}

interface Removal {
  readonly segment: number;
  readonly dueMs: number;
  /** When it was removed, or found removed, by the wall clock. */
  readonly atMs: number;
}

export class MachineFold {
  /** Null before the first pass. */
  use: SpaceUse | null = null;
  readonly #parts: MachineFoldParts;
  readonly #directory: string;
  /** Removed and not unlinked; null: nobody looked yet what an earlier process left. */
  #removals: Removal[] | null = null;
  /** Segments that were found damaged, with the live bytes each had then: not read again before some of these are dead. */
  readonly #damaged = new Map<number, number>();
  /** Those that could not be read → when they are tried again. */
  readonly #unreadableMs = new Map<number, number>();

  constructor(parts: MachineFoldParts) {
    this.#parts = parts;
    this.#directory = machinePaths(parts.data, parts.machine).segments;
  }

  /** One pass. @throws Problem `full`, `store-failed`, `index-failed`, `points-log-sync-failed`; what reading throws. */
  async run(policy: RetentionPolicy, pace: FoldPace): Promise<FoldOutcome> {
    const tally = { retired: 0, recordsDropped: 0, bytesMoved: 0, segmentsRemoved: 0, bytesRemoved: 0 };
    const [damage, unreadable]: [Damage[], UnreadableSegment[]] = [[], []];
    this.#removals ??= await this.#leftBehind();
    tally.retired = await this.#retire(policy);
    await this.#forgetBoots();
    const { log, points } = this.#parts;
    const inUse = await pointsInUse(this.#parts);
    const account = await foldIndex({ log, points, disks: this.#parts.disks() }, inUse, pace);
    if (!account) return { ...tally, damage, unreadable, complete: false };
    tally.recordsDropped = account.dropped;
    let complete = true;
    for (const each of await this.#plan(account)) {
      if (!(await this.#hasRoom(each))) {
        complete = false;
        continue;
      }
      const moved = await moveLive(this.#compactParts(), each.segment, account, this.#isLowest(each.segment), pace);
      if (moved.kind === 'stopped') return { ...tally, damage, unreadable, complete: false };
      if (moved.kind === 'damaged') {
        damage.push(...moved.damage);
        this.#damaged.set(each.segment, account.segments.get(each.segment) ?? 0);
        await this.#tellDamage(moved.damage);
      }
      if (moved.kind === 'unreadable') {
        unreadable.push({ segment: each.segment, error: moved.error.message });
        this.#unreadableMs.set(each.segment, this.#parts.clock.monotonicMs() + limits.target.foldIdleMs);
      }
      if (moved.kind !== 'moved') continue;
      await this.#remove(each.segment);
      await log.rewrite(moved.batches);
      tally.bytesMoved += moved.bytes;
      tally.segmentsRemoved += 1;
      tally.bytesRemoved += each.bytes;
      account.segments.delete(each.segment);
    }
    await this.#plan(account);
    return { ...tally, damage, unreadable, complete };
  }

  /** Unlinks what is due (invariant 2). @param all whatever the time, and whoever holds points. */
  async unlinkDue(all = false): Promise<void> {
    const { files, clock, log } = this.#parts;
    this.#removals ??= await this.#leftBehind();
    if (this.#removals.length === 0) return;
    const now = clock.monotonicMs();
    const heldMs = (all || log.segments.full ? null : await heldSinceMs(this.#parts)) ?? Infinity;
    const due = this.#removals.filter(({ dueMs, atMs }) => all || (dueMs <= now && atMs <= heldMs));
    if (due.length === 0) return;
    for (const { segment } of due) await files.remove(`${this.#directory}/${segmentName(segment)}`);
    await files.syncDirectory(this.#directory);
    this.#removals = this.#removals.filter((removal) => !due.includes(removal));
  }

  async #leftBehind(): Promise<Removal[]> {
    const { files, points } = this.#parts;
    const found = (await files.list(this.#directory)).map((name) => segmentNumberOf(name));
    return found.flatMap((segment) => (segment !== null && points.removed.has(segment) ? this.#removal(segment) : []));
  }

  #removal(segment: number): Removal {
    const { clock } = this.#parts;
    return { segment, dueMs: clock.monotonicMs() + limits.store.removeAfterMs, atMs: clock.wallMs() };
  }

  /** What was kept as evidence that points start which are not kept any more. */
  async #forgetBoots(): Promise<void> {
    const { files, points, data, machine } = this.#parts;
    const { boots } = machinePaths(data, machine);
    for (const name of await files.list(boots))
      if (points.isRetired(Number(name))) await files.removeTree(`${boots}/${name}`);
  }

  async #retire(policy: RetentionPolicy): Promise<number> {
    const { points, clock, record } = this.#parts;
    const inUse = await pointsInUse(this.#parts);
    let retired = 0;
    // More points than one record takes come with the next pass.
    if (pointsToRetire(points, policy, inUse).length === 0) return 0;
    await record(() => {
      const runs = pointsToRetire(points, policy, inUse);
      retired = runs.reduce((sum, [first, last]) => sum + last - first + 1, 0);
      return { type: 'retired', body: { points: runs, atMs: clock.wallMs() } };
    });
    return retired;
  }

  /** What to compact, in order; notes what is used. */
  async #plan(account: LiveAccount): Promise<SegmentUse[]> {
    const { files, clock, points } = this.#parts;
    const settled = settledMark(points)?.segment ?? 0;
    const eligible: SegmentUse[] = [];
    let stored = 0;
    for (const name of await files.list(this.#directory)) {
      const segment = segmentNumberOf(name);
      if (segment === null || points.removed.has(segment)) continue;
      const { size } = await files.facts(`${this.#directory}/${name}`);
      stored += size;
      const live = account.segments.get(segment) ?? 0;
      const isReadable = clock.monotonicMs() >= (this.#unreadableMs.get(segment) ?? -Infinity);
      if (segment < settled && isReadable && this.#damaged.get(segment) !== live)
        eligible.push({ segment, bytes: size, live });
    }
    const plan = segmentsToCompact(eligible);
    const live = [...account.segments.values()].reduce((sum, bytes) => sum + bytes, 0);
    this.use = { stored, live, backlog: plan.reduce((sum, each) => sum + each.bytes - each.live, 0) };
    return plan;
  }

  /** Invariant 3. */
  async #hasRoom({ live }: SegmentUse): Promise<boolean> {
    if (live === 0) return true;
    const { files, log } = this.#parts;
    const free = await files.freeBytes(this.#directory);
    const { freeBytesStop, freeBytesResume } = limits.target;
    return free - live > (log.segments.full ? freeBytesStop / 2 : freeBytesResume);
  }

  #isLowest(segment: number): boolean {
    for (let each = segment - 1; each >= 1; each -= 1) if (!this.#parts.points.removed.has(each)) return false;
    return true;
  }

  #compactParts(): CompactParts {
    const { files, machineId, log, points, disks } = this.#parts;
    return {
      files,
      machineId,
      log,
      points,
      directory: this.#directory,
      disks: disks().map(({ no, geometry }) => ({ no, blockSize: geometry.blockSize })),
    };
  }

  async #remove(segment: number): Promise<void> {
    const { clock, log, points, record } = this.#parts;
    await record(() => {
      const extents = log.segments.extentsSince(points.mark).filter((extent) => extent.segment !== segment);
      return { type: 'removed', body: { segments: [segment], extents, atMs: clock.wallMs() } };
    });
    this.#removals?.push(this.#removal(segment));
  }

  async #tellDamage(damage: readonly Damage[]): Promise<void> {
    const { log, points, markDamaged } = this.#parts;
    for (const lost of lostBlocks(await log.index.reader(), points, damage)) await markDamaged(lost);
  }
}

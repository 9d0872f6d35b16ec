/**
 * A machine's replica, open for writing: log, index, points and disks as one. A target holds one per machine.
 *
 * Invariants:
 *  1. A point commits by one durable record, after every byte it lists is durable and indexed, and only if the root of every disk's
 *     working leaves equals the root the source sent (C1, C2).
 *  2. Segments and `points.log` are the truth; index and leaf files are caches, checked at opening and rebuilt from the truth.
 *  3. What changes the machine as a whole (epoch, opening a disk, commit) is done one at a time. A session that is given the store
 *     (`settle`) finds nothing of its predecessor still under way.
 *  4. The epoch of a session is durable before anything is acknowledged under it (C9, `epochs.ts`). Who had an older one changes nothing any
 *     more from then on: layers, batches, openings and commits of another epoch than the newest are refused, also those that waited for their turn.
 */
import { isProblem, Problem } from '../kit/problem.ts';
import type { Clock } from '../kit/clock.ts';
import type { Random } from '../kit/random.ts';
import { Serial } from '../kit/serial.ts';
import { limits } from '../limits.ts';
import type { Geometry } from '../disk/geometry.ts';
import type { Files } from '../posix/files.ts';
import { sameDefinition } from '../wire/definition.ts';
import { counterOf, epochOf } from '../wire/seq.ts';
import { objectionTo, type CommitOutcome, type NewPoint } from './new-point.ts';
import { DamageTakenOver, leansOn } from './damaged-blocks.ts';
import type { DiskStore } from './disk-store.ts';
import { MachineFold } from './machine-fold.ts';
import { epochFor, refuseStale, type EpochClaim } from './epochs.ts';
import type { IndexEntry } from './index-codec.ts';
import type { NodeHash } from './index-nodes.ts';
import { machinePaths, type DataDirectory, type MachineFacts } from './machine-directory.ts';
import type { MachineLog } from './machine-log.ts';
import { giveUpLeaves, makeDiskFacts, openDiskStore, replaceLeaves } from './disk-open.ts';
import { blocksOfPoint } from './point-blocks.ts';
import { canTellSince, maxSeqAt } from './point-layers.ts';
import { PointReader } from './point-reader.ts';
import { ReadAhead } from './read-ahead.ts';
import type { Aside, GapBody, PointBody } from './points-record.ts';
import type { PointsLog } from './points-log.ts';
import type { PointsView } from './points-view.ts';
import type { Position } from './segment-format.ts';
import { recordChange, Repairs } from './repairs.ts';
import type { SegmentReader } from './segment-reader.ts';
import { StoredRecords } from './stored-records.ts';
import type { Vault } from './vault.ts';

export interface MachineStoreParts {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly vault: Vault;
  readonly data: DataDirectory;
  readonly machine: string;
  readonly facts: MachineFacts;
  readonly log: MachineLog;
  readonly points: PointsLog;
  readonly reader: SegmentReader;
  readonly disks: readonly DiskStore[];
  /** `points.log` can not be trusted to take more: the process has to end (C4). */
  readonly fatal: (problem: Problem) => void;
}

export class MachineStore {
  readonly #parts: MachineStoreParts;
  readonly #disks: DiskStore[];
  #facts: MachineFacts;
  #closed = false;
  readonly #repairs: Repairs;
  /** Invariant 3. */
  readonly #oneAtATime = new Serial();

  /** Made by `openMachineStore`. */
  constructor(parts: MachineStoreParts) {
    this.#parts = parts;
    this.#disks = [...parts.disks];
    const [{ index }, records] = [parts.log, this.storedRecords()];
    this.#repairs = new Repairs({ index, points: parts.points.view, records });
    this.#facts = parts.facts;
  }

  get machine(): string {
    return this.#parts.machine;
  }

  get points(): PointsView {
    return this.#parts.points.view;
  }

  get disks(): readonly DiskStore[] {
    return this.#disks;
  }

  /** There is no space for content; acknowledging has stopped. */
  get full(): boolean {
    return this.#parts.log.segments.full;
  }

  /** Resolves when the index could not be written: nothing goes on until the store is closed and opened again. */
  get indexFailed(): Promise<Problem> {
    return this.#parts.log.index.failed;
  }

  /** Every byte of the log before this place is durable. */
  get durableEnd(): Position {
    return this.#parts.log.segments.durableEnd;
  }

  /** Resolves when everything begun so far (commits, openings, appends) has ended. */
  async settle(): Promise<void> {
    await this.#oneAtATime.idle();
    await this.#parts.log.settled();
  }

  /** The epoch of who claims the machine, durable when this resolves. @throws StaleEpoch (nothing changed); Problem `full`. */
  acquireEpoch(instance: string, by: Omit<EpochClaim, 'instance'> = {}): Promise<number> {
    return this.#oneAtATime.run(async () => {
      const [now, claim] = [this.points.epoch, { ...by, instance }];
      const body = epochFor(this.machine, now, claim, this.#parts.clock.wallMs());
      if (body !== now) await this.#appendPoint({ type: 'epoch', body });
      return body.epoch;
    });
  }

  /** @throws StaleEpoch unless the epoch is the newest. */
  refuseStale(epoch: number): void {
    refuseStale(this.machine, this.points.epoch, epoch);
  }

  /** The lowest counter of the epoch that no layer had yet. */
  nextCounter(epoch: number): number {
    const { highestSeq } = this.#parts.log;
    return epochOf(highestSeq) === epoch ? counterOf(highestSeq) + 1 : 1;
  }

  /** The disk of this name, made if the machine has none; no layer of it is open. @throws Problem `shrunk`, `bad-geometry`, `full`, `stale-epoch`. */
  openDisk(wanted: { name: string; size: number; blockSize: number; epoch?: number }): Promise<DiskStore> {
    return this.#oneAtATime.run(() => {
      if (wanted.epoch !== undefined) this.refuseStale(wanted.epoch);
      return this.#openDisk(wanted);
    });
  }

  async #openDisk(wanted: { name: string; size: number; blockSize: number }): Promise<DiskStore> {
    if (this.full) await this.#parts.log.segments.checkSpace();
    if (this.full) {
      throw new Problem('full', `the target has no space left for machine ${this.machine}`, {
        remedy: 'free some space on the file system of its directory; replication goes on by itself',
        retryable: true,
      });
    }
    const { data, files, vault, random, log } = this.#parts;
    const directory = machinePaths(data.path, this.machine).leaves;
    const known = this.#disks.find((disk) => disk.name === wanted.name);
    if (known) {
      known.reopen(wanted.blockSize);
      if (known.leavesLost) await replaceLeaves(known, { files, log, view: this.points, directory });
      await known.resize(wanted.size);
      return known;
    }
    const record = makeDiskFacts({ vault, random, no: this.#disks.length, ...wanted });
    const facts = { ...this.#facts, disks: [...this.#facts.disks, record] };
    await data.writeMachine(this.machine, facts);
    this.#facts = facts;
    const made = await openDiskStore({ files, vault, record, directory, log, view: this.points, size: wanted.size });
    this.#disks.push(made);
    return made;
  }

  /** The highest seq that `point` or one before it lists of the disk; null when leaves since then can not be told. */
  maxSeqAt(diskNo: number, point: number): number | null {
    const disk = this.#disks.find((each) => each.no === diskNo);
    if (!disk?.leavesComplete || !canTellSince(this.points, point)) return null;
    return maxSeqAt(this.points, diskNo, point);
  }

  /** Invariant 1. Rejects only when the store failed or the epoch is stale; everything the source can mend is an outcome. */
  commit(wanted: NewPoint): Promise<CommitOutcome> {
    return this.#oneAtATime.run(() => this.#commit(wanted));
  }

  async #commit(wanted: NewPoint): Promise<CommitOutcome> {
    const { log, clock } = this.#parts;
    this.refuseStale(wanted.epoch);
    await log.settled();
    for (const disk of wanted.disks) {
      const objection = objectionTo(disk);
      if (objection) return { kind: 'rejected', disk: disk.store, ...objection };
    }
    const point = (this.points.lastPoint?.point ?? 0) + 1;
    const body: PointBody = {
      point,
      cutTimeMs: wanted.cutTimeMs,
      committedMs: clock.wallMs(),
      consistency: wanted.consistency,
      ...(wanted.evidence === undefined ? {} : { evidence: wanted.evidence }),
      epoch: wanted.epoch,
      disks: wanted.disks.map(({ store, writes, ...rest }) => ({
        ...rest,
        no: store.no,
        blockSize: store.geometry.blockSize,
        ...(writes === undefined ? {} : { writes }),
      })),
      extents: log.segments.extentsSince(this.points.mark),
    };
    for (const { store } of wanted.disks) await store.noteNodes(point);
    await this.#noteDefinition(point, wanted);
    await this.#appendPoint({ type: 'point', body });
    // The point exists: every disk takes note, even if the leaf file of one of them fails.
    const noted = await Promise.allSettled(
      wanted.disks.map(({ store, size, root }) =>
        store.pointCommitted({ point, cutTimeMs: wanted.cutTimeMs, size, root }),
      ),
    );
    for (const each of noted) if (each.status === 'rejected') throw each.reason;
    const { files, data } = this.#parts;
    const { leaves } = machinePaths(data.path, this.machine);
    for (const { store } of wanted.disks) {
      // The point stands; what fails here is tried again when the disk is opened.
      if (store.leavesLost) await giveUpLeaves(store, files, leaves).catch(() => undefined);
    }
    return { kind: 'committed', point };
  }

  /** Before the point, so that a point is never without the definition that came with it. */
  async #noteDefinition(point: number, { definition }: NewPoint): Promise<void> {
    if (definition === undefined || sameDefinition(definition, this.points.definitionAt(point))) return;
    await this.#appendPoint({ type: 'machine', body: { atMs: this.#parts.clock.wallMs(), definition } });
  }

  /** Points whose proof has not ended yet, oldest first. */
  unprovenPoints(): number[] {
    return this.points.kept.map(({ point }) => point).filter((point) => this.points.stateOf(point) === 'committed');
  }

  /** Disks that are part of the point. */
  disksAt(point: number): DiskStore[] {
    const listed = new Set(this.points.point(point)?.disks.map((disk) => disk.no));
    return this.#disks.filter((disk) => listed.has(disk.no));
  }

  /** Blocks the point's own layers hold, each once, in no promised order. */
  async *blocksOf(disk: DiskStore, point: number): AsyncGenerator<number> {
    const { blockCount } = disk.geometry;
    yield* blocksOfPoint(await this.#parts.log.index.reader(), this.points, { no: disk.no, blockCount }, point);
  }

  /** Reads the disk's blocks as of the point from stored bytes. */
  readerAt(
    disk: DiskStore,
    point: number,
  ): { geometry: Geometry; readBlock(block: number, into: Uint8Array): Promise<void> } {
    const { log, reader } = this.#parts;
    const at = {
      no: disk.no,
      id: Buffer.from(disk.id, 'hex'),
      name: disk.name,
      blockSize: disk.geometry.blockSize,
      maxSeq: maxSeqAt(this.points, disk.no, point),
      keys: new Map([[disk.keys.version, disk.keys]]),
    };
    const points = new PointReader({
      machine: this.machine,
      disks: [at],
      index: log.index,
      readAt: new ReadAhead(reader, () => log.segments.durableEnd).read,
    });
    return { geometry: disk.geometry, readBlock: (block, into) => points.readBlock(disk.no, block, into) };
  }

  /** All that is stored, for who checks it in place. */
  storedRecords(): StoredRecords {
    const { files, data, machine, facts, log, points, reader } = this.#parts;
    const { directory: machineDirectory, segments: directory } = machinePaths(data.path, machine);
    const [machineId, { index }] = [Buffer.from(facts.id, 'hex'), log];
    const at = { machine, machineId, machineDirectory, directory };
    return new StoredRecords({ ...at, files, points: points.view, index, reader });
  }

  /** A record of which the index said something else than its segment. */
  async mendRecord(disk: DiskStore, entry: IndexEntry): Promise<void> {
    await this.#parts.log.rewrite([recordChange(disk.no, entry)]);
    await this.#parts.log.index.flushed();
  }

  /** Merkle nodes as of the point, where the index had other ones. */
  noteNodes(disk: DiskStore, point: number, changed: readonly NodeHash[]): Promise<void> {
    return this.#parts.log.noteNodes(disk.no, point, changed);
  }

  /** Points that were due and not made. @throws Problem `full` (nothing changed), `points-log-sync-failed`. */
  async recordGap(gap: GapBody): Promise<void> {
    await this.#appendPoint({ type: 'gap', body: gap });
  }

  /** Writes down what is no part of a point; in turn with commits. @throws Problem `bad-record` (it can not follow what is there), `full`. */
  recordAside(entry: Aside): Promise<void> {
    return this.#oneAtATime.run(() => this.#appendPoint(entry));
  }

  /** Unless something was found out meanwhile about the points before, which it may have taken over: false. */
  markProven(point: number, blocks: number, taken: DamageTakenOver): Promise<boolean> {
    return this.#oneAtATime.run(async () => {
      if (!taken.isCurrent) return false;
      await this.#appendPoint({ type: 'proven', body: { point, atMs: this.#parts.clock.wallMs(), blocks } });
      return true;
    });
  }

  /** For who goes through the points in rising order. */
  damageTakenOver(): DamageTakenOver {
    return new DamageTakenOver(this.#parts.log.index, this.points);
  }

  /**
   * Records the damage, in as many records as it takes (no block: nobody knows which), and remembers to ask the source for those blocks that nothing has replaced since.
   * Returns these.
   */
  async markDamaged(point: number, disk: DiskStore, blocks: readonly number[]): Promise<number[]> {
    const { log, clock } = this.#parts;
    const maxSeq = maxSeqAt(this.points, disk.no, point);
    const last = Number.MAX_SAFE_INTEGER;
    const wanted = blocks.filter((block) => leansOn(log.index.lookup(disk.no, block, last), maxSeq));
    disk.needRepair(wanted);
    const step = limits.store.damagedBlocksMax;
    for (let from = 0; from === 0 || from < blocks.length; from += step) {
      const body = { point, atMs: clock.wallMs(), disk: disk.no, blocks: blocks.slice(from, from + step) };
      await this.#oneAtATime.run(() => this.#appendPoint({ type: 'damaged', body }));
    }
    return wanted;
  }

  /**
   * Heals the points whose damaged blocks the source has sent again as they were; they are to be proven anew. Answers how many versions of blocks.
   * @throws Problem `read-failed`, `full`, `points-log-sync-failed`.
   */
  async heal(disk: DiskStore): Promise<number> {
    const { log, clock } = this.#parts;
    const versions = this.points.damaged.size === 0 ? [] : await this.#repairs.due(disk);
    if (versions.length === 0) return 0;
    await this.#appendPoint({ type: 'repaired', body: { disk: disk.no, atMs: clock.wallMs(), versions } });
    await log.rewriteAsIs((index) => this.#repairs.changes(index, disk.no, versions));
    await log.index.flushed();
    return versions.length;
  }

  /** Retention, fold and compaction of this machine; ends before the store is closed. */
  fold(): MachineFold {
    // Not the vault: none of it needs a key.
    const { files, clock, machine, log, data, facts } = this.#parts;
    return new MachineFold({
      ...{ files, clock, machine, log },
      data: data.path,
      machineId: Buffer.from(facts.id, 'hex'),
      points: this.points,
      disks: () => this.#disks,
      record: (make) => this.#oneAtATime.run(() => this.#appendPoint(make())),
      markDamaged: async ({ point, diskNo, blocks }) => {
        const disk = this.#disks.find(({ no }) => no === diskNo);
        const damaged = disk ? await this.damagedAmong(disk, point, blocks) : [];
        if (disk && damaged.length > 0) await this.markDamaged(point, disk, damaged);
      },
    });
  }

  /** Those that can not be read as of the point: a batch that does not check may have all its records but one. @throws Problem `read-failed`. */
  async damagedAmong(disk: DiskStore, point: number, blocks: readonly number[]): Promise<number[]> {
    const reader = this.readerAt(disk, point);
    const into = Buffer.allocUnsafeSlow(disk.geometry.blockSize);
    const damaged: number[] = [];
    for (const block of blocks) {
      try {
        await reader.readBlock(block, into);
      } catch (error) {
        if (!isProblem(error) || error.code !== 'damaged') throw error;
        damaged.push(block);
      }
    }
    return damaged;
  }

  /** Closes everything cleanly. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const { log, points, reader } = this.#parts;
    await log.close();
    await points.close();
    await reader.close();
    for (const disk of this.#disks) await disk.leaves.close();
  }

  async #appendPoint(entry: Parameters<PointsLog['append']>[0]): Promise<void> {
    try {
      await this.#parts.points.append(entry);
    } catch (error) {
      if (error instanceof Problem && error.code === 'points-log-sync-failed') this.#parts.fatal(error);
      throw error;
    }
  }
}

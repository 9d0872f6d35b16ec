/**
 * A machine's recovery points, read-only: from the target's directory and its keys, whether or not a target runs on it (DESIGN §1).
 *
 * Invariants:
 *  1. Nothing is written into the directory: no repair, no lock, no index. Where the target's index can not be relied on or does not
 *     reach the newest point, one is built in a temporary directory the caller gives. A running target's index follows its points within
 *     milliseconds, so it gets a moment first.
 *  2. Only committed points are seen (C2).
 */
import { geometryOf, type Geometry } from '../disk/geometry.ts';
import type { Clock } from '../kit/clock.ts';
import { Problem } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import { codec } from '../wire/sealed.ts';
import type { IndexEntry } from './index-codec.ts';
import type { NodeHash } from './index-nodes.ts';
import { IndexReader, type LogPosition } from './index-reader.ts';
import { machinePaths, readMachineFacts, type DiskFacts, type MachineFacts } from './machine-directory.ts';
import { IndexFiller } from './machine-open.ts';
import { maxSeqAt } from './point-layers.ts';
import { PointReader } from './point-reader.ts';
import { readPoints } from './points-log.ts';
import type { PointBody } from './points-record.ts';
import type { PointsView } from './points-view.ts';
import { planRebuild, type RebuildTask } from './rebuild-run.ts';
import { RecordIndex } from './record-index.ts';
import { rewriteRepaired } from './repairs.ts';
import { replayAll } from './replay.ts';
import { isBefore } from './segment-format.ts';
import { SegmentReader } from './segment-reader.ts';
import type { Vault } from './vault.ts';

export interface StoredEntry {
  readonly block: number;
  /** All zero: nothing is stored. */
  readonly zero: boolean;
  /** 32 bytes. */
  readonly leaf: Uint8Array;
  /** Where its content lies. */
  readonly record: IndexEntry;
}

/** A disk as of a point. */
export interface DiskAtPoint {
  readonly machine: string;
  readonly disk: string;
  readonly point: number;
  readonly cutTimeMs: number;
  readonly geometry: Geometry;
  /** Hex. */
  readonly root: string;
  /** The newest record of every block in [fromBlock, endBlock) that has one, ascending. */
  entries(fromBlock?: number, endBlock?: number): Iterable<StoredEntry>;
  /** The newest record of the block. */
  entry(block: number): StoredEntry | undefined;
  /** The Merkle nodes of the point as far as the index knows them; those it does not name are of zero leaves. To be believed if they make the root. */
  nodes(): Iterable<NodeHash>;
  /**
   * Content of the block as of an entry, matched to the entry's leaf. There is no look-up by block number: an index with a flipped bit may
   * find another record that way than it lists, and that one matches its own leaf just as well.
   * @throws Problem `damaged`.
   */
  read(entry: StoredEntry, into: Uint8Array): Promise<void>;
  /** What a worker thread needs to read the same of several blocks. */
  plan(entries: readonly StoredEntry[]): RebuildTask;
}

/** Numbers the disks this process has opened at points (`RebuildTask.image`). */
let images = 0;

/** How long an index that lacks the newest point may take to follow, and how often it is asked. */
const indexLagMs = 1_000;
const indexAskedEveryMs = 20;

export interface MachineViewOptions {
  readonly files: Files;
  readonly clock: Clock;
  /** The target's directory. */
  readonly data: string;
  readonly machine: string;
  readonly bootId: string;
  /** Where an index may be built; the caller removes it. */
  readonly scratch: string;
  /** Build one whatever the target has: its index is a cache, and it has just misled the caller. */
  readonly ownIndex?: boolean;
}

export class MachineView {
  readonly machine: string;
  readonly facts: MachineFacts;
  readonly points: PointsView;
  /** `points.log` has a record that does not check with whole ones behind it. */
  readonly pointsDamaged: boolean;
  readonly #options: MachineViewOptions;
  readonly #reader: SegmentReader;
  #index: IndexReader | null = null;
  #built: RecordIndex | null = null;

  private constructor(options: MachineViewOptions, facts: MachineFacts, points: PointsView, pointsDamaged: boolean) {
    this.machine = options.machine;
    this.facts = facts;
    this.points = points;
    this.pointsDamaged = pointsDamaged;
    this.#options = options;
    this.#reader = new SegmentReader(options.files, machinePaths(options.data, options.machine).segments);
  }

  /** @throws Problem `not-found`, `damaged`. */
  static async open(options: MachineViewOptions): Promise<MachineView> {
    const { files, data, machine } = options;
    const facts = await readMachineFacts(files, data, machine);
    if (!facts) {
      throw new Problem('not-found', `${data} holds no machine ${machine}`, {
        remedy: 'run tidemark points to see which there are',
      });
    }
    const { view, tail } = await readPoints({
      files,
      path: machinePaths(data, machine).pointsLog,
      machineId: Buffer.from(facts.id, 'hex'),
    });
    return new MachineView(options, facts, view, tail === 'damaged');
  }

  /** The disk of this name; without a name the only one. @throws Problem `not-found`, `bad-argument`. */
  disk(name: string | undefined): DiskFacts {
    const { disks } = this.facts;
    if (name === undefined && disks.length === 1 && disks[0]) return disks[0];
    const names = disks.map((disk) => disk.name).join(', ') || 'none';
    if (name === undefined) {
      throw new Problem('bad-argument', `machine ${this.machine} has ${disks.length} disks: ${names}`, {
        remedy: 'name one of them',
      });
    }
    const found = disks.find((disk) => disk.name === name);
    if (found) return found;
    throw new Problem('not-found', `machine ${this.machine} has no disk ${name}`, { remedy: `its disks: ${names}` });
  }

  /** The point asked for, one that is kept. @throws Problem `not-found`. */
  choosePoint(choice: number | 'latest' | 'proven'): PointBody {
    const { kept } = this.points;
    const found =
      choice === 'latest'
        ? kept.at(-1)
        : choice === 'proven'
          ? kept.findLast(({ point }) => this.points.stateOf(point) === 'proven')
          : kept.find(({ point }) => point === choice);
    if (found) return found;
    if (typeof choice === 'number' && this.points.isRetired(choice))
      throw this.points.retiredProblem(this.machine, choice);
    const range = kept[0] ? `it has points ${kept[0].point} to ${this.points.points.length}` : 'it has none yet';
    throw new Problem(
      'not-found',
      `machine ${this.machine} has no ${typeof choice === 'number' ? `point ${choice}` : `${choice} point`}`,
      {
        remedy: `${range}; see tidemark points ${this.machine}`,
      },
    );
  }

  /** @throws Problem `not-found` when the disk is not part of the point, `no-key`, `damaged`. */
  async diskAt(disk: DiskFacts, body: PointBody, vault: Vault): Promise<DiskAtPoint> {
    const listed = body.disks.find(({ no }) => no === disk.no);
    if (!listed) {
      throw new Problem('not-found', `disk ${disk.name} is not part of point ${body.point} of ${this.machine}`, {
        remedy: 'choose another point',
      });
    }
    const index = await this.#openIndex();
    const maxSeq = maxSeqAt(this.points, disk.no, body.point);
    const id = Buffer.from(disk.id, 'hex');
    const keys = new Map(disk.keys.map((wrapped) => [wrapped.version, vault.unwrapDiskKeys(id, wrapped)]));
    const at = { no: disk.no, id, name: disk.name, blockSize: disk.blockSize, keys };
    const reader = new PointReader({
      machine: this.machine,
      disks: [{ ...at, maxSeq }],
      index,
      readAt: (segment, into, offset) => this.#reader.readAt(segment, into, offset),
    });
    const { segments } = machinePaths(this.#options.data, this.machine);
    images += 1;
    const place = { image: images, segments, disk: { ...at, id: Uint8Array.from(id), machine: this.machine } };
    const records = {
      get: (block: number, seq: number) => index.get(disk.no, block, seq),
      layer: (seq: number) => index.layer(disk.no, seq),
    };
    return {
      machine: this.machine,
      disk: disk.name,
      point: body.point,
      cutTimeMs: body.cutTimeMs,
      geometry: geometryOf(listed.size, disk.blockSize),
      root: listed.root,
      entries: (fromBlock, endBlock) => storedEntries(index.entriesAt(disk.no, maxSeq, fromBlock, endBlock)),
      entry: (block) => {
        const record = index.lookup(disk.no, block, maxSeq);
        return record && storedEntry(record);
      },
      nodes: () => index.nodesAt(disk.no, body.point),
      read: ({ record }, into) => reader.readRecord(disk.no, record, into),
      plan: (entries) =>
        planRebuild(
          place,
          entries.map(({ record }) => record),
          records,
        ),
    };
  }

  /** Whether what was read so far came by an index built from the segments for this view. */
  get hasOwnIndex(): boolean {
    return this.#built !== null;
  }

  async close(): Promise<void> {
    await this.#reader.close();
    await this.#built?.close(false);
    if (!this.#built) await this.#index?.close();
    this.#index = null;
    this.#built = null;
  }

  /** Invariant 1. */
  async #openIndex(): Promise<IndexReader> {
    if (this.#index) return this.#index;
    const { files, data, machine, bootId, ownIndex } = this.#options;
    const directory = machinePaths(data, machine).index;
    const present = ownIndex === true ? null : await IndexReader.openReadOnly({ files, directory, bootId });
    const mark = this.points.mark;
    if (present && (!mark || (await this.#reaches(present, mark)))) {
      this.#index = present;
      return present;
    }
    await present?.close();
    this.#index = await this.#buildIndex();
    return this.#index;
  }

  /** Whether the index has everything up to `mark`, now or in a moment. */
  async #reaches(index: IndexReader, mark: LogPosition): Promise<boolean> {
    const { clock } = this.#options;
    const deadlineMs = clock.monotonicMs() + indexLagMs;
    while (isBefore(index.position, mark)) {
      if (clock.monotonicMs() >= deadlineMs) return false;
      await clock.sleep(indexAskedEveryMs);
    }
    return true;
  }

  async #buildIndex(): Promise<IndexReader> {
    const { files, data, machine, bootId, scratch } = this.#options;
    const index = await RecordIndex.open({ files, directory: `${scratch}/${machine}`, bootId });
    this.#built = index;
    const filler = new IndexFiller(index, this.facts, this.points);
    const machineId = Buffer.from(this.facts.id, 'hex');
    const { segments } = machinePaths(data, machine);
    await replayAll(
      {
        files,
        directory: segments,
        machineId,
        extents: this.points.extents,
        removed: this.points.removed,
        check: 'headers',
      },
      (entry) => filler.take(entry),
    );
    await rewriteRepaired(index, this.facts.disks, this.points);
    return index.reader();
  }
}

function storedEntry(record: IndexEntry): StoredEntry {
  return { block: record.block, leaf: record.leaf, zero: record.codec === codec.zero, record };
}

function* storedEntries(entries: Iterable<IndexEntry>): Generator<StoredEntry> {
  for (const record of entries) yield storedEntry(record);
}

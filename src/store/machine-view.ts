/**
 * A machine's recovery points, read-only: from the target's directory and its keys, whether or not a target runs on it (DESIGN §1).
 *
 * Invariants:
 *  1. Nothing is written into the directory: no repair, no lock, no index. Where the target's index can not be relied on or does not
 *     reach the newest point, one is built in a temporary directory the caller gives. A running target's index follows its points within
 *     milliseconds, so it gets a moment first.
 *  2. Only committed points are seen (C2).
 *  3. A view does not grow old where a target goes on beside it: who misses a record where the index said it was has the view renewed and looks it
 *     up again. Disks that were opened before go on by the new index.
 */
import { geometryOf, type Geometry } from '../disk/geometry.ts';
import { invariant } from '../kit/invariant.ts';
import { Problem, systemCode } from '../kit/problem.ts';
import { codec } from '../wire/sealed.ts';
import type { IndexEntry } from './index-codec.ts';
import type { NodeHash } from './index-nodes.ts';
import type { IndexReader, RecordLookup } from './index-reader.ts';
import { machinePaths, readMachineFacts, type DiskFacts, type MachineFacts } from './machine-directory.ts';
import { maxSeqAt } from './point-layers.ts';
import { PointReader } from './point-reader.ts';
import { readPoints, type PointsReading } from './points-log.ts';
import type { PointBody } from './points-record.ts';
import type { PointsView } from './points-view.ts';
import { planRebuild, type RebuildTask } from './rebuild-run.ts';
import { SegmentReader } from './segment-reader.ts';
import type { Vault } from './vault.ts';
import { openViewIndex, type ViewIndex, type ViewIndexOptions } from './view-index.ts';

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
  /**
   * After something was missing or another one: whether it is worth to look it up and read it again, because segments were removed or the target's
   * index was replaced since. Cheap when neither was. @throws Problem `index-failed`; what reading segments throws.
   */
  renew(): Promise<boolean>;
}

/** Numbers the disks this process has opened at points (`RebuildTask.image`). */
let images = 0;

export class MachineView {
  readonly machine: string;
  readonly facts: MachineFacts;
  readonly #options: ViewIndexOptions;
  readonly #reader: SegmentReader;
  #read: PointsRead;
  #index: ViewIndex | null = null;
  /** Segments that were removed when the index was opened. */
  #removedBefore = 0;
  #opening: Promise<void> | null = null;
  #renewing: Promise<boolean> | null = null;

  private constructor(options: ViewIndexOptions, facts: MachineFacts, read: PointsRead) {
    this.machine = options.machine;
    this.facts = facts;
    this.#read = read;
    this.#options = options;
    this.#reader = new SegmentReader(options.files, machinePaths(options.data, options.machine).segments);
  }

  /** @throws Problem `not-found`, `damaged`. */
  static async open(options: ViewIndexOptions): Promise<MachineView> {
    const { files, data, machine } = options;
    const facts = await readMachineFacts(files, data, machine);
    if (facts) return new MachineView(options, facts, await readNow(options, facts));
    throw new Problem('not-found', `${data} holds no machine ${machine}`, {
      remedy: 'run tidemark points to see which there are',
    });
  }

  get points(): PointsView {
    return this.#read.view;
  }

  /** `points.log` has a record that does not check with whole ones behind it. */
  get pointsDamaged(): boolean {
    return this.#read.tail === 'damaged';
  }

  /** What `points.log` says now; it is read only where it has grown. */
  async pointsNow(): Promise<PointsView> {
    if ((await bytesOf(this.#options)) !== this.#read.fileBytes) this.#read = await readNow(this.#options, this.facts);
    return this.points;
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
    this.#opening ??= this.#openIndex().finally(() => {
      this.#opening = null;
    });
    await this.#opening;
    const index = (): IndexReader => this.#current.reader;
    const lookup: RecordLookup = {
      lookup: (...record) => index().lookup(...record),
      get: (...record) => index().get(...record),
      layer: (...layer) => index().layer(...layer),
    };
    const maxSeq = maxSeqAt(this.points, disk.no, body.point);
    const id = Buffer.from(disk.id, 'hex');
    const keys = new Map(disk.keys.map((wrapped) => [wrapped.version, vault.unwrapDiskKeys(id, wrapped)]));
    const at = { no: disk.no, id, name: disk.name, blockSize: disk.blockSize, keys };
    const reader = new PointReader({
      machine: this.machine,
      disks: [{ ...at, maxSeq }],
      index: lookup,
      readAt: (segment, into, offset) => this.#reader.readAt(segment, into, offset),
    });
    const { segments } = machinePaths(this.#options.data, this.machine);
    images += 1;
    const place = { image: images, segments, disk: { ...at, id: Uint8Array.from(id), machine: this.machine } };
    const records = {
      get: (block: number, seq: number) => lookup.get(disk.no, block, seq),
      layer: (seq: number) => lookup.layer(disk.no, seq),
    };
    return {
      machine: this.machine,
      disk: disk.name,
      point: body.point,
      cutTimeMs: body.cutTimeMs,
      geometry: geometryOf(listed.size, disk.blockSize),
      root: listed.root,
      entries: (fromBlock = 0, endBlock = 2 ** 32) => entriesAt(index, disk.no, maxSeq, fromBlock, endBlock),
      entry: (block) => {
        const record = lookup.lookup(disk.no, block, maxSeq);
        return record && storedEntry(record);
      },
      nodes: () => index().nodesAt(disk.no, body.point),
      read: ({ record }, into) => reader.readRecord(disk.no, record, into),
      plan: (entries) =>
        planRebuild(
          place,
          entries.map(({ record }) => record),
          records,
        ),
      renew: () => this.#renewOnce(),
    };
  }

  /** Whether what is read now comes by an index built from the segments for this view. */
  get hasOwnIndex(): boolean {
    return this.#index?.own === true;
  }

  async close(): Promise<void> {
    await this.#renewing?.catch(() => false);
    await this.#reader.close();
    await this.#index?.close();
    this.#index = null;
  }

  get #current(): ViewIndex {
    invariant(this.#index, 'what is read at a point is read by an index');
    return this.#index;
  }

  async #openIndex(): Promise<void> {
    if (this.#index) return;
    const { points } = this;
    this.#index = await openViewIndex(this.#options, this.facts, points);
    this.#removedBefore = points.removed.size;
  }

  /** All who ask meanwhile hear the same. */
  #renewOnce(): Promise<boolean> {
    this.#renewing ??= this.#renew().finally(() => {
      this.#renewing = null;
    });
    return this.#renewing;
  }

  /** Invariant 3. */
  async #renew(): Promise<boolean> {
    const before = this.#current;
    const replaced = await before.isReplaced();
    const { removed } = await this.pointsNow();
    if (!replaced && removed.size <= this.#removedBefore) return false;
    // Others read by the old one until there is a new one.
    if (replaced || before.own) {
      this.#index = await openViewIndex(this.#options, this.facts, this.points);
      await before.close();
    }
    this.#removedBefore = removed.size;
    return true;
  }
}

interface PointsRead extends PointsReading {
  /** Of the file when it was read, or less. */
  readonly fileBytes: number;
}

async function readNow(options: ViewIndexOptions, facts: MachineFacts): Promise<PointsRead> {
  const { files, data, machine } = options;
  // First: what is appended in between is read again.
  const fileBytes = await bytesOf(options);
  const path = machinePaths(data, machine).pointsLog;
  return { ...(await readPoints({ files, path, machineId: Buffer.from(facts.id, 'hex') })), fileBytes };
}

async function bytesOf({ files, data, machine }: ViewIndexOptions): Promise<number> {
  try {
    return (await files.facts(machinePaths(data, machine).pointsLog)).size;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 0;
    throw error;
  }
}

function storedEntry(record: IndexEntry): StoredEntry {
  return { block: record.block, leaf: record.leaf, zero: record.codec === codec.zero, record };
}

/** Goes on by the new index where the view was renewed between two. */
function* entriesAt(
  index: () => IndexReader,
  diskNo: number,
  maxSeq: number,
  fromBlock: number,
  endBlock: number,
): Generator<StoredEntry> {
  for (let from: number | null = fromBlock; from !== null;) {
    const reader = index();
    const records = reader.entriesAt(diskNo, maxSeq, from, endBlock);
    from = null;
    for (const record of records) {
      yield storedEntry(record);
      if (index() === reader) continue;
      from = record.block + 1;
      break;
    }
  }
}

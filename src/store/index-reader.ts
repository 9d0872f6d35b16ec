/**
 * Reading the index of a machine (FORMAT.md, Index): what `RecordIndex` (the writer) and a process that only reads have in common.
 *
 * A reader in another process sees what the writer has committed, anew with every turn of the event loop. Iterations take at most
 * `indexStepEntries` entries at a time and hold no snapshot between the steps, so a slow one never makes the file grow.
 */
import { open, type Database, type RootDatabase } from 'lmdb';
import * as path from 'node:path';
import { digest } from '../kernels/hash.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import * as codec from './index-codec.ts';
import type { IndexBatch, IndexEntry } from './index-codec.ts';
import { isComplete, nodesAt, type NodeHash, nodeKey, nodesEndKey, readNodeKey } from './index-nodes.ts';

/** How far the log has been applied: the first byte not yet in the index. */
export interface LogPosition {
  readonly segment: number;
  readonly offset: number;
}

const startOfLog: LogPosition = { segment: 0, offset: 0 };

/** What a reader at a point needs of an index; tests feed their own. */
export interface RecordLookup {
  /** The newest record of the block with seq ≤ `maxSeq`. */
  lookup(diskNo: number, block: number, maxSeq: number): IndexEntry | undefined;
  get(diskNo: number, block: number, seq: number): IndexEntry | undefined;
  /** The LAYER body of the layer. */
  layer(diskNo: number, seq: number): Uint8Array | undefined;
}

type Bytes = Database<Buffer, Buffer>;

/** The databases of one LMDB environment. */
export interface IndexStores {
  readonly root: RootDatabase<Buffer, Buffer>;
  readonly records: Bytes;
  readonly batches: Bytes;
  readonly layers: Bytes;
  /** Undefined in an index that is only read and was made before there were nodes. */
  readonly nodes: Bytes | undefined;
  /** With versions: they chain the transactions (`record-index.ts`, invariant 2). */
  readonly state: Bytes;
}

export const positionKey = Buffer.from('position');
const binary = { keyEncoding: 'binary', encoding: 'binary' } as const;

export function openStores(directory: string, readOnly: boolean): IndexStores {
  const root = open<Buffer, Buffer>({
    path: directory,
    noSubdir: false,
    readOnly,
    noSync: true,
    overlappingSync: false,
    maxDbs: 8,
    mapSize: limits.store.indexMapBytes,
    ...binary,
  });
  return {
    root,
    records: root.openDB({ name: 'records', ...binary }),
    batches: root.openDB({ name: 'batches', ...binary }),
    layers: root.openDB({ name: 'layers', ...binary }),
    nodes: root.openDB({ name: 'nodes', ...binary }),
    state: root.openDB({ name: 'state', useVersions: true, ...binary }),
  };
}

export function encodePosition(position: LogPosition): Buffer {
  const value = Buffer.allocUnsafeSlow(8);
  value.writeUInt32LE(position.segment, 0);
  value.writeUInt32LE(position.offset, 4);
  return value;
}

/** What stands beside the data and is read before LMDB is, because damage that LMDB maps can take the process with it. */
export interface IndexBoot {
  /** The boot the index was last written under. */
  readonly boot: string;
  /** It was closed with everything on stable storage. */
  readonly clean: boolean;
  /** How often it was opened for writing since it was last closed cleanly. */
  readonly starts: number;
  /** Of the data as it was closed cleanly (`dataDigest`); null while it is in use. */
  readonly digest: string | null;
}

export const bootFileName = 'boot.json';

/** Null when the file is missing or unreadable. */
export async function readBootFile(files: Files, directory: string): Promise<IndexBoot | null> {
  const file = path.join(directory, bootFileName);
  if (!(await files.exists(file))) return null;
  try {
    const value: unknown = JSON.parse((await files.readWhole(file)).toString('utf8'));
    if (typeof value !== 'object' || value === null || !('boot' in value) || !('clean' in value)) return null;
    if (typeof value.boot !== 'string' || !('starts' in value) || typeof value.starts !== 'number') return null;
    const digested = 'digest' in value && typeof value.digest === 'string' ? value.digest : null;
    return { boot: value.boot, clean: value.clean === true, starts: value.starts, digest: digested };
  } catch {
    return null;
  }
}

const dataFileName = 'data.mdb';

/** What LMDB maps: another file once the index was begun anew. */
export function dataFileOf(directory: string): string {
  return path.join(directory, dataFileName);
}

/** Of LMDB's first meta page: magic and version of its data format, at byte 24. */
const dataMagic = Buffer.from('dec0efbe02000000', 'hex');
const dataMagicAt = 24;

/** A chain of BLAKE3 over the data, piece by piece; hex. LMDB's own pages have no checksums. */
export async function dataDigest(files: Files, directory: string): Promise<string> {
  const file = await files.open(path.join(directory, dataFileName), 'read');
  try {
    const piece = Buffer.allocUnsafeSlow(limits.store.replayReadBytes);
    let chain: Uint8Array = new Uint8Array(32);
    for (let at = 0; ;) {
      const bytes = await file.read(piece, at);
      if (bytes === 0) return Buffer.from(chain).toString('hex');
      chain = digest(chain, piece.subarray(0, bytes));
      at += bytes;
    }
  } finally {
    await file.close();
  }
}

/**
 * Whether the data may be mapped and relied on: closed cleanly and not one bit different since, or in use under this boot; and an LMDB
 * file at all. Mapping anything else may end the process with a segmentation fault.
 */
export async function isReliable(
  files: Files,
  directory: string,
  boot: IndexBoot | null,
  bootId: string,
): Promise<boolean> {
  if (boot === null || !(boot.clean || boot.boot === bootId)) return false;
  const data = path.join(directory, dataFileName);
  if (!(await files.exists(data))) return false;
  if (boot.clean && boot.digest !== (await dataDigest(files, directory))) return false;
  const file = await files.open(data, 'read');
  try {
    const magic = Buffer.alloc(dataMagic.byteLength);
    await file.read(magic, dataMagicAt);
    return magic.equals(dataMagic);
  } finally {
    await file.close();
  }
}

export async function removeData(files: Files, directory: string): Promise<void> {
  for (const name of [dataFileName, 'lock.mdb']) await files.remove(path.join(directory, name));
}

export async function syncData(files: Files, directory: string): Promise<void> {
  const data = await files.open(path.join(directory, dataFileName), 'write');
  try {
    await data.datasync();
  } finally {
    await data.close();
  }
}

export class IndexReader implements RecordLookup {
  readonly #stores: IndexStores;

  constructor(stores: IndexStores) {
    this.#stores = stores;
  }

  /**
   * Opens the index of another process, or of none, for reading. `null` when there is none that can be relied on: rebuild it
   * elsewhere from the segments.
   */
  static async openReadOnly(options: {
    readonly files: Files;
    readonly directory: string;
    readonly bootId: string;
  }): Promise<IndexReader | null> {
    const { files, directory, bootId } = options;
    if (!(await isReliable(files, directory, await readBootFile(files, directory), bootId))) return null;
    try {
      return new IndexReader(openStores(directory, true));
    } catch (cause) {
      throw new Problem('index-unreadable', `the index ${directory} can not be opened`, {
        remedy: 'stop the target, delete the directory and start again: it is rebuilt from the segments',
        cause,
      });
    }
  }

  /** How far the log was applied when the last transaction ended. */
  get position(): LogPosition {
    const value = this.#stores.state.get(positionKey);
    return value ? { segment: value.readUInt32LE(0), offset: value.readUInt32LE(4) } : startOfLog;
  }

  /** The newest record's raw value with seq ≤ `maxSeq`. */
  lookupRaw(diskNo: number, block: number, maxSeq: number): { seq: number; value: Buffer } | undefined {
    const range = this.#stores.records.getRange({
      start: codec.recordKey(diskNo, block, maxSeq),
      end: codec.blockStartKey(diskNo, block),
      reverse: true,
      limit: 1,
    });
    for (const { key, value } of range) return { seq: codec.readRecordKey(key).seq, value };
    return undefined;
  }

  lookup(diskNo: number, block: number, maxSeq: number): IndexEntry | undefined {
    const found = this.lookupRaw(diskNo, block, maxSeq);
    return found && codec.readRecord(block, found.seq, found.value);
  }

  get(diskNo: number, block: number, seq: number): IndexEntry | undefined {
    const value = this.#stores.records.get(codec.recordKey(diskNo, block, seq));
    return value && codec.readRecord(block, seq, value);
  }

  layer(diskNo: number, seq: number): Uint8Array | undefined {
    return this.#stores.layers.get(codec.layerKey(diskNo, seq));
  }

  /** The seqs of the disk's layers, ascending, from `fromSeq`. */
  *layersOf(diskNo: number, fromSeq = 0): Generator<number> {
    const end = codec.diskEndKey(diskNo);
    for (const { key } of steps(this.#stores.layers, codec.layerKey(diskNo, fromSeq), end)) {
      yield codec.readLayerKeySeq(key);
    }
  }

  /** The highest seq of the disk's layers, also of one that holds nothing; 0: there is none. */
  newestLayerOf(diskNo: number): number {
    const range = { start: codec.diskEndKey(diskNo), end: codec.layerKey(diskNo, 0), reverse: true, limit: 1 };
    for (const { key } of this.#stores.layers.getRange(range)) return codec.readLayerKeySeq(key);
    return 0;
  }

  /** The batches of the layers from `first` to `last`, ascending; also of one whose own entry is lost. */
  *batchesOf(diskNo: number, first: number, last = first): Generator<IndexBatch> {
    const start = codec.batchKey(diskNo, first, 0);
    for (const { key, value } of steps(this.#stores.batches, start, codec.layerKey(diskNo, last + 1))) {
      yield codec.readBatch(codec.readLayerKeySeq(key), codec.readBatchKeyNumber(key), value);
    }
  }

  /** Batches applied of a layer; they come in order, so it is the last one's number plus one. */
  batchCountOf(diskNo: number, seq: number): number {
    return this.layerTail(diskNo, seq).batches;
  }

  /** How many batches of a layer were applied, and the last block of the last one (−1: none). */
  layerTail(diskNo: number, seq: number): { readonly batches: number; readonly lastBlock: number } {
    const range = this.#stores.batches.getRange({
      start: codec.batchKey(diskNo, seq, 2 ** 32 - 1),
      end: codec.layerKey(diskNo, seq),
      reverse: true,
      limit: 1,
    });
    for (const { key, value } of range) {
      const { batch, blocks } = codec.readBatch(seq, codec.readBatchKeyNumber(key), value);
      return { batches: batch + 1, lastBlock: blocks.at(-1) ?? -1 };
    }
    return { batches: 0, lastBlock: -1 };
  }

  /**
   * For each block in [fromBlock, endBlock) that has any, its newest record with seq ≤ `maxSeq`; ascending. All-zero records included. The work
   * is bounded by the number of blocks, however often they were written.
   */
  *entriesAt(diskNo: number, maxSeq: number, fromBlock = 0, endBlock = 2 ** 32): Generator<IndexEntry> {
    for (let from = fromBlock; from < endBlock;) {
      const { entries, next } = this.#entriesStep(diskNo, maxSeq, from, endBlock);
      yield* entries;
      from = next;
    }
  }

  /** The next entries in one go, so that no snapshot is held while they are used; `next`: the block to go on from. */
  #entriesStep(diskNo: number, maxSeq: number, fromBlock: number, endBlock: number): EntriesStep {
    const entries: IndexEntry[] = [];
    const end = endBlock < 2 ** 32 ? codec.blockStartKey(diskNo, endBlock) : codec.diskEndKey(diskNo);
    let newest: { block: number; seq: number; value: Buffer } | undefined;
    let versions = 0;
    let taken = 0;
    const settle = (): void => {
      if (newest && newest.seq <= maxSeq) entries.push(codec.readRecord(newest.block, newest.seq, newest.value));
    };
    for (const { key, value } of this.#stores.records.getRange({
      start: codec.blockStartKey(diskNo, fromBlock),
      end,
    })) {
      const { block, seq } = codec.readRecordKey(key);
      if (newest?.block !== block) {
        settle();
        newest = undefined;
        if (taken >= limits.store.indexStepEntries) return { entries, next: block };
        versions = 0;
      }
      taken += 1;
      versions += 1;
      if (versions > versionsInARow) {
        // A block that was written often: its newest record by a look-up, and on behind its last one.
        const found = this.lookup(diskNo, block, maxSeq);
        if (found) entries.push(found);
        return { entries, next: block + 1 };
      }
      if (newest === undefined || seq <= maxSeq) newest = { block, seq, value };
    }
    settle();
    return { entries, next: endBlock };
  }

  /** Every record from this block on with its raw value, by block and seq, a step at a time: what changes meanwhile may be met or not. */
  *rawRecords(diskNo: number, fromBlock: number, endBlock = 2 ** 32): Generator<RawRecord> {
    const end = endBlock < 2 ** 32 ? codec.blockStartKey(diskNo, endBlock) : codec.diskEndKey(diskNo);
    for (const { key, value } of steps(this.#stores.records, codec.blockStartKey(diskNo, fromBlock), end))
      yield { ...codec.readRecordKey(key), value };
  }

  /** The raw value of one record. */
  getRaw(diskNo: number, block: number, seq: number): Buffer | undefined {
    return this.#stores.records.get(codec.recordKey(diskNo, block, seq));
  }

  /** Every Merkle node's row of the disk: by node, then point. */
  *nodeRows(diskNo: number): Generator<{ readonly node: number; readonly point: number }> {
    if (!this.#stores.nodes) return;
    for (const { key } of steps(this.#stores.nodes, nodeKey(diskNo, 0, 0), nodesEndKey(diskNo))) yield readNodeKey(key);
  }

  /** The newest Merkle nodes up to the point, as far as the index has them (`index-nodes.ts`). */
  *nodesAt(diskNo: number, point: number): Generator<NodeHash> {
    if (this.#stores.nodes) yield* nodesAt(this.#stores.nodes, diskNo, point);
  }

  /** Whether the nodes of all points are there, not only those since the index was begun. */
  hasAllNodes(diskNo: number): boolean {
    return this.#stores.nodes !== undefined && isComplete(this.#stores.nodes, diskNo);
  }

  /** Every record of the disk, by block and seq. */
  *versionsOf(diskNo: number): Generator<IndexEntry> {
    for (const { key, value } of steps(
      this.#stores.records,
      codec.blockStartKey(diskNo, 0),
      codec.diskEndKey(diskNo),
    )) {
      const { block, seq } = codec.readRecordKey(key);
      yield codec.readRecord(block, seq, value);
    }
  }

  async close(): Promise<void> {
    await this.#stores.root.close();
  }
}

export interface RawRecord {
  readonly block: number;
  readonly seq: number;
  readonly value: Buffer;
}

interface EntriesStep {
  readonly entries: readonly IndexEntry[];
  readonly next: number;
}

/** Versions of one block that are walked through before it is looked up instead: a look-up costs about as much as so many steps. */
const versionsInARow = 8;

/** Entries with start ≤ key < end, `indexStepEntries` at a time. */
function* steps(store: Bytes, start: Buffer, end: Buffer): Generator<{ key: Buffer; value: Buffer }> {
  let from = start;
  let exclusiveStart = false;
  for (;;) {
    const limit = limits.store.indexStepEntries;
    const step = [...store.getRange({ start: from, end, exclusiveStart, limit })];
    yield* step;
    const last = step.at(-1);
    if (!last || step.length < limit) return;
    from = last.key;
    exclusiveStart = true;
  }
}

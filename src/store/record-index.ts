/**
 * The index of a machine's records, written by its target (FORMAT.md, Index). A cache of the segments: every problem with it ends
 * in "delete it and replay".
 *
 * Invariants:
 *  1. What is applied is visible to this object's reads at once; LMDB's write thread commits it behind (`flushed`), whole batches
 *     together with the log position. `pending` bridges the time between.
 *  2. Nothing is skipped: each apply is conditional on the version its predecessor left on the position, so if one transaction
 *     fails (no space), or another writer is there, all later ones are refused, and `position` stays true to the contents.
 *     The first failure makes the index refuse everything until it is opened again, and is told once (`failed`). No promise LMDB
 *     gives for a write is left without a handler: one that rejects unheard would end the process, and with it all machines.
 *  3. Entries are applied in the order of the log, so the seqs of a disk rise, and what is pending of a block is newer than
 *     what is committed.
 *  4. LMDB does not sync. A killed process loses nothing (its transactions are in the page cache in order). After a reboot only
 *     a cleanly closed index counts. Damage LMDB maps can end the process, so `boot.json` is read before, and an index that was
 *     opened `indexStartsMax` times without one clean close in between is begun anew: no damage in it can keep a target down.
 *  5. The backlog is bounded: `await room()` between applies (C5).
 */
import * as path from 'node:path';
import { invariant } from '../kit/invariant.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import * as codec from './index-codec.ts';
import type { IndexEntry, IndexRow } from './index-codec.ts';
import { nodeKey, type NodeHash } from './index-nodes.ts';
import { mendedPages, type IndexChange } from './index-pages.ts';
import {
  bootFileName,
  dataDigest,
  encodePosition,
  IndexReader,
  isReliable,
  openStores,
  positionKey,
  readBootFile,
  removeData,
  syncData,
  type IndexBoot,
  type IndexStores,
  type LogPosition,
  type RecordLookup,
} from './index-reader.ts';

export interface RecordIndexOptions {
  readonly files: Files;
  /** Of this index alone; made if missing. */
  readonly directory: string;
  /** `/proc/sys/kernel/random/boot_id`. */
  readonly bootId: string;
}

/** A batch as it lies in a segment. */
export interface AppliedBatch {
  readonly segment: number;
  /** Of the entry's header. */
  readonly entryOffset: number;
  /** Of the first payload byte; payloads follow one another in the order of the rows. */
  readonly payloadOffset: number;
  readonly rows: readonly IndexRow[];
}

/** A record not yet committed. */
interface Pending {
  readonly seq: number;
  readonly value: Buffer;
  older: Pending | undefined;
}

interface PendingGroup {
  readonly keys: Float64Array;
  readonly nodes: readonly Pending[];
}

const noGroup: PendingGroup = { keys: new Float64Array(0), nodes: [] };

export class RecordIndex implements RecordLookup {
  readonly #files: Files;
  readonly #directory: string;
  readonly #bootId: string;
  readonly #stores: IndexStores;
  readonly #reader: IndexReader;
  readonly #pending = new Map<number, Pending>();
  readonly #keyScratch = Buffer.alloc(codec.recordKeyBytes);
  #pendingLayers = new Map<string, { readonly body: Uint8Array }>();
  #position: LogPosition;
  #version: number;
  #backlog = 0;
  #failed: Error | undefined;
  readonly #failure = Promise.withResolvers<Problem>();
  /** LMDB gives all writes of a transaction the same promise. */
  #watched: Promise<unknown> | undefined;
  #closed = false;
  #last: Promise<void> = Promise.resolve();
  #waiters: (() => void)[] = [];

  private constructor(options: RecordIndexOptions, stores: IndexStores) {
    this.#files = options.files;
    this.#directory = options.directory;
    this.#bootId = options.bootId;
    this.#stores = stores;
    this.#reader = new IndexReader(stores);
    this.#position = this.#reader.position;
    this.#version = stores.state.getEntry(positionKey)?.version ?? 0;
    if (this.#version === 0) {
      this.#version = 1;
      stores.state.putSync(positionKey, encodePosition(this.#position), 1);
    }
  }

  /** Opens the index for writing; starts empty (`position` = start of the log) where there is none that can be relied on. */
  static async open(options: RecordIndexOptions): Promise<RecordIndex> {
    const { files, directory, bootId } = options;
    await files.makeDirectory(directory);
    const before = await readBootFile(files, directory);
    const starts = before === null || before.clean ? 1 : before.starts + 1;
    const keep = starts <= limits.store.indexStartsMax && (await isReliable(files, directory, before, bootId));
    if (!keep) await removeData(files, directory);
    await writeBootFile(files, directory, { boot: bootId, clean: false, starts: keep ? starts : 1, digest: null });
    return new RecordIndex(options, openStores(directory, false));
  }

  /** How far the log has been applied; replay starts here. */
  get position(): LogPosition {
    return this.#position;
  }

  /** Resolves when the index could not be written; never when it stays sound. The index then has to be closed and opened again. */
  get failed(): Promise<Problem> {
    return this.#failure.promise;
  }

  /** Records applied and not yet committed. */
  get backlogRecords(): number {
    return this.#backlog;
  }

  /** A LAYER entry. `position`: the end of the entry. */
  applyLayer(diskNo: number, seq: number, body: Uint8Array, position: LogPosition): void {
    const key = codec.layerKey(diskNo, seq);
    const held = { body: Buffer.from(body) };
    const name = key.toString('latin1');
    this.#pendingLayers.set(name, held);
    this.#commit(position, noGroup, () => this.#watch(this.#stores.layers.put(key, held.body)));
    void this.#last.then(() => {
      if (this.#pendingLayers.get(name) === held) this.#pendingLayers.delete(name);
    });
  }

  /** A BATCH entry, with page maps derived for its partial records. `position`: the end of the entry. */
  applyBatch(diskNo: number, seq: number, batch: number, applied: AppliedBatch, position: LogPosition): void {
    const { rows } = applied;
    invariant(seq >= 1, 'a seq is at least 1');
    const group = { keys: new Float64Array(rows.length), nodes: this.#encode(diskNo, seq, applied) };
    this.#commit(position, group, () => {
      rows.forEach((row, index) => {
        const node = group.nodes[index];
        invariant(node, 'a value for each row');
        const blockKey = diskNo * 2 ** 32 + row.block;
        group.keys[index] = blockKey;
        node.older = this.#pending.get(blockKey);
        this.#pending.set(blockKey, node);
        this.#watch(
          this.#stores.records.put(codec.writeRecordKey(this.#keyScratch, diskNo, row.block, seq), node.value),
        );
      });
      this.#watch(this.#stores.batches.put(codec.batchKey(diskNo, seq, batch), codec.writeBatch(applied, rows)));
    });
  }

  /**
   * A DROP entry: forgets the layer and its records. Await it before the disk's next layer is applied; where it comes later, because it was moved,
   * the page maps above are made anew. A process killed in the middle has not moved the position and does it again.
   */
  async dropLayer(diskNo: number, seq: number, position: LogPosition): Promise<void> {
    await this.flushed();
    const batches = [...this.#reader.batchesOf(diskNo, seq)];
    for (const { blocks } of batches) {
      await this.room();
      this.rewrite([...blocks].map((block) => ({ store: 'records', key: codec.recordKey(diskNo, block, seq) })));
    }
    await this.flushed();
    for (const { batch, blocks } of batches) {
      const mended = [...blocks].flatMap((block) => mendedPages(this.#reader, diskNo, block));
      await this.room();
      this.rewrite([...mended, { store: 'batches', key: codec.batchKey(diskNo, seq, batch) }]);
    }
    this.rewrite([{ store: 'layers', key: codec.layerKey(diskNo, seq) }], position);
    await this.flushed();
  }

  /** Changes as they are, in one transaction; the position moves where they are what the log says up to there. */
  rewrite(changes: readonly IndexChange[], position: LogPosition = this.#position): void {
    const rewriteOne = ({ store, key, value }: IndexChange): void => {
      const into = this.#stores[store];
      invariant(into, 'an index that is written has all stores');
      this.#watch(value ? into.put(key, value) : into.remove(key));
    };
    this.#commit(position, noGroup, () => changes.forEach(rewriteOne), changes.length);
  }

  /** Merkle nodes that a point changes (`index-nodes.ts`). Says nothing about the log. */
  applyNodes(diskNo: number, point: number, changed: readonly NodeHash[]): void {
    const { nodes } = this.#stores;
    invariant(nodes, 'an index that is written has nodes');
    const put = ({ node, hash }: NodeHash): void => {
      this.#watch(nodes.put(nodeKey(diskNo, node, point), Buffer.from(hash)));
    };
    this.#commit(this.#position, noGroup, () => changed.forEach(put), changed.length);
  }

  /** An entry that says nothing to the index (FOOTER), or the step to the next segment. */
  advance(position: LogPosition): void {
    this.#commit(position, noGroup, () => undefined);
  }

  lookup(diskNo: number, block: number, maxSeq: number): IndexEntry | undefined {
    const found = this.#newest(diskNo, block, maxSeq);
    return found && codec.readRecord(block, found.seq, found.value);
  }

  get(diskNo: number, block: number, seq: number): IndexEntry | undefined {
    for (let node = this.#pending.get(diskNo * 2 ** 32 + block); node; node = node.older) {
      if (node.seq === seq) return codec.readRecord(block, seq, node.value);
    }
    return this.#reader.get(diskNo, block, seq);
  }

  layer(diskNo: number, seq: number): Uint8Array | undefined {
    const held = this.#pendingLayers.get(codec.layerKey(diskNo, seq).toString('latin1'));
    return held?.body ?? this.#reader.layer(diskNo, seq);
  }

  /** Layers, batches and entries of points, once everything applied so far is committed. */
  async reader(): Promise<IndexReader> {
    await this.flushed();
    // A snapshot of this turn of the event loop may be older than what was committed in it.
    this.#stores.root.resetReadTxn();
    return this.#reader;
  }

  /** Resolves when the backlog is within its limit. @throws Problem `index-failed`. */
  async room(): Promise<void> {
    while (this.#backlog >= limits.store.indexBacklogRecordsMax) {
      this.#refuseFailed();
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
    this.#refuseFailed();
  }

  /** Resolves when everything applied before the call is committed, so visible to other processes. @throws Problem `index-failed`. */
  async flushed(): Promise<void> {
    await this.#last;
    this.#refuseFailed();
  }

  /** Forgets everything; `position` is the start of the log again. */
  async clear(): Promise<void> {
    await this.flushed();
    const { root, records, batches, layers, state } = this.#stores;
    this.#position = { segment: 0, offset: 0 };
    this.#version += 1;
    root.transactionSync(() => {
      for (const store of [records, batches, layers]) store.clearSync();
      state.putSync(positionKey, encodePosition(this.#position), this.#version);
    });
  }

  /** `clean`: also makes everything durable, so that the index counts after a reboot. Idempotent. */
  async close(clean: boolean): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#last;
    await this.#stores.root.close();
    if (!clean || this.#failed) return;
    await syncData(this.#files, this.#directory);
    const digest = await dataDigest(this.#files, this.#directory);
    await writeBootFile(this.#files, this.#directory, { boot: this.#bootId, clean: true, starts: 0, digest });
  }

  #newest(diskNo: number, block: number, maxSeq: number): { seq: number; value: Buffer } | undefined {
    for (let node = this.#pending.get(diskNo * 2 ** 32 + block); node; node = node.older) {
      if (node.seq <= maxSeq) return node;
    }
    return this.#reader.lookupRaw(diskNo, block, maxSeq);
  }

  /** Values of all rows in one slab, which LMDB reads until the commit. */
  #encode(diskNo: number, seq: number, applied: AppliedBatch): Pending[] {
    const slab = Buffer.allocUnsafeSlow(applied.rows.length * codec.recordValueBytesMax);
    let at = 0;
    let payloadOffset = applied.payloadOffset;
    return applied.rows.map((row) => {
      const pages = codec.derivePages(
        row.pageMask,
        seq,
        row.pageMask === 0xffff ? undefined : this.#newest(diskNo, row.block, seq - 1),
      );
      const length = codec.writeRecord(slab, at, row, { segment: applied.segment, payloadOffset }, pages);
      const value = slab.subarray(at, at + length);
      at += length;
      payloadOffset += row.storedLength;
      return { seq, value, older: undefined };
    });
  }

  /** One apply: `puts` and the position in one transaction, conditional on the apply before (invariant 2). */
  #commit(position: LogPosition, group: PendingGroup, puts: () => void, weight = group.nodes.length): void {
    this.#refuseFailed();
    invariant(!this.#closed, 'the index is open');
    invariant(this.#backlog <= limits.store.indexBacklogRecordsMax, 'room() is awaited between applies');
    const { state } = this.#stores;
    const expected = this.#version;
    this.#version += 1;
    this.#position = position;
    this.#backlog += weight;
    const done = state.ifVersion(positionKey, expected, () => {
      puts();
      this.#watch(state.put(positionKey, encodePosition(position), expected + 1));
    });
    // The end of the batch is a write too, whose promise LMDB gives to nobody else.
    this.#stores.root.committed.then(
      () => undefined,
      (error: unknown) => this.#fail(heard(error)),
    );
    this.#last = Promise.all([this.#last, done]).then(
      ([, applied]) =>
        this.#settle(group, weight, applied ? undefined : new Error('another writer, or a lost transaction')),
      (error: unknown) => this.#settle(group, weight, heard(error)),
    );
  }

  #settle(group: PendingGroup, weight: number, failure: Error | undefined): void {
    this.#backlog -= weight;
    if (failure) this.#fail(failure);
    else if (group.nodes.length > 0) this.#forget(group);
    for (const wake of this.#waiters.splice(0)) wake();
  }

  /** Invariant 2: the write's own promise tells what `done` tells too, but it has to be heard. */
  #watch(written: Promise<unknown>): void {
    if (written === this.#watched) return;
    this.#watched = written;
    written.catch((error: unknown) => {
      this.#fail(heard(error));
    });
  }

  #fail(failure: Error): void {
    if (this.#failed) return;
    this.#failed = failure;
    this.#failure.resolve(this.#problem(failure));
  }

  /** Committed records leave `pending`; the oldest of a block is the tail of its chain. */
  #forget(group: PendingGroup): void {
    this.#stores.root.resetReadTxn();
    group.nodes.forEach((node, index) => {
      const blockKey = group.keys[index];
      invariant(blockKey !== undefined, 'a key for each record');
      const head = this.#pending.get(blockKey);
      if (head === node) {
        this.#pending.delete(blockKey);
        return;
      }
      for (let above = head; above; above = above.older) {
        if (above.older === node) above.older = undefined;
      }
    });
  }

  #refuseFailed(): void {
    if (this.#failed) throw this.#problem(this.#failed);
  }

  #problem(cause: Error): Problem {
    return new Problem('index-failed', `the index ${this.#directory} could not be written: ${cause.message}`, {
      remedy: 'make space where the index lies; it is opened again and caught up from the segments',
      retryable: true,
      cause,
    });
  }
}

/** LMDB's error of a failed commit carries a promise of its own, which rejects with the reason. */
function heard(error: unknown): Error {
  if (!(error instanceof Error)) return new Error(messageOf(error));
  if ('commitError' in error && error.commitError instanceof Promise) error.commitError.catch(() => undefined);
  return error;
}

async function writeBootFile(files: Files, directory: string, boot: IndexBoot): Promise<void> {
  await files.replaceFile(path.join(directory, bootFileName), Buffer.from(JSON.stringify({ format: 1, ...boot })));
}

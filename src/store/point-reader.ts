/**
 * Reads blocks of a machine's disks as of a point: index look-up, payloads from the segments, unseal, put the pages together, check
 * the leaf of the whole block (DESIGN §6).
 *
 * Invariants:
 *  1. What does not match its leaf is never handed out (C10): on damage `into` is zeroed and the read rejects with Problem `damaged`,
 *     naming machine, disk, block and layer. An all-zero record must carry a tag that fits, too.
 *     Only what is known to be wrong is damage: too few bytes, no file, a failed check. A read the system refused (too many open files, an
 *     I/O error that may pass) is `read-failed` and retryable, because what is called damaged stays so.
 *  2. The index is a cache anybody may have damaged: lengths are bounded by the block size before anything is read (C7), and
 *     whatever else is wrong with an entry fails the tag or the leaf.
 *  3. Memory is bounded: derived layer keys and payload buffers are kept in small fixed numbers; each read under way holds
 *     one block.
 * A block without any record was never written: zeros. That the index lost none is proven where the root over all leaves is
 * recomputed (`verify`, and the commit).
 */
import type { KeyObject } from 'node:crypto';
import { pageCount, scatterPages } from '../disk/page-mask.ts';
import { leafOf } from '../kernels/hash.ts';
import { deriveLayerKey } from '../kernels/keys.ts';
import { release } from '../kernels/release.ts';
import { unsealRecord } from '../kernels/unseal.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { IndexEntry } from './index-codec.ts';
import type { RecordLookup } from './index-reader.ts';
import { decodeLayerBody } from './segment-format.ts';
import type { DiskKeys } from './vault.ts';

const { pagesPerBlock } = limits.disk;

/** Fills `into` from `offset` of segment `segment`; rejects if that many bytes are not there. */
export type ReadSegment = (segment: number, into: Uint8Array, offset: number) => Promise<void>;

/** A disk as of the point. */
export interface PointDisk {
  readonly no: number;
  /** 16 bytes. */
  readonly id: Uint8Array;
  readonly name: string;
  readonly blockSize: number;
  /** The highest seq the point (or one before it) lists of this disk. */
  readonly maxSeq: number;
  /** By key version. */
  readonly keys: ReadonlyMap<number, DiskKeys>;
}

export interface PointReaderOptions {
  readonly machine: string;
  readonly disks: readonly PointDisk[];
  readonly index: RecordLookup;
  readonly readAt: ReadSegment;
}

/** Anything that gives whole checked blocks. */
export interface BlockSource {
  /** Fills `into` (blockSize bytes); the caller owns it throughout. @throws Problem `damaged`, `read-failed`. */
  readBlock(diskNo: number, block: number, into: Uint8Array): Promise<void>;
}

interface LayerKeys {
  readonly key: KeyObject;
  readonly leafKey: Uint8Array;
}

export class PointReader implements BlockSource {
  readonly #options: PointReaderOptions;
  readonly #disks: ReadonlyMap<number, PointDisk>;
  /** By disk and seq, in order of use. */
  readonly #layerKeys = new Map<string, LayerKeys>();
  readonly #buffers: Uint8Array[] = [];

  constructor(options: PointReaderOptions) {
    this.#options = options;
    this.#disks = new Map(options.disks.map((disk) => [disk.no, disk]));
  }

  async readBlock(diskNo: number, block: number, into: Uint8Array): Promise<void> {
    const disk = this.#disk(diskNo);
    if (into.byteLength !== disk.blockSize) throw new RangeError(`a block has ${disk.blockSize} bytes`);
    const entry = this.#options.index.lookup(diskNo, block, disk.maxSeq);
    if (entry) await this.readRecord(diskNo, entry, into);
    else into.fill(0);
  }

  /** As `readBlock`, of the block as of a record the caller found in the index. */
  async readRecord(diskNo: number, entry: IndexEntry, into: Uint8Array): Promise<void> {
    const disk = this.#disk(diskNo);
    try {
      into.fill(0);
      for (const record of this.#recordsOf(disk, entry)) await this.#layPages(disk, entry, record, into);
      const { leafKey } = this.#keysOf(disk, entry);
      if (Buffer.compare(leafOf(leafKey, into), entry.leaf) !== 0) {
        throw this.#damaged(disk, entry, 'its content does not match its leaf');
      }
    } catch (error) {
      into.fill(0);
      throw error;
    }
  }

  #disk(diskNo: number): PointDisk {
    const disk = this.#disks.get(diskNo);
    if (!disk) throw new Problem('not-found', `machine ${this.#options.machine} has no disk ${diskNo} at this point`);
    return disk;
  }

  /** The records that hold the block's pages, at most 16. */
  #recordsOf(disk: PointDisk, entry: IndexEntry): IndexEntry[] {
    if (entry.pages === null) return [entry];
    const seqs = new Set<number>();
    for (const seq of entry.pages) if (seq !== null) seqs.add(seq);
    return [...seqs].map((seq) => {
      if (seq === entry.seq) return entry;
      const record = seq < entry.seq ? this.#options.index.get(disk.no, entry.block, seq) : undefined;
      if (!record) throw this.#damaged(disk, entry, `layer ${seq}, which holds some of its pages, is not in the index`);
      return record;
    });
  }

  /** Reads and unseals one record and puts the pages that `entry` takes from it into `into`. */
  async #layPages(disk: PointDisk, entry: IndexEntry, record: IndexEntry, into: Uint8Array): Promise<void> {
    const pageSize = disk.blockSize / pagesPerBlock;
    const buffer = this.#takeBuffer(disk, record);
    let pages: Uint8Array;
    try {
      const payload = buffer.subarray(0, record.storedLength);
      await this.#readPayload(disk, record, payload);
      const { key: layerKey } = this.#keysOf(disk, record);
      pages = this.#unseal(disk, record, layerKey, payload, pageSize);
    } finally {
      if (this.#buffers.length < limits.store.readerBuffersMax) this.#buffers.push(buffer);
    }
    if (pages.byteLength !== pageCount(record.pageMask) * pageSize) {
      throw this.#damaged(disk, record, `it holds ${pages.byteLength} bytes for its page mask`);
    }
    if (record === entry && entry.pages === null) scatterPages(pages, record.pageMask, pageSize, into);
    else scatterSome(pages, record, entry.pages ?? [], pageSize, into);
    release(pages);
  }

  async #readPayload(disk: PointDisk, record: IndexEntry, payload: Uint8Array): Promise<void> {
    if (payload.byteLength === 0) return;
    try {
      await this.#options.readAt(record.segment, payload, record.payloadOffset);
    } catch (error) {
      const missing = isProblem(error) ? !error.retryable : systemCode(error) === 'ENOENT';
      const what = `segment ${record.segment} can not be read: ${messageOf(error)}`;
      if (missing) throw this.#damaged(disk, record, what, error);
      throw isProblem(error) ? error : this.#readFailed(disk, record, what, error);
    }
  }

  #unseal(disk: PointDisk, record: IndexEntry, layerKey: KeyObject, payload: Uint8Array, pageSize: number): Uint8Array {
    const { seq, block, pageMask, codec, rawLength, nonce, leaf, tag } = record;
    const row = { seq, block, pageMask, codec, rawLength, nonce, leaf, tag };
    try {
      return unsealRecord({ ...row, layerKey, diskId: disk.id, payload, pageSize });
    } catch (error) {
      if (!isProblem(error)) throw error;
      throw this.#damaged(disk, record, messageOf(error), error);
    }
  }

  /** A buffer of at least the payload's size; bounds the lengths first (invariant 2). */
  #takeBuffer(disk: PointDisk, record: IndexEntry): Uint8Array {
    const { storedLength, rawLength } = record;
    if (storedLength > disk.blockSize || rawLength > disk.blockSize) {
      throw this.#damaged(disk, record, `${storedLength} stored bytes for a block of ${disk.blockSize}`);
    }
    const kept = this.#buffers.pop();
    return kept && kept.byteLength >= disk.blockSize ? kept : new Uint8Array(disk.blockSize);
  }

  #keysOf(disk: PointDisk, record: IndexEntry): LayerKeys {
    const name = `${disk.no}/${record.seq}`;
    const known = this.#layerKeys.get(name);
    if (known) {
      this.#layerKeys.delete(name);
      this.#layerKeys.set(name, known);
      return known;
    }
    const body = this.#options.index.layer(disk.no, record.seq);
    const layer = body && decodeLayerBody(body);
    if (layer?.seq !== record.seq) throw this.#damaged(disk, record, 'its layer is not in the index');
    const keys = disk.keys.get(layer.keyVersion);
    if (!keys) {
      throw new Problem(
        'no-key',
        `disk ${disk.name} of ${this.#options.machine} has no key of version ${layer.keyVersion}`,
        {
          remedy: 'restore machine.json from a copy of this data directory',
        },
      );
    }
    const key = deriveLayerKey(keys.diskKey, layer.salt, disk.id, record.seq);
    const made = { key, leafKey: keys.leafKey };
    if (this.#layerKeys.size >= limits.store.layerKeysMax) {
      const oldest = this.#layerKeys.keys().next();
      if (oldest.done !== true) this.#layerKeys.delete(oldest.value);
    }
    this.#layerKeys.set(name, made);
    return made;
  }

  #where(disk: PointDisk, record: IndexEntry): string {
    return `machine ${this.#options.machine}, disk ${disk.name}, block ${record.block}, layer ${record.seq}`;
  }

  #readFailed(disk: PointDisk, record: IndexEntry, what: string, cause: unknown): Problem {
    return new Problem('read-failed', `${this.#where(disk, record)}: ${what}`, {
      remedy: 'check open files, memory and the disk under the store (kernel log), then try again',
      retryable: true,
      cause,
    });
  }

  #damaged(disk: PointDisk, record: IndexEntry, what: string, cause?: unknown): Problem {
    return new Problem('damaged', `${this.#where(disk, record)}: ${what}`, {
      remedy:
        'it is not served; while the source replicates, the block is asked of it again and the next point is whole',
      cause,
    });
  }
}

/** Puts those pages of `record` into the block that the map takes from it. */
function scatterSome(
  pages: Uint8Array,
  record: IndexEntry,
  map: readonly (number | null)[],
  pageSize: number,
  into: Uint8Array,
): void {
  let from = 0;
  for (let page = 0; page < pagesPerBlock; page += 1) {
    if ((record.pageMask & (1 << page)) === 0) continue;
    if (map[page] === record.seq) into.set(pages.subarray(from, from + pageSize), page * pageSize);
    from += pageSize;
  }
}

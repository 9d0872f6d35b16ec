/**
 * Rebuilds one block as of a record, from the payloads of at most 16 records: read, unseal, put the pages together, check the leaf of the
 * whole block (DESIGN §6). The one place that does it: `point-reader.ts` drives it with reads that do not hold the thread, `rebuild-run.ts` with
 * reads that do, in a worker thread.
 *
 * Invariants:
 *  1. What does not match its leaf is never handed out (C10): on any failure `into` is zeroed. Damage is Problem `damaged`, naming machine, disk,
 *     block and layer. An all-zero record must carry a tag that fits, too.
 *     Only what is known to be wrong is damage: too few bytes, no file, a failed check. A read the system refused (too many open files, an
 *     I/O error that may pass) is `read-failed` and retryable, because what is called damaged stays so.
 *  2. The index is a cache anybody may have damaged: lengths are bounded by the block size before anything is read (C7), and
 *     whatever else is wrong with an entry fails the tag or the leaf.
 *  3. Memory is bounded: derived layer keys and payload buffers are kept in small fixed numbers; each block under way holds one payload.
 */
import type { KeyObject } from 'node:crypto';
import { fullMask, pageCount, scatterPages } from '../disk/page-mask.ts';
import { leafOf } from '../kernels/hash.ts';
import { deriveLayerKey } from '../kernels/keys.ts';
import { release } from '../kit/release.ts';
import { unsealRecord } from '../kernels/unseal.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { IndexEntry } from './index-codec.ts';
import { decodeLayerBody } from './segment-format.ts';

const { pagesPerBlock } = limits.disk;

/** A disk's keys of one version, 32 bytes each. */
interface KeysOfDisk {
  readonly diskKey: Uint8Array;
  readonly leafKey: Uint8Array;
}

/** What has to be known of a disk to rebuild its blocks. Plain data: it goes to worker threads as it is. */
export interface DiskToRebuild {
  readonly machine: string;
  readonly no: number;
  /** 16 bytes. */
  readonly id: Uint8Array;
  readonly name: string;
  readonly blockSize: number;
  /** By key version. */
  readonly keys: ReadonlyMap<number, KeysOfDisk>;
}

/** What a rebuild asks its driver for: `into` filled from `offset` of the segment. */
export interface PayloadRead {
  readonly segment: number;
  readonly into: Uint8Array;
  readonly offset: number;
}

/** A rebuild under way: the driver does each read it yields and goes on with `next`, or `throw`s what the read ended with. */
export type Rebuild = Generator<PayloadRead, void>;

interface LayerKeys {
  readonly key: KeyObject;
  readonly leafKey: Uint8Array;
}

export class BlockRebuilder {
  readonly disk: DiskToRebuild;
  /** The LAYER body of a layer. */
  readonly #layer: (seq: number) => Uint8Array | undefined;
  /** By seq, in order of use. */
  readonly #layerKeys = new Map<number, LayerKeys>();
  readonly #buffers: Uint8Array[] = [];

  constructor(disk: DiskToRebuild, layer: (seq: number) => Uint8Array | undefined) {
    this.disk = disk;
    this.#layer = layer;
  }

  /**
   * Fills `into` (blockSize bytes) with the block as of `entry`. `recordOf` finds the block's record of another seq.
   * @throws Problem `damaged`, `read-failed`, `no-key`.
   */
  *rebuild(entry: IndexEntry, recordOf: (seq: number) => IndexEntry | undefined, into: Uint8Array): Rebuild {
    try {
      // A whole record covers all of it; what it leaves would not pass the leaf's check.
      if (entry.pages !== null || entry.pageMask !== fullMask) into.fill(0);
      let newest = entry;
      for (const seq of seqsOf(entry)) {
        const record = seq === entry.seq ? entry : recordOf(seq);
        if (!record) {
          throw this.#damaged(entry, `layer ${seq}, which holds some of its pages, is not in the index`);
        }
        yield* this.#layPages(entry, record, into);
        if (record.seq > newest.seq) newest = record;
      }
      // Of a repaired version (`repairs.ts`) the layer itself may be lost.
      const { leafKey } = this.#keysOf(newest);
      if (Buffer.compare(leafOf(leafKey, into), entry.leaf) !== 0) {
        throw this.#damaged(entry, 'its content does not match its leaf');
      }
    } catch (error) {
      into.fill(0);
      throw error;
    }
  }

  /** Reads and unseals one record and puts the pages that `entry` takes from it into `into`. */
  *#layPages(entry: IndexEntry, record: IndexEntry, into: Uint8Array): Rebuild {
    const pageSize = this.disk.blockSize / pagesPerBlock;
    const buffer = this.#takeBuffer(record);
    let pages: Uint8Array;
    try {
      const payload = buffer.subarray(0, record.storedLength);
      yield* this.#readPayload(record, payload);
      const { key } = this.#keysOf(record);
      pages = this.#unseal(record, key, payload, pageSize);
    } finally {
      if (this.#buffers.length < limits.store.readerBuffersMax) this.#buffers.push(buffer);
    }
    if (pages.byteLength !== pageCount(record.pageMask) * pageSize) {
      throw this.#damaged(record, `it holds ${pages.byteLength} bytes for its page mask`);
    }
    if (record === entry && entry.pages === null) scatterPages(pages, record.pageMask, pageSize, into);
    else scatterSome(pages, record, entry.pages ?? [], pageSize, into);
    release(pages);
  }

  *#readPayload(record: IndexEntry, payload: Uint8Array): Rebuild {
    if (payload.byteLength === 0) return;
    try {
      yield { segment: record.segment, into: payload, offset: record.payloadOffset };
    } catch (error) {
      const missing = isProblem(error) ? !error.retryable : systemCode(error) === 'ENOENT';
      const what = `segment ${record.segment} can not be read: ${messageOf(error)}`;
      if (missing) throw this.#damaged(record, what, error);
      throw isProblem(error) ? error : this.#readFailed(record, what, error);
    }
  }

  #unseal(record: IndexEntry, layerKey: KeyObject, payload: Uint8Array, pageSize: number): Uint8Array {
    const { seq, block, pageMask, codec, rawLength, nonce, leaf, tag } = record;
    const row = { seq, block, pageMask, codec, rawLength, nonce, leaf, tag };
    try {
      return unsealRecord({ ...row, layerKey, diskId: this.disk.id, payload, pageSize });
    } catch (error) {
      if (!isProblem(error)) throw error;
      throw this.#damaged(record, messageOf(error), error);
    }
  }

  /** A buffer of at least the payload's size; bounds the lengths first (invariant 2). */
  #takeBuffer(record: IndexEntry): Uint8Array {
    const { storedLength, rawLength } = record;
    const { blockSize } = this.disk;
    if (storedLength > blockSize || rawLength > blockSize) {
      throw this.#damaged(record, `${storedLength} stored bytes for a block of ${blockSize}`);
    }
    return this.#buffers.pop() ?? new Uint8Array(blockSize);
  }

  #keysOf(record: IndexEntry): LayerKeys {
    const { seq } = record;
    const known = this.#layerKeys.get(seq);
    if (known) {
      this.#layerKeys.delete(seq);
      this.#layerKeys.set(seq, known);
      return known;
    }
    const body = this.#layer(seq);
    const layer = body && decodeLayerBody(body);
    if (layer?.seq !== seq) throw this.#damaged(record, 'its layer is not in the index');
    const { machine, name, id, keys: versions } = this.disk;
    const keys = versions.get(layer.keyVersion);
    if (!keys) {
      throw new Problem('no-key', `disk ${name} of ${machine} has no key of version ${layer.keyVersion}`, {
        remedy: 'restore machine.json from a copy of this data directory',
      });
    }
    const made = { key: deriveLayerKey(keys.diskKey, layer.salt, id, seq), leafKey: keys.leafKey };
    if (this.#layerKeys.size >= limits.store.layerKeysMax) {
      const oldest = this.#layerKeys.keys().next();
      if (oldest.done !== true) this.#layerKeys.delete(oldest.value);
    }
    this.#layerKeys.set(seq, made);
    return made;
  }

  #where(record: IndexEntry): string {
    return `machine ${this.disk.machine}, disk ${this.disk.name}, block ${record.block}, layer ${record.seq}`;
  }

  #readFailed(record: IndexEntry, what: string, cause: unknown): Problem {
    return new Problem('read-failed', `${this.#where(record)}: ${what}`, {
      remedy: 'check open files, memory and the disk under the store (kernel log), then try again',
      retryable: true,
      cause,
    });
  }

  #damaged(record: IndexEntry, what: string, cause?: unknown): Problem {
    return new Problem('damaged', `${this.#where(record)}: ${what}`, {
      remedy:
        'it is not served; while the source replicates, the block is asked of it again and the next point is whole',
      cause,
    });
  }
}

/** The layers whose records hold the block's pages as of `entry`, at most 16; its own may be among them. */
export function seqsOf(entry: IndexEntry): ReadonlySet<number> {
  if (entry.pages === null) return new Set([entry.seq]);
  return new Set(entry.pages.filter((seq) => seq !== null));
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

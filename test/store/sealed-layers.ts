/**
 * Random layers of one disk, sealed for real, as a process server would send them, beside what the disk must read like after each:
 * the model that index and reader are held against.
 */
import { Problem } from '../../src/kit/problem.ts';
import { createHash } from 'node:crypto';
import { fullMask, gatherPages, pageCount } from '../../src/disk/page-mask.ts';
import { leafOf } from '../../src/kernels/hash.ts';
import { deriveLayerKey } from '../../src/kernels/keys.ts';
import { sealRecord } from '../../src/kernels/seal.ts';
import type { IndexRow } from '../../src/store/index-codec.ts';
import type { AppliedBatch } from '../../src/store/record-index.ts';
import { encodeLayerBody } from '../../src/store/segment-format.ts';

export const blockSize = 4096;
const pageSize = blockSize / 16;
export const diskId = Buffer.alloc(16, 0x1d);
export const keys = { diskKey: Buffer.alloc(32, 0xaa), leafKey: Buffer.alloc(32, 0xbb) };

/** What a layer does to one block: zero it, or fill the pages of the mask with a pattern of `fill` (0: zeros). */
export interface Change {
  readonly block: number;
  readonly mask: number;
  readonly zero: boolean;
  readonly fill: number;
}

export interface LayerPlan {
  readonly diskNo: number;
  readonly changes: readonly Change[];
  readonly dropped: boolean;
  /** Records per batch. */
  readonly perBatch: number;
}

export interface SealedBatch {
  readonly batch: number;
  readonly applied: AppliedBatch;
  readonly blocks: readonly number[];
}

export interface SealedLayer {
  readonly diskNo: number;
  readonly seq: number;
  readonly body: Uint8Array;
  readonly batches: readonly SealedBatch[];
  readonly dropped: boolean;
}

export type Image = Map<number, Buffer>;

function patterned(fill: number, block: number, page: number): Buffer {
  if (fill === 0) return Buffer.alloc(pageSize);
  // Half noise, half repetition: some records compress, some do not.
  const noise = createHash('sha512').update(`${fill} ${block} ${page}`).digest();
  const bytes = Buffer.alloc(pageSize, fill & 0xff);
  for (let at = 0; at < (fill % 2 === 0 ? pageSize : 64); at += 64) noise.copy(bytes, at);
  return bytes;
}

/** Segments in memory; payloads lie where the index says. */
export class MemorySegments {
  readonly bytes: Buffer[] = [];
  #at = 64;

  /** The place for `payload`; a new segment every 16 KiB. */
  put(payload: Buffer): { segment: number; offset: number } {
    if (this.bytes.length === 0 || this.#at > 16 * 1024) {
      this.bytes.push(Buffer.alloc(256 * 1024));
      this.#at = 64;
    }
    const segment = this.bytes.length - 1;
    const offset = this.#at;
    this.bytes[segment]?.set(payload, offset);
    this.#at += payload.byteLength + 64;
    return { segment, offset };
  }

  readonly readAt = async (segment: number, into: Uint8Array, offset: number): Promise<void> => {
    await Promise.resolve();
    const bytes = this.bytes[segment];
    if (!bytes || offset + into.byteLength > bytes.byteLength) throw new Problem('damaged', 'past the end');
    into.set(bytes.subarray(offset, offset + into.byteLength));
  };
}

/** Applies `changes` to a copy of `image`: the disk after this layer. */
function after(image: Image, changes: readonly Change[]): Image {
  const next = new Map(image);
  for (const change of changes) {
    const bytes = Buffer.from(image.get(change.block) ?? Buffer.alloc(blockSize));
    if (change.zero) bytes.fill(0);
    for (let page = 0; page < 16 && !change.zero; page += 1) {
      if ((change.mask & (1 << page)) !== 0) bytes.set(patterned(change.fill, change.block, page), page * pageSize);
    }
    next.set(change.block, bytes);
  }
  return next;
}

function rowsOf(
  layer: { seq: number; salt: Buffer },
  plan: LayerPlan,
  image: Image,
): { rows: IndexRow[]; sealed: Buffer[] } {
  const layerKey = deriveLayerKey(keys.diskKey, layer.salt, diskId, layer.seq);
  const sealed: Buffer[] = [];
  const rows = plan.changes.map((change, nonce): IndexRow => {
    const bytes = image.get(change.block) ?? Buffer.alloc(blockSize);
    const leaf = leafOf(keys.leafKey, bytes);
    const allZero = bytes.every((byte) => byte === 0);
    const pageMask = allZero ? fullMask : change.mask;
    const pages = new Uint8Array(allZero ? 0 : pageCount(pageMask) * pageSize);
    if (!allZero) gatherPages(bytes, pageMask, pageSize, pages, 0);
    const into = Buffer.alloc(pages.byteLength);
    const record = { layerKey, diskId, seq: layer.seq, block: change.block, pageMask, nonce, leaf, pages };
    const { codec, storedLength, rawLength, tag } = sealRecord({ ...record, compression: 'lz4' }, into, 0);
    sealed.push(into.subarray(0, storedLength));
    return { block: change.block, pageMask, codec, storedLength, rawLength, nonce, leaf, tag };
  });
  return { rows, sealed };
}

/** Seals one layer; `image` is the disk before it. Returns the layer and the disk after it. */
export function sealLayer(
  seq: number,
  plan: LayerPlan,
  image: Image,
  segments: MemorySegments,
): { layer: SealedLayer; image: Image } {
  const next = after(image, plan.changes);
  const salt = createHash('sha256').update(`salt ${seq}`).digest();
  const { rows, sealed } = rowsOf({ seq, salt }, plan, next);
  const batches: SealedBatch[] = [];
  for (let from = 0; from < rows.length; from += plan.perBatch) {
    const part = rows.slice(from, from + plan.perBatch);
    const { segment, offset } = segments.put(Buffer.concat(sealed.slice(from, from + plan.perBatch)));
    batches.push({
      batch: batches.length,
      applied: { segment, entryOffset: offset - 64, payloadOffset: offset, rows: part },
      blocks: part.map((row) => row.block),
    });
  }
  const body = encodeLayerBody({ seq, kind: 'delta', keyVersion: 1, base: null, salt });
  return {
    layer: { diskNo: plan.diskNo, seq, body, batches, dropped: plan.dropped },
    image: plan.dropped ? image : next,
  };
}

/**
 * Unseal: the way back of `seal.ts`. Distrusts everything (C7): lengths are bounded by the page mask before the cipher runs, the
 * tag is checked before anything is decoded, and the decoder is given exactly `rawLength` bytes of room.
 */
import type { KeyObject } from 'node:crypto';
import { Problem } from '../kit/problem.ts';
import { zeroLeaf } from '../disk/merkle.ts';
import { fullMask, pageCount } from '../disk/page-mask.ts';
import { decrypt } from './cipher.ts';
import { codecs, decompress } from './compress.ts';
import { release } from '../kit/release.ts';

export interface RecordToUnseal {
  readonly layerKey: KeyObject;
  /** 16 bytes. */
  readonly diskId: Uint8Array;
  readonly seq: number;
  readonly block: number;
  readonly pageMask: number;
  readonly codec: number;
  /** Bytes of the pages before compression, 0 for a zero record. */
  readonly rawLength: number;
  readonly nonce: number;
  /** 32 bytes. */
  readonly leaf: Uint8Array;
  /** 16 bytes. */
  readonly tag: Uint8Array;
  /** The stored payload; borrowed for the call. */
  readonly payload: Uint8Array;
  /** Bytes per page of the disk. */
  readonly pageSize: number;
}

function damaged(record: RecordToUnseal, what: string): Problem {
  return new Problem('damaged', `block ${record.block} of layer ${record.seq}: ${what}`, {
    remedy: 'it is not served; the block is asked of its source again',
  });
}

/** What can be said against a record's row without a key, or null. */
function misfit(record: RecordToUnseal): string | null {
  const { codec, rawLength, pageMask, payload } = record;
  if (!Number.isSafeInteger(record.nonce) || !Number.isSafeInteger(record.seq)) return 'a counter above 2^53 - 1';
  if (codec === codecs.zero) {
    if (rawLength !== 0 || payload.byteLength !== 0 || pageMask !== fullMask) return 'a zero record with content';
    return Buffer.compare(record.leaf, zeroLeaf) === 0 ? null : 'a zero record with a leaf';
  }
  if (codec !== codecs.raw && codec !== codecs.lz4 && codec !== codecs.zstd) return `unknown codec ${codec}`;
  if (pageMask < 1 || pageMask > fullMask) return `page mask ${pageMask}`;
  if (rawLength !== pageCount(pageMask) * record.pageSize) return `raw length ${rawLength} for its page mask`;
  if (codec === codecs.raw ? payload.byteLength !== rawLength : payload.byteLength >= rawLength) {
    return `${payload.byteLength} stored bytes for ${rawLength}`;
  }
  return null;
}

/**
 * The marked pages one after another (page count of the mask × pageSize bytes; zeros for a zero record), in memory the caller owns.
 * That they fit the leaf can only be said of a whole block: compare `leafOf` of it before it is served (C10).
 * @throws Problem `damaged` on any mismatch.
 */
export function unsealRecord(record: RecordToUnseal): Uint8Array {
  const wrong = misfit(record);
  if (wrong !== null) throw damaged(record, wrong);
  const plain = decrypt(record.layerKey, record, record.nonce, record.payload, record.tag);
  if (plain === null) throw damaged(record, 'its tag does not fit');
  if (record.codec === codecs.zero) return new Uint8Array(pageCount(record.pageMask) * record.pageSize);
  if (record.codec !== codecs.lz4 && record.codec !== codecs.zstd) return plain;
  try {
    return decompress(record.codec, plain, record.rawLength);
  } catch (cause) {
    throw new Problem('damaged', `block ${record.block} of layer ${record.seq} does not decompress`, { cause });
  } finally {
    release(plain);
  }
}

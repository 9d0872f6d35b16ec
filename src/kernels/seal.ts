/**
 * Seal: compress, then encrypt, one record (`store/FORMAT.md`, "Record"). The counterpart is `unseal.ts`.
 */
import type { KeyObject } from 'node:crypto';
import { encrypt } from './cipher.ts';
import { codecs, withCompressed, type Codec, type Compression } from './compress.ts';

export interface RecordToSeal {
  readonly layerKey: KeyObject;
  /** 16 bytes. */
  readonly diskId: Uint8Array;
  readonly seq: number;
  readonly block: number;
  readonly pageMask: number;
  /** Unique within the layer: each record of a layer takes the next number (C6). */
  readonly nonce: number;
  /** 32 bytes. */
  readonly leaf: Uint8Array;
  /** The marked pages one after another; empty for an all-zero block. Borrowed for the call. */
  readonly pages: Uint8Array;
  readonly compression: Compression;
}

export interface SealedRecord {
  readonly codec: Codec;
  /** Bytes written to `into`; never more than `pages` has. */
  readonly storedLength: number;
  readonly rawLength: number;
  /** 16 bytes of its own memory. */
  readonly tag: Uint8Array;
}

/** Seals one record into `into` at `at`, where there is room for as many bytes as `pages` has. `into` must not overlap `pages`. */
export function sealRecord(record: RecordToSeal, into: Uint8Array, at: number): SealedRecord {
  const { layerKey, diskId, seq, block, pageMask, leaf, nonce, pages } = record;
  const rawLength = pages.byteLength;
  const encryptAs = (codec: Codec, bytes: Uint8Array): SealedRecord => {
    const tag = encrypt(layerKey, { diskId, seq, block, pageMask, codec, rawLength, leaf }, nonce, bytes, into, at);
    return { codec, storedLength: bytes.byteLength, rawLength, tag };
  };
  if (rawLength === 0) return encryptAs(codecs.zero, pages);
  return withCompressed(pages, record.compression, encryptAs);
}

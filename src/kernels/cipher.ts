/**
 * AES-256-GCM over one record, with everything that gives the record its meaning as additional data (C6): what was sealed as block 5
 * of one layer can not be passed off as anything else. Where it is stored is not bound, so sealed records can be moved.
 *
 * Nonce (12 bytes) = u32 0 ‖ u64 counter. AAD (72 bytes) = "TMR1" ‖ disk id (16) ‖ u64 seq ‖ u32 block ‖ u16 page mask ‖ u8 codec ‖
 * u8 0 ‖ u32 raw length ‖ leaf (32). All little-endian.
 */
import { createCipheriv, createDecipheriv, type KeyObject } from 'node:crypto';
import { invariant } from '../kit/invariant.ts';
import { diskIdBytes } from './keys.ts';
import { release } from '../kit/release.ts';

const tagBytes = 16;
const aadBytes = 72;
const leafBytes = 32;

/** What a record is; all of it is bound by the tag. */
export interface RecordIdentity {
  /** 16 bytes. */
  readonly diskId: Uint8Array;
  /** The layer, < 2⁵³. */
  readonly seq: number;
  readonly block: number;
  readonly pageMask: number;
  readonly codec: number;
  /** Bytes of the pages before compression, 0 for a zero record. */
  readonly rawLength: number;
  /** 32 bytes. */
  readonly leaf: Uint8Array;
}

/** Reused by every call: kernels are synchronous, and node copies both before it returns. */
const aad = Buffer.alloc(aadBytes);
aad.write('TMR1', 0, 'ascii');
const iv = Buffer.alloc(12);
const twoTo32 = 2 ** 32;

function writeU64(into: Buffer, value: number, at: number): void {
  invariant(Number.isSafeInteger(value) && value >= 0, 'a counter is a whole number below 2^53');
  into.writeUInt32LE(value % twoTo32, at);
  into.writeUInt32LE(Math.floor(value / twoTo32), at + 4);
}

function fillAad(record: RecordIdentity): Buffer {
  invariant(record.diskId.byteLength === diskIdBytes, 'a disk id has 16 bytes');
  invariant(record.leaf.byteLength === leafBytes, 'a leaf has 32 bytes');
  aad.set(record.diskId, 4);
  writeU64(aad, record.seq, 20);
  aad.writeUInt32LE(record.block, 28);
  aad.writeUInt16LE(record.pageMask, 32);
  aad.writeUInt8(record.codec, 34);
  aad.writeUInt32LE(record.rawLength, 36);
  aad.set(record.leaf, 40);
  return aad;
}

function fillNonce(nonce: number): Buffer {
  writeU64(iv, nonce, 4);
  return iv;
}

/**
 * Encrypts `plain` into `into` at `at` (exactly as many bytes) and returns the tag. `plain` and `into` must not overlap.
 * A (key, nonce) pair is used once and never again.
 */
export function encrypt(
  key: KeyObject,
  record: RecordIdentity,
  nonce: number,
  plain: Uint8Array,
  into: Uint8Array,
  at: number,
): Uint8Array {
  const cipher = createCipheriv('aes-256-gcm', key, fillNonce(nonce), { authTagLength: tagBytes });
  cipher.setAAD(fillAad(record));
  if (plain.byteLength > 0) {
    const output = cipher.update(plain);
    invariant(output.byteLength === plain.byteLength, 'GCM gives as many bytes as it takes');
    into.set(output, at);
    release(output);
  }
  cipher.final();
  return cipher.getAuthTag();
}

/** The plain bytes in memory of their own, or null when tag, key, nonce, identity or bytes do not belong together. */
export function decrypt(
  key: KeyObject,
  record: RecordIdentity,
  nonce: number,
  sealed: Uint8Array,
  tag: Uint8Array,
): Uint8Array | null {
  if (tag.byteLength !== tagBytes) return null;
  const decipher = createDecipheriv('aes-256-gcm', key, fillNonce(nonce), { authTagLength: tagBytes });
  decipher.setAAD(fillAad(record));
  decipher.setAuthTag(tag);
  const plain = decipher.update(sealed);
  try {
    decipher.final();
  } catch {
    release(plain);
    return null;
  }
  return plain;
}

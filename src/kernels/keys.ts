/**
 * The key of a layer (C6): HKDF-SHA-256(ikm = disk key, salt = the layer's fresh random salt, info = "tidemark layer 1" ‖ disk id
 * ‖ u64 seq). Every layer has its own key, so nonces can count from 0 in each (`store/FORMAT.md`).
 */
import { createSecretKey, hkdfSync, type KeyObject } from 'node:crypto';
import { invariant } from '../kit/invariant.ts';

const keyBytes = 32;
export const saltBytes = 32;
export const diskIdBytes = 16;

const label = Buffer.from('tidemark layer 1', 'ascii');

/**
 * The layer key as 32 raw bytes, for handing to a worker. The caller owns them.
 * @param diskKey 32 bytes. @param salt 32 bytes. @param diskId 16 bytes. @param seq the layer's number, < 2⁵³.
 */
export function deriveLayerKeyBytes(
  diskKey: Uint8Array,
  salt: Uint8Array,
  diskId: Uint8Array,
  seq: number,
): Uint8Array {
  invariant(diskKey.byteLength === keyBytes, 'a disk key has 32 bytes');
  invariant(salt.byteLength === saltBytes, 'a salt has 32 bytes');
  invariant(diskId.byteLength === diskIdBytes, 'a disk id has 16 bytes');
  invariant(Number.isSafeInteger(seq) && seq >= 0, 'a seq is a whole number below 2^53');
  const info = Buffer.alloc(label.byteLength + diskIdBytes + 8);
  info.set(label, 0);
  info.set(diskId, label.byteLength);
  info.writeBigUInt64LE(BigInt(seq), label.byteLength + diskIdBytes);
  return new Uint8Array(hkdfSync('sha256', diskKey, salt, info, keyBytes));
}

/** The layer key in the form ciphers want: a KeyObject costs a third of what raw bytes cost per record. */
export function deriveLayerKey(diskKey: Uint8Array, salt: Uint8Array, diskId: Uint8Array, seq: number): KeyObject {
  return layerKeyOf(deriveLayerKeyBytes(diskKey, salt, diskId, seq));
}

/** Wraps raw layer key bytes; they are copied and may be wiped afterwards. */
export function layerKeyOf(bytes: Uint8Array): KeyObject {
  invariant(bytes.byteLength === keyBytes, 'a layer key has 32 bytes');
  return createSecretKey(bytes);
}

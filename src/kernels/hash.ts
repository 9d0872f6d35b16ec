/**
 * Everything that is hashed: digests of stored bytes (unkeyed), leaves of blocks (keyed per disk, so that stored leaves do not
 * reveal content), Merkle nodes and roots (keyed with fixed labels, so that none can pass for another kind).
 */
import { zeroLeaf, type MerkleHashes } from '../disk/merkle.ts';
import { limits } from '../limits.ts';
import { blake3Choice } from './blake3.ts';

const blake3 = blake3Choice.implementation;

/** BLAKE3-256 of the parts, one after another. 32 bytes of their own. */
export function digest(...parts: readonly Uint8Array[]): Uint8Array {
  return blake3.hash(parts);
}

const zeros = Buffer.alloc(limits.disk.blockBytesMax);

/** Whether every byte is zero; true for no bytes. Runs at the speed of memory. */
export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.byteLength; at += zeros.byteLength) {
    const length = Math.min(zeros.byteLength, bytes.byteLength - at);
    const same = zeros.compare(bytes, at, at + length, 0, length) === 0;
    if (!same) return false;
  }
  return true;
}

type Keyed = (parts: readonly Uint8Array[]) => Uint8Array;

/** Keyed hashers by leaf key, newest last: making one costs as much as hashing 30 KiB. Bounded. */
const leafHashers = new Map<string, Keyed>();
const leafHashersMax = 256;

function leafHasher(leafKey: Uint8Array): Keyed {
  const name = Buffer.from(leafKey.buffer, leafKey.byteOffset, leafKey.byteLength).toString('latin1');
  const known = leafHashers.get(name);
  if (known) return known;
  const made = blake3.keyed(leafKey);
  if (leafHashers.size >= leafHashersMax) {
    const oldest = leafHashers.keys().next();
    if (oldest.done !== true) leafHashers.delete(oldest.value);
  }
  leafHashers.set(name, made);
  return made;
}

/**
 * The leaf of a whole block (blockSize bytes, zero-padded past the disk's end): keyed BLAKE3-256, 32 zero bytes when the block is
 * all zero. The result is its own memory, except that an all-zero block gives the shared `zeroLeaf`: do not write to it.
 */
export function leafOf(leafKey: Uint8Array, wholeBlock: Uint8Array): Uint8Array {
  if (isZero(wholeBlock)) return zeroLeaf;
  return leafHasher(leafKey)([wholeBlock]);
}

function label(text: string): Uint8Array {
  const key = new Uint8Array(32);
  key.set(Buffer.from(text, 'ascii'));
  return key;
}

const hashNode = blake3.keyed(label('tidemark merkle node v1'));
const hashRoot = blake3.keyed(label('tidemark merkle root v1'));

/** Node and root of the tree over a disk's leaves (`disk/merkle.ts`). */
export const merkleHashes: MerkleHashes = {
  node: (leaves) => hashNode([leaves]),
  root: (header, nodes) => hashRoot([header, nodes]),
};

/**
 * BLAKE3-256 providers: `@napi-rs/blake-hash` (native), else `blake3-wasm` (portable, several times as dear). In the order of the table of
 * `native-bench` (rows "BLAKE3 keyed", 64 KiB), which a test holds.
 *
 * Invariants:
 *  1. A key has exactly 32 bytes. Checked here: the native module aborts the whole process on any other length.
 *  2. Results are 32 bytes in memory of their own; nothing returned points into a provider's memory.
 *  3. Everything is synchronous, so one hasher object per key can be reset and used again.
 */
import { createRequire } from 'node:module';
import { invariant } from '../kit/invariant.ts';
import { choose, type Candidate } from './choose.ts';

const hashBytes = 32;

export interface Blake3 {
  /** BLAKE3-256 over the parts, as if they were one. */
  hash(parts: readonly Uint8Array[]): Uint8Array;
  /** A hash function with this 32-byte key. The key is copied. */
  keyed(key: Uint8Array): (parts: readonly Uint8Array[]) => Uint8Array;
}

/** BLAKE3-256 of the empty input, from the BLAKE3 reference test vectors. */
const emptyHash = 'af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262';

const require = createRequire(import.meta.url);

function own(bytes: Uint8Array): Uint8Array {
  invariant(bytes.byteLength === hashBytes, 'BLAKE3 gives 32 bytes');
  const copy = new Uint8Array(hashBytes);
  copy.set(bytes);
  return copy;
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function checkedKey(key: Uint8Array): Buffer {
  invariant(key.byteLength === hashBytes, `a BLAKE3 key has 32 bytes, not ${key.byteLength}`);
  return Buffer.from(key);
}

function selfChecked(blake3: Blake3): Blake3 {
  invariant(Buffer.from(blake3.hash([])).toString('hex') === emptyHash, 'the known answer for the empty input');
  return blake3;
}

function loadNative(): Blake3 {
  const native = require('@napi-rs/blake-hash') as typeof import('@napi-rs/blake-hash');
  const hashWith =
    (hasher: InstanceType<typeof native.Blake3Hasher>) =>
    (parts: readonly Uint8Array[]): Uint8Array => {
      hasher.reset();
      for (const part of parts) hasher.update(bufferOf(part));
      // As text: half a microsecond to one less than as a native buffer, whose end the garbage collector would have to watch for.
      return own(Buffer.from(hasher.digest('hex'), 'hex'));
    };
  return selfChecked({
    hash: hashWith(new native.Blake3Hasher()),
    keyed: (key) => hashWith(native.Blake3Hasher.newKeyed(checkedKey(key))),
  });
}

function loadWasm(): Blake3 {
  const wasm = require('blake3-wasm') as typeof import('blake3-wasm');
  return selfChecked({
    hash(parts) {
      const hasher = wasm.createHash();
      for (const part of parts) hasher.update(part);
      return own(hasher.digest());
    },
    keyed(key) {
      const fixed = checkedKey(key);
      return (parts) => {
        const hasher = wasm.createKeyed(fixed);
        for (const part of parts) hasher.update(part);
        return own(hasher.digest());
      };
    },
  });
}

export const blake3Candidates: readonly Candidate<Blake3>[] = [
  { name: '@napi-rs/blake-hash', load: loadNative },
  { name: 'blake3-wasm', load: loadWasm },
];

export const blake3Choice = choose('blake3', blake3Candidates);

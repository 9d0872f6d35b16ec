/** One provider of one kernel, as the measurement sees it; and what becomes of what it returns. */
import { release } from '../src/kit/release.ts';
import { MiB } from '../src/kit/sizes.ts';

export type Kernel = 'hash' | 'lz4' | 'zstd' | 'deflate' | 'cipher';

export interface Contestant {
  readonly kernel: Kernel;
  /** Package or module; of those the product chooses from, the candidate's name. */
  readonly provider: string;
  readonly variant: string;
  /** One call: hashes, compresses or encrypts `plain` into `slab` (a good deal larger) and returns how many bytes that gave. */
  readonly there: ((plain: Buffer, slab: Buffer) => number) | null;
  /** One call: decompresses or decrypts what `there` gave, or where that is missing what the first of its kernel gave. */
  readonly back: ((coded: Buffer, plainBytes: number, slab: Buffer) => void) | null;
}

/** What comes out of a call on `plainBytes` is never longer. */
export function slabBytes(plainBytes: number): number {
  return plainBytes + Math.ceil(plainBytes / 64) + MiB / 16;
}

/** Into the slab; for what is borrowed. */
export function copy(output: Uint8Array, slab: Buffer): number {
  slab.set(output);
  return output.byteLength;
}

/** Into the slab, and its memory given back. */
export function keep(output: Uint8Array, slab: Buffer): number {
  const { byteLength } = output;
  slab.set(output);
  release(output);
  return byteLength;
}

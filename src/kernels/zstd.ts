/**
 * zstd frames (`store/FORMAT.md`, codec 2). `zstd-napi` (an optional dependency, it compiles at install) writes into memory we
 * provide: no allocation per record, and its decoder can not write past the destination. Else `node:zlib`, bounded by
 * `maxOutputLength` and by the decoder's window, so that a forged frame can claim neither output nor window memory. The order is that of the table of
 * `native-bench` (rows "level 1", 64 KiB), which a test holds.
 */
import { createRequire } from 'node:module';
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import { choose, type Candidate } from './choose.ts';
import { release } from '../kit/release.ts';

export interface Zstd {
  /** Hands the frame to `use`, valid during the call only. */
  compress<T>(input: Uint8Array, use: (frame: Uint8Array) => T): T;
  /** `rawLength` bytes in memory of their own. Never allocates more than that. @throws Error when the frame does not decode to it. */
  decompress(frame: Uint8Array, rawLength: number): Uint8Array;
}

/** What `zstd-napi/binding` offers and is used here; declared so that the package stays optional at build time, too. */
interface Binding {
  readonly CCtx: new () => { compress(into: Uint8Array, from: Uint8Array, level: number): number };
  readonly DCtx: new () => { decompress(into: Uint8Array, from: Uint8Array): number };
  compressBound(bytes: number): number;
}

/** As fast as LZ4 costs a quarter of the ratio; level 1 is the best trade on real disks (about 10 % slower than LZ4, a third smaller). */
const level = 1;
/** log2 of the largest window a frame of ours has: one block. */
const windowLog = Math.log2(limits.disk.blockBytesMax);

const require = createRequire(import.meta.url);

function exactly(length: number, rawLength: number): void {
  if (length !== rawLength) throw new Error(`${length} bytes instead of ${rawLength}`);
}

function loadNative(): Zstd {
  const binding = require('zstd-napi/binding') as Binding;
  const compressor = new binding.CCtx();
  const decompressor = new binding.DCtx();
  const scratch = new Uint8Array(binding.compressBound(limits.disk.blockBytesMax));
  return selfChecked({
    compress: (input, use) => use(scratch.subarray(0, compressor.compress(scratch, input, level))),
    decompress(frame, rawLength) {
      const out = new Uint8Array(rawLength);
      exactly(decompressor.decompress(out, frame), rawLength);
      return out;
    },
  });
}

function loadZlib(): Zstd {
  const compressParams = { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_windowLog]: windowLog };
  const decompressParams = { [constants.ZSTD_d_windowLogMax]: windowLog };
  return selfChecked({
    compress(input, use) {
      const output = zstdCompressSync(input, { params: compressParams });
      const result = use(output);
      release(output);
      return result;
    },
    decompress(frame, rawLength) {
      const out = zstdDecompressSync(frame, { maxOutputLength: rawLength, params: decompressParams });
      exactly(out.byteLength, rawLength);
      return out;
    },
  });
}

function selfChecked(zstd: Zstd): Zstd {
  const known = Buffer.from('01020304'.repeat(64), 'hex');
  const back = zstd.compress(known, (frame) => zstd.decompress(frame, known.byteLength));
  invariant(known.equals(back), 'zstd gives back what it was given');
  return zstd;
}

export const zstdCandidates: readonly Candidate<Zstd>[] = [
  { name: 'zstd-napi', load: loadNative },
  { name: 'node:zlib', load: loadZlib },
];

export const zstdChoice = choose('zstd', zstdCandidates);

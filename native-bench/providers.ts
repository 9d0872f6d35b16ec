/**
 * Every provider of every kernel in one shape: those the product can choose from by the product's own candidates, others as their documents say they
 * are used best. What comes out is copied into a slab and released at once, as in the worker.
 */
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { constants, deflateSync, inflateSync } from 'node:zlib';
import { blake3Candidates } from '../src/kernels/blake3.ts';
import type { Candidate } from '../src/kernels/choose.ts';
import { lz4Candidates } from '../src/kernels/lz4.ts';
import { zstdCandidates } from '../src/kernels/zstd.ts';
import { messageOf } from '../src/kit/problem.ts';
import { systemRandom } from '../src/kit/random.ts';
import { cipherContestants } from './ciphers.ts';
import { copy, keep, type Contestant } from './contestant.ts';

const require = createRequire(import.meta.url);

/** The candidates that load here. One that does not is named on standard error. */
function loaded<T>(candidates: readonly Candidate<T>[]): { readonly provider: string; readonly implementation: T }[] {
  return candidates.flatMap(({ name, load }) => {
    try {
      return [{ provider: name, implementation: load() }];
    } catch (error) {
      process.stderr.write(`${name} does not load and is not measured: ${messageOf(error)}\n`);
      return [];
    }
  });
}

function hashes(): Contestant[] {
  const key = systemRandom.bytes(32);
  const kernel = 'hash';
  const blake3 = loaded(blake3Candidates).flatMap(({ provider, implementation }): Contestant[] => {
    const keyed = implementation.keyed(key);
    return [
      {
        kernel,
        provider,
        variant: 'BLAKE3',
        there: (plain, slab) => keep(implementation.hash([plain]), slab),
        back: null,
      },
      { kernel, provider, variant: 'BLAKE3 keyed', there: (plain, slab) => keep(keyed([plain]), slab), back: null },
    ];
  });
  const others = ['sha256', 'blake2b512'].map((variant): Contestant => {
    const there = (plain: Buffer, slab: Buffer): number => keep(createHash(variant).update(plain).digest(), slab);
    return { kernel, provider: 'node:crypto', variant, there, back: null };
  });
  return [...blake3, ...others];
}

function lz4s(): Contestant[] {
  return loaded(lz4Candidates).map(({ provider, implementation }) => {
    const { compress } = implementation;
    return {
      kernel: 'lz4',
      provider,
      variant: '',
      there: compress && ((plain, slab) => compress(plain, (block) => copy(block, slab))),
      back: (coded, plainBytes, slab) => void keep(implementation.decompress(coded, plainBytes), slab),
    };
  });
}

/** As `src/kernels/zstd.ts` uses it, at other levels. */
interface ZstdBinding {
  readonly CCtx: new () => { compress(into: Uint8Array, from: Uint8Array, level: number): number };
  readonly DCtx: new () => { decompress(into: Uint8Array, from: Uint8Array): number };
}

function zstds(): Contestant[] {
  const kernel = 'zstd';
  const candidates = loaded(zstdCandidates).map(({ provider, implementation }): Contestant => {
    const there = (plain: Buffer, slab: Buffer): number => implementation.compress(plain, (frame) => copy(frame, slab));
    const back = (coded: Buffer, plainBytes: number, slab: Buffer): void =>
      void keep(implementation.decompress(coded, plainBytes), slab);
    return { kernel, provider, variant: 'level 1', there, back };
  });
  const native = { name: 'zstd-napi', load: () => require('zstd-napi/binding') as ZstdBinding };
  const levels = loaded([native]).flatMap(({ provider, implementation: { CCtx, DCtx } }) => {
    const [compressor, decompressor] = [new CCtx(), new DCtx()];
    return [-3, 3].map((level): Contestant => {
      const there = (plain: Buffer, slab: Buffer): number => compressor.compress(slab, plain, level);
      const back = (coded: Buffer, plainBytes: number, slab: Buffer): void =>
        void decompressor.decompress(slab.subarray(0, plainBytes), coded);
      return { kernel, provider, variant: `level ${level}`, there, back };
    });
  });
  return [...candidates, ...levels];
}

function deflates(): Contestant[] {
  const options = { level: constants.Z_BEST_SPEED };
  const there = (plain: Buffer, slab: Buffer): number => keep(deflateSync(plain, options), slab);
  const back = (coded: Buffer, plainBytes: number, slab: Buffer): void =>
    void keep(inflateSync(coded, { maxOutputLength: plainBytes }), slab);
  return [{ kernel: 'deflate', provider: 'node:zlib', variant: 'level 1', there, back }];
}

export function contestants(): Contestant[] {
  return [...hashes(), ...lz4s(), ...zstds(), ...deflates(), ...cipherContestants()];
}

/** What decoders do with bytes nobody vouches for. In the product a tag is checked first; these must hold without it. */
import { randomBytes } from 'node:crypto';
import { constants, zstdCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import fc from 'fast-check';
import { choose } from '../../src/kernels/choose.ts';
import { lz4Candidates, lz4Choice } from '../../src/kernels/lz4.ts';
import { zstdCandidates } from '../../src/kernels/zstd.ts';

const copied = (bytes: Uint8Array): Uint8Array => Uint8Array.from(bytes);
const compressLz4 = (input: Uint8Array): Uint8Array => {
  const { compress } = lz4Choice.implementation;
  return compress ? compress(input, copied) : new Uint8Array(0);
};
const sample = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 3000 }),
  fc
    .tuple(
      fc.uint8Array({ minLength: 1, maxLength: 40 }),
      fc.integer({ min: 1, max: 200 }),
      fc.uint8Array({ maxLength: 30 }),
    )
    .map(([part, times, tail]) => Uint8Array.from([...Array.from({ length: times }, () => [...part]).flat(), ...tail])),
);

describe.each(lz4Candidates)('LZ4 by $name', ({ load }) => {
  const lz4 = load();

  it('decodes what the compressor makes', () => {
    fc.assert(
      fc.property(sample, (raw) => Buffer.compare(lz4.decompress(compressLz4(raw), raw.byteLength), raw) === 0),
    );
  });

  it('throws on garbage and on every wrong length, and never gives another length', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.integer({ min: 1, max: 70_000 }), (block, rawLength) => {
        try {
          return lz4.decompress(block, rawLength).byteLength === rawLength;
        } catch {
          return true;
        }
      }),
      { numRuns: 500 },
    );
    const raw = new Uint8Array(65_536).fill(3);
    for (const wrong of [1, 65_535, 65_537, 1_048_576]) expect(() => lz4.decompress(compressLz4(raw), wrong)).toThrow();
  });
});

describe('LZ4 without its native module', () => {
  it('falls back to reading, says so, and leaves new records uncompressed', () => {
    const broken = {
      name: 'lz4-napi',
      load: () => {
        throw new Error('not for this platform');
      },
    };
    const choice = choose('lz4', [broken, ...lz4Candidates.slice(1)]);
    expect(choice).toMatchObject({ fallback: true, provider: 'portable decoder' });
    expect(choice.implementation.compress).toBeNull();
  });
});

describe.each(zstdCandidates)('zstd by $name', ({ load }) => {
  const zstd = load();

  it('decodes what every provider makes', () => {
    const all = zstdCandidates.map((candidate) => candidate.load());
    fc.assert(
      fc.property(sample, (raw) =>
        all.every((other) => Buffer.compare(zstd.decompress(other.compress(raw, copied), raw.byteLength), raw) === 0),
      ),
      { numRuns: 50 },
    );
  });

  it('does not follow a bomb: a few KiB that claim 256 MiB', () => {
    const bomb = zstdCompressSync(Buffer.alloc(256 * 1024 * 1024));
    expect(bomb.byteLength).toBeLessThan(65_536);
    const before = process.memoryUsage().rss;
    for (let round = 0; round < 20; round += 1) expect(() => zstd.decompress(bomb, 65_536)).toThrow();
    expect(process.memoryUsage().rss - before).toBeLessThan(32 * 1024 * 1024);
  });

  it('does not follow a bomb with a small window either', () => {
    const bomb = zstdCompressSync(Buffer.alloc(64 * 1024 * 1024), { params: { [constants.ZSTD_c_windowLog]: 12 } });
    const before = process.memoryUsage().rss;
    expect(() => zstd.decompress(bomb, 65_536)).toThrow(/small|larger/);
    expect(process.memoryUsage().rss - before).toBeLessThan(32 * 1024 * 1024);
  });

  it('throws on garbage and wrong lengths', () => {
    const frame = zstd.compress(new Uint8Array(65_536).fill(3), copied);
    for (const wrong of [1, 65_535, 65_537]) expect(() => zstd.decompress(frame, wrong)).toThrow();
    expect(() => zstd.decompress(randomBytes(300), 65_536)).toThrow();
    expect(() => zstd.decompress(new Uint8Array(0), 65_536)).toThrow();
  });
});

/** The table of the kernels: it can be made, and the order of providers follows it. What a tiny run measures says nothing. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import type { Candidate } from '../../src/kernels/choose.ts';
import { blake3Candidates } from '../../src/kernels/blake3.ts';
import { lz4Candidates } from '../../src/kernels/lz4.ts';
import { providers } from '../../src/kernels/providers.ts';
import { zstdCandidates } from '../../src/kernels/zstd.ts';
import { contentNames } from '../../native-bench/content.ts';
import { meanSecondsPerGB, measureKernels, type Row } from '../../native-bench/measure.ts';
import { kernelLines } from '../../native-bench/report.ts';

const results = new URL('../../native-bench/results.json', import.meta.url);

it('every provider in use is measured, both directions, and stands in the table', async () => {
  const rows = await measureKernels({ sizes: [65_536], contents: ['text', 'random'], milliseconds: 1 });
  const kernels = { blake3: 'hash', lz4: 'lz4', zstd: 'zstd', 'aes-256-gcm': 'cipher' } as const;
  for (const { kernel, provider } of providers()) {
    const mine = rows.filter((row) => row.kernel === kernels[kernel] && row.provider === provider);
    expect(new Set(mine.map(({ direction }) => direction))).toEqual(
      new Set(kernel === 'blake3' ? ['there'] : ['there', 'back']),
    );
  }
  for (const row of rows) {
    expect(Object.keys(row.by), `${row.provider} ${row.variant}`).toEqual(['text', 'random']);
    for (const { total, mbps } of Object.values(row.by)) expect([total > 0, mbps > 0]).toEqual([true, true]);
  }
  // What compresses does so with text and not with noise: both directions saw what they were given.
  for (const { by } of rows.filter(({ kernel }) => kernel === 'lz4' || kernel === 'zstd' || kernel === 'deflate')) {
    expect(by.text?.ratio).toBeGreaterThan(1.5);
    expect(by.random?.ratio).toBeLessThan(1.01);
  }
  expect(kernelLines(rows).filter((line) => line.startsWith('| '))).toHaveLength(rows.length + 2);
});

/** Providers of a kernel by what they cost at 64 KiB, the cheapest first; in the direction all of them have. */
function byCost(rows: readonly Row[], kernel: string, variant: string, direction: string): string[] {
  return rows
    .filter((row) => row.kernel === kernel && row.variant === variant && row.direction === direction)
    .filter(({ bytes, provider }) => bytes === 65_536 && provider !== 'node:crypto')
    .sort((a, b) => meanSecondsPerGB(a) - meanSecondsPerGB(b))
    .map(({ provider }) => provider);
}

it('the order of candidates is the order of the table that is checked in', () => {
  const { rows } = JSON.parse(readFileSync(results, 'utf8')) as { rows: Row[] };
  for (const { kernel, direction, bytes, by } of rows) {
    const unmeasured = kernel === 'lz4' && direction === 'back' && bytes === 2 ** 20 ? ['random'] : [];
    expect(Object.keys(by)).toEqual(contentNames.filter((name) => !unmeasured.includes(name)));
  }
  const names = (candidates: readonly Candidate<unknown>[]): string[] => candidates.map(({ name }) => name);
  // The worker hashes leaves with a key, and compresses; without the native LZ4 nothing can be compressed, only read.
  expect(names(blake3Candidates)).toEqual(byCost(rows, 'hash', 'BLAKE3 keyed', 'there'));
  expect(names(lz4Candidates)).toEqual(byCost(rows, 'lz4', '', 'back'));
  expect(names(zstdCandidates)).toEqual(byCost(rows, 'zstd', 'level 1', 'there'));
});

import { expect, it } from 'vitest';
import { SlabPool } from '../../src/kit/slab-pool.ts';
import { KiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { frameHeaderBytes } from '../../src/wire/frame.ts';

it('has at least what was asked for, and uses again what came back', () => {
  const pool = new SlabPool(1024 * KiB);
  for (const bytes of [1, 16 * KiB, 16 * KiB + 1, 600 * KiB, 5000 * KiB])
    expect(pool.take(bytes).byteLength).toBeGreaterThanOrEqual(bytes);
  const slab = pool.take(34 * KiB);
  pool.give(slab);
  expect(pool.take(200 * KiB)).not.toBe(slab);
  expect(pool.take(40 * KiB)).toBe(slab);
  expect(pool.take(40 * KiB)).not.toBe(slab);
});

it('has never more than twice of what was asked for, which is what its user counted', () => {
  const pool = new SlabPool(1024 * KiB);
  for (let bytes = 1; bytes < 3000 * KiB; bytes += Math.ceil(bytes / 100))
    expect(pool.take(bytes).byteLength, `${bytes}`).toBeLessThanOrEqual(2 * bytes);
});

it('keeps no more than it may, and nothing that was made to measure', () => {
  const pool = new SlabPool(100 * KiB);
  const slabs = [pool.take(40 * KiB), pool.take(40 * KiB), pool.take(40 * KiB)];
  for (const slab of slabs) pool.give(slab);
  const again = [pool.take(40 * KiB), pool.take(40 * KiB), pool.take(40 * KiB)];
  expect(again.filter((slab) => slabs.includes(slab))).toHaveLength(2);
  const large = pool.take(5000 * KiB);
  pool.give(large);
  expect(pool.take(5000 * KiB)).not.toBe(large);
});

it('has a size for a batch as agents send it, and one for a batch as large as it may be', () => {
  const { batchPayloadBytesMax } = limits.wire;
  for (const payload of [limits.agent.batchPayloadBytes, batchPayloadBytesMax]) {
    const pool = new SlabPool(limits.wire.idleSlabBytesMax);
    // Blocks of 64 KiB, with the rows of the sealed form, and room before.
    const slab = pool.take(payload + (payload / (64 * KiB)) * 72 + frameHeaderBytes + 256);
    pool.give(slab);
    expect(pool.take(slab.byteLength)).toBe(slab);
    expect(slab.byteLength).toBeLessThan(payload * 1.07);
  }
});

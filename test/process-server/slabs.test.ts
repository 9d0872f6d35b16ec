import { expect, it } from 'vitest';
import { KiB, MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { sealingRoom } from '../../src/process-server/seal-batch.ts';
import { Slabs } from '../../src/process-server/slabs.ts';

const headerBytes = 8;

it('seals a batch where its frame arrived, with room before it', () => {
  const slabs = new Slabs();
  for (const bytes of [8 * KiB, 100 * KiB, 512 * KiB + 400, MiB + 65 * KiB]) {
    const frame = slabs.takeFrame(bytes);
    expect(frame.byteLength).toBe(bytes);
    const body = frame.subarray(headerBytes);
    const slab = slabs.hold(body, sealingRoom(16));
    expect(slab).toBe(frame.buffer);
  }
});

it('copies a body that came in other memory, that lacks room, or whose memory is held already', () => {
  const slabs = new Slabs();
  const other = Buffer.alloc(9000, 7).subarray(headerBytes);
  const held = slabs.hold(other, 100);
  expect(held).not.toBe(other.buffer);
  expect(Buffer.from(held, held.byteLength - other.byteLength).equals(other)).toBe(true);

  const rows = slabs
    .takeFrame(500 * KiB)
    .fill(3)
    .subarray(headerBytes);
  const room = sealingRoom(limits.wire.batchRecordsMax);
  const larger = slabs.hold(rows, room);
  expect(larger).not.toBe(rows.buffer);
  expect(larger.byteLength - rows.byteLength).toBeGreaterThanOrEqual(room);
  expect(Buffer.from(larger, larger.byteLength - rows.byteLength).equals(rows)).toBe(true);

  const twice = slabs.takeFrame(20 * KiB).subarray(headerBytes);
  expect(slabs.hold(twice, 100)).toBe(twice.buffer);
  expect(slabs.hold(twice, 100)).not.toBe(twice.buffer);
});

it('gives a slab that came back to the next frame of its size, and keeps at most 40 MiB idle', () => {
  const slabs = new Slabs();
  const slab = slabs.hold(slabs.takeFrame(512 * KiB).subarray(headerBytes), 200);
  slabs.give(slab);
  expect(slabs.takeFrame(520 * KiB).buffer).toBe(slab);
  const checksums = slabs.takeFrame(MiB);
  slabs.free(checksums.subarray(headerBytes));
  expect(slabs.takeFrame(MiB).buffer).toBe(checksums.buffer);
  slabs.free(Buffer.alloc(16 * KiB));
  expect(slabs.takeFrame(9 * KiB).byteLength).toBe(9 * KiB);

  const many = Array.from({ length: 100 }, () => slabs.takeFrame(MiB));
  for (const frame of many) slabs.free(frame);
  const kept = new Set(Array.from({ length: 100 }, () => slabs.takeFrame(MiB).buffer));
  expect(many.filter(({ buffer }) => kept.has(buffer)).length).toBe(Math.floor((40 * MiB) / (1088 * KiB)));
});

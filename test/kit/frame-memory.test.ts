import { expect, it } from 'vitest';
import { FrameMemory } from '../../src/kit/frame-memory.ts';
import { SlabPool } from '../../src/kit/slab-pool.ts';

const frameBytes = 60_000;
const made = (): FrameMemory => new FrameMemory(new SlabPool(1 << 20));

it('gives the memory of a frame to the next one once it came back, whoever says so by which part of it', () => {
  const memory = made();
  const first = memory.take(frameBytes, 100);
  expect([first.byteLength, first.byteOffset >= 100]).toEqual([frameBytes, true]);
  expect(memory.take(frameBytes, 100).buffer).not.toBe(first.buffer);
  memory.free(first.subarray(8));
  expect(memory.take(frameBytes).buffer).toBe(first.buffer);
});

it("gives a slab to one owner: what was given back or taken over is nobody else's to give", () => {
  const memory = made();
  const frame = memory.take(frameBytes);
  expect(memory.claim(frame)).toBe(frame.buffer);
  expect(memory.claim(frame)).toBeNull();
  memory.free(frame);
  expect(memory.take(frameBytes).buffer).not.toBe(frame.buffer);

  const twice = memory.take(frameBytes);
  memory.free(twice);
  memory.free(twice);
  expect(memory.take(frameBytes).buffer).toBe(twice.buffer);
  expect(memory.take(frameBytes).buffer).not.toBe(twice.buffer);
});

it('leaves memory alone that came from elsewhere, and small frames', () => {
  const memory = made();
  const other = Buffer.alloc(81_920);
  memory.free(other);
  expect(memory.claim(other)).toBeNull();
  expect(memory.take(80_000).buffer).not.toBe(other.buffer);
  expect(memory.claim(memory.take(64))).toBeNull();
});

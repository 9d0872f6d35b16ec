/** Disk images for product tests: made from a seed, quickly, and much like real disks: dense, compressible and empty stretches. */
import { createCipheriv } from 'node:crypto';
import { writeFile } from 'node:fs/promises';

export const KiB = 1024;
export const MiB = 1024 * KiB;

/** `length` bytes that do not compress, always the same for a seed. */
export function denseBytes(seed: number, length: number): Buffer {
  const key = Buffer.alloc(16);
  key.writeUInt32LE(seed >>> 0);
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length));
}

/**
 * Writes an image. `filled`: bytes from the start that are not zero: of every four 64 KiB stretches three are dense, one is text. The
 * rest is a hole.
 */
export async function writeImage(path: string, size: number, filled: number, seed: number): Promise<void> {
  const image = Buffer.alloc(size);
  denseBytes(seed, filled).copy(image);
  const stretch = 64 * KiB;
  for (let at = 0, number = 0; at + stretch <= filled; at += 4 * stretch, number += 1)
    image.fill(`stretch ${number} of seed ${seed}, `, at, at + stretch);
  await writeFile(path, image);
}

export interface Dice {
  /** Whole number in [from, to). */
  between(from: number, to: number): number;
  pick<T>(list: readonly T[]): T;
}

/** A small seeded generator (mulberry32). */
export function diceOf(seed: number): Dice {
  let state = seed >>> 0;
  const fraction = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const between = (from: number, to: number): number => from + Math.floor(fraction() * (to - from));
  return {
    between,
    pick(list) {
      const found = list[between(0, list.length)];
      if (found === undefined) throw new Error('nothing to pick from');
      return found;
    },
  };
}

/** The seed of a run: `TIDEMARK_TEST_SEED`, or a fresh one; printed, so that a failure can be played again. */
export function seedOfRun(what: string): number {
  const seed = Number(process.env['TIDEMARK_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
  process.stderr.write(`${what}: TIDEMARK_TEST_SEED=${seed}\n`);
  return seed;
}

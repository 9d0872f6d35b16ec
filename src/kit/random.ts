/**
 * Randomness, as a thing that is handed in. Keys, salts and identifiers always come from the operating system's generator;
 * tests may hand in a seeded one for jitter and ids.
 */
import { randomBytes } from 'node:crypto';

export interface Random {
  /** `length` fresh bytes in a buffer of their own. */
  bytes(length: number): Buffer;
  /** Uniform in [0, 1). */
  fraction(): number;
}

export const systemRandom: Random = {
  bytes: (length) => randomBytes(length),
  fraction: () => randomBytes(4).readUInt32LE(0) / 2 ** 32,
};

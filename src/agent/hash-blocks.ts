/**
 * Hashing blocks of a disk outside the sender: what is asked (runs of blocks), and the plain way to answer it, on this thread and through the
 * capture. `hash-pool.ts` is the fast way.
 */
import type { CaptureDisk } from '../capture/contract.ts';
import type { Clock } from '../kit/clock.ts';
import { leafOf } from '../kernels/hash.ts';
import { MiB } from '../kit/sizes.ts';
import { limits } from '../limits.ts';

/** Blocks [first, first + count). */
export interface Run {
  readonly first: number;
  readonly count: number;
}

export interface BlockHasher {
  /** Calls worth having under way at once. */
  readonly width: number;
  /**
   * Leaves of all blocks of the runs, 32 bytes each, one after another. Each block is read at some instant during the call, not under a cut.
   * @throws whatever reading the disk throws.
   */
  hash(capture: CaptureDisk, leafKey: Uint8Array, runs: readonly Run[]): Promise<Uint8Array>;
}

const { leafBytes } = limits.disk;

export function blocksIn(runs: readonly Run[]): number {
  return runs.reduce((sum, { count }) => sum + count, 0);
}

/** On this thread, through `readBlocks`; lets others in between. */
export function inlineHasher(clock: Clock): BlockHasher {
  return {
    width: 1,
    async hash(capture, leafKey, runs) {
      const { blockSize } = capture.geometry;
      const leaves = new Uint8Array(blocksIn(runs) * leafBytes);
      const block = Buffer.allocUnsafeSlow(blockSize);
      let done = 0;
      for (const { first, count } of runs) {
        for (let number = first; number < first + count; number += 1) {
          await capture.readBlocks(number, block);
          leaves.set(leafOf(leafKey, block), done * leafBytes);
          done += 1;
          if ((done * blockSize) % MiB === 0) await clock.turn();
        }
      }
      return leaves;
    },
  };
}

/**
 * Which pages of which blocks changed: block → 16-bit page mask. Kept in chunks of 1,024 blocks (2 KiB each), allocated when
 * first touched, so a quiet disk costs nothing. Pure memory; what makes it durable is the change log in `capture/`.
 */
import { fullMask } from './page-mask.ts';

const chunkBlocks = 1024;

export class ChangeSet {
  #chunks = new Map<number, Uint16Array>();
  #blocks = 0;
  readonly blockCount: number;

  constructor(blockCount: number) {
    this.blockCount = blockCount;
  }

  /** Dirty blocks. */
  get size(): number {
    return this.#blocks;
  }

  get(block: number): number {
    return this.#chunks.get(Math.floor(block / chunkBlocks))?.[block % chunkBlocks] ?? 0;
  }

  /** Adds the pages of `mask`. */
  add(block: number, mask: number): void {
    if (mask === 0) return;
    const key = Math.floor(block / chunkBlocks);
    let chunk = this.#chunks.get(key);
    if (!chunk) {
      chunk = new Uint16Array(chunkBlocks);
      this.#chunks.set(key, chunk);
    }
    const index = block % chunkBlocks;
    const before = chunk[index] ?? 0;
    if (before === 0) this.#blocks += 1;
    chunk[index] = before | mask;
  }

  /** Forgets the block. */
  delete(block: number): void {
    const chunk = this.#chunks.get(Math.floor(block / chunkBlocks));
    if (!chunk || chunk[block % chunkBlocks] === 0) return;
    chunk[block % chunkBlocks] = 0;
    this.#blocks -= 1;
  }

  addAll(): void {
    for (let block = 0; block < this.blockCount; block += 1) this.add(block, fullMask);
  }

  /** Adds everything `other` holds. */
  merge(other: ChangeSet): void {
    for (const [block, mask] of other.entries()) this.add(block, mask);
  }

  clear(): void {
    this.#chunks.clear();
    this.#blocks = 0;
  }

  /** Dirty blocks in ascending order from `from`. Blocks added behind the iterator are not visited. */
  *entries(from = 0): Generator<readonly [block: number, mask: number]> {
    const keys = [...this.#chunks.keys()].sort((a, b) => a - b);
    for (const key of keys) {
      if ((key + 1) * chunkBlocks <= from) continue;
      const chunk = this.#chunks.get(key);
      if (!chunk) continue;
      for (let index = 0; index < chunkBlocks; index += 1) {
        const mask = chunk[index] ?? 0;
        const block = key * chunkBlocks + index;
        if (mask !== 0 && block >= from) yield [block, mask];
      }
    }
  }
}

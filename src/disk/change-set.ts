/**
 * Which pages of which blocks changed: block → 16-bit page mask. Kept in parts of 65,536 blocks that exist while something in them is dirty: a
 * small table where little is (`sparse-masks.ts`), a bitmap and packed masks where much is (`dense-masks.ts`). At 16 million blocks, 1 TiB of
 * 64 KiB: about 1 MiB for 1 % at random, 20 MiB for one half, 2.1 MiB for everything as a whole.
 *
 * Pure memory; what makes it durable is the change log in `capture/`. An iteration keeps no state but the block it is at, so it may go on
 * whatever is added or cleared meanwhile, and starting one in the middle costs nothing.
 *
 * Rejected: an array of masks per 1,024 blocks (a random 1 % touches all of them: 32 MiB); Roaring bitmaps (they have no values).
 */
import { DenseMasks } from './dense-masks.ts';
import { fullMask, pageCount } from './page-mask.ts';
import { maskedBlocks, sparseBlocksMax, SparseMasks, type Masks } from './sparse-masks.ts';

/** Both in one: block numbers have up to 32 bits. */
const partOf = (block: number): number => block >>> 16;
const indexOf = (block: number): number => block & 0xffff;

export class ChangeSet {
  readonly blockCount: number;
  readonly #parts: (Masks | null)[];
  #blocks = 0;
  #pages = 0;

  constructor(blockCount: number) {
    this.blockCount = blockCount;
    this.#parts = Array.from({ length: Math.ceil(blockCount / maskedBlocks) }, () => null);
  }

  /** Dirty blocks. */
  get size(): number {
    return this.#blocks;
  }

  /** Dirty pages. */
  get pages(): number {
    return this.#pages;
  }

  get(block: number): number {
    return this.#parts[partOf(block)]?.get(indexOf(block)) ?? 0;
  }

  /** ORs the masks of the blocks from `first` on into `into`; they lie in one part (65,536 blocks). */
  orInto(first: number, into: Uint16Array): void {
    this.#parts[partOf(first)]?.orInto(indexOf(first), into);
  }

  /** Adds the pages of `mask`. */
  add(block: number, mask: number): void {
    if (mask === 0) return;
    const before = this.#partFor(partOf(block)).add(indexOf(block), mask);
    if (before === 0) this.#blocks += 1;
    this.#pages += pageCount(mask & ~before);
  }

  addAll(): void {
    for (let part = 0; part < this.#parts.length; part += 1) {
      const all = new DenseMasks();
      all.fill(Math.min(maskedBlocks, this.blockCount - part * maskedBlocks));
      this.#parts[part] = all;
    }
    this.#blocks = this.blockCount;
    this.#pages = this.blockCount * pageCount(fullMask);
  }

  /** Moves everything out of `other` into this one. */
  absorb(other: ChangeSet): void {
    for (const [part, theirs] of other.#parts.entries()) {
      if (!theirs) continue;
      const first = part * maskedBlocks;
      if (!this.#parts[part]) this.#parts[part] = new SparseMasks();
      theirs.each((index, mask) => this.add(first + index, mask));
      other.#parts[part] = null;
    }
    other.clear();
  }

  clear(): void {
    this.#parts.fill(null);
    this.#blocks = 0;
    this.#pages = 0;
  }

  /** Forgets the blocks in [from, to); what that costs depends on the range, not on the set. */
  clearRange(from: number, to: number): void {
    const last = Math.min(to, this.blockCount);
    for (let at = from; at < last;) {
      const part = partOf(at);
      const end = Math.min(last, (part + 1) * maskedBlocks);
      this.#clearInPart(part, at - part * maskedBlocks, end - part * maskedBlocks);
      at = end;
    }
  }

  /** First dirty block in [from, to), or −1. */
  next(from: number, to = this.blockCount): number {
    for (let at = from; at < to;) {
      const part = partOf(at);
      const first = part * maskedBlocks;
      const found = this.#parts[part]?.next(at - first, Math.min(to - first, maskedBlocks)) ?? -1;
      if (found !== -1) return first + found;
      at = first + maskedBlocks;
    }
    return -1;
  }

  /** Dirty blocks in ascending order from `from`, as they are when the iteration comes to them. */
  *entries(from = 0): Generator<readonly [block: number, mask: number]> {
    for (let block = this.next(from); block !== -1; block = this.next(block + 1)) yield [block, this.get(block)];
  }

  /** Dirty blocks in no order; nothing may be added or cleared meanwhile. */
  each(visit: (block: number) => void): void {
    for (const [part, masks] of this.#parts.entries()) masks?.each((index) => visit(part * maskedBlocks + index));
  }

  #partFor(part: number): Masks {
    const found = this.#parts[part] ?? new SparseMasks();
    if (found.size < sparseBlocksMax || found instanceof DenseMasks) {
      this.#parts[part] = found;
      return found;
    }
    const dense = new DenseMasks();
    found.each((index, mask) => dense.add(index, mask));
    this.#parts[part] = dense;
    return dense;
  }

  #clearInPart(part: number, from: number, to: number): void {
    const masks = this.#parts[part];
    if (!masks) return;
    const before = masks.size;
    for (let index = masks.next(from, to); index !== -1; index = masks.next(index + 1, to))
      this.#pages -= pageCount(masks.get(index));
    masks.clear(from, to);
    this.#blocks -= before - masks.size;
    if (masks.size === 0) this.#parts[part] = null;
  }
}

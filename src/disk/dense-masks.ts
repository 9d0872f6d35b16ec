/**
 * Page masks of 65,536 blocks of which many are dirty: a bitmap of the dirty ones, and the masks of dirty blocks packed in their order, per group of
 * 8,192 blocks. A group whose dirty blocks are all dirty as a whole has no masks at all: a disk that is dirty as a whole costs its bitmap.
 *
 * Invariants:
 *  1. `#masks[group]` is null, or its first `#inGroup[group]` entries are the masks of the group's dirty blocks, ascending, and at least one of
 *     them, `#partial[group]` of them, is not full.
 *  2. `#before[run]` counts the dirty blocks of the group that lie before a run of 256 neighbours: where a block's mask lies is found in few steps.
 */
import { invariant } from '../kit/invariant.ts';
import { fullMask } from './page-mask.ts';
import { maskedBlocks, type Masks } from './sparse-masks.ts';

const groupBlocks = 8192;
const groups = maskedBlocks / groupBlocks;
const runBlocks = 256;
const runs = maskedBlocks / runBlocks;
const runsPerGroup = groupBlocks / runBlocks;
const wordsPerRun = runBlocks / 32;
/** Masks a group's array grows by. */
const growth = 256;

function bitCount(word: number): number {
  let rest = word - ((word >>> 1) & 0x55555555);
  rest = (rest & 0x33333333) + ((rest >>> 2) & 0x33333333);
  return Math.imul((rest + (rest >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** The bits of a word from `from` up to, not including, `to` (0 to 32). */
function bitsBetween(from: number, to: number): number {
  const below = to === 32 ? -1 : (1 << to) - 1;
  return below & (-1 << from);
}

export class DenseMasks implements Masks {
  readonly #bits = new Uint32Array(maskedBlocks / 32);
  readonly #before = new Uint16Array(runs);
  readonly #inGroup = new Uint16Array(groups);
  readonly #partial = new Uint16Array(groups);
  readonly #masks: (Uint16Array | null)[] = Array.from({ length: groups }, () => null);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** The first `count` indexes, as a whole. Only on a new one. */
  fill(count: number): void {
    invariant(this.#size === 0, 'only a new bitmap is filled');
    this.#size = count;
    this.#bits.fill(0xffffffff, 0, count >>> 5);
    if (count % 32 !== 0) this.#bits[count >>> 5] = bitsBetween(0, count % 32);
    for (let group = 0; group < groups; group += 1) {
      const inGroup = Math.max(0, Math.min(groupBlocks, count - group * groupBlocks));
      this.#inGroup[group] = inGroup;
      for (let run = 0; run < runsPerGroup; run += 1)
        this.#before[group * runsPerGroup + run] = Math.min(inGroup, run * runBlocks);
    }
  }

  get(index: number): number {
    if (!this.#has(index)) return 0;
    const masks = this.#masks[index >>> 13];
    return masks ? (masks[this.#rank(index)] ?? 0) : fullMask;
  }

  add(index: number, mask: number): number {
    const group = index >>> 13;
    if (!this.#has(index)) {
      this.#insert(group, index, mask);
      return 0;
    }
    const masks = this.#masks[group];
    if (!masks) return fullMask;
    const at = this.#rank(index);
    const before = masks[at] ?? 0;
    masks[at] = before | mask;
    if (before !== fullMask && (before | mask) === fullMask) this.#lessPartial(group, 1);
    return before;
  }

  next(from: number, to: number): number {
    if (from >= to) return -1;
    let at = from >>> 5;
    let word = (this.#bits[at] ?? 0) & (-1 << (from & 31));
    while (word === 0) {
      at += 1;
      if (at * 32 >= to) return -1;
      word = this.#bits[at] ?? 0;
    }
    const found = at * 32 + 31 - Math.clz32(word & -word);
    return found < to ? found : -1;
  }

  clear(from: number, to: number): void {
    for (let at = from; at < to;) {
      const end = Math.min(to, (Math.floor(at / groupBlocks) + 1) * groupBlocks);
      this.#clearInGroup(at >>> 13, at, end);
      at = end;
    }
  }

  orInto(first: number, into: Uint16Array): void {
    const end = first + into.length;
    let rank = -1;
    for (let index = this.next(first, end); index !== -1; index = this.next(index + 1, end)) {
      const masks = this.#masks[index >>> 13];
      if (rank === -1 || index % groupBlocks === 0) rank = this.#rank(index);
      into[index - first] = (into[index - first] ?? 0) | (masks ? (masks[rank] ?? 0) : fullMask);
      rank += 1;
    }
  }

  each(visit: (index: number, mask: number) => void): void {
    for (let group = 0; group < groups; group += 1) {
      const masks = this.#masks[group];
      const end = (group + 1) * groupBlocks;
      let rank = 0;
      for (let index = this.next(group * groupBlocks, end); index !== -1; index = this.next(index + 1, end)) {
        visit(index, masks ? (masks[rank] ?? 0) : fullMask);
        rank += 1;
      }
    }
  }

  #has(index: number): boolean {
    return ((this.#bits[index >>> 5] ?? 0) & (1 << (index & 31))) !== 0;
  }

  /** How many dirty blocks of its group lie before `index`. */
  #rank(index: number): number {
    const word = index >>> 5;
    let rank = this.#before[index >>> 8] ?? 0;
    for (let at = (index >>> 8) * wordsPerRun; at < word; at += 1) rank += bitCount(this.#bits[at] ?? 0);
    return rank + bitCount((this.#bits[word] ?? 0) & ((1 << (index & 31)) - 1));
  }

  #insert(group: number, index: number, mask: number): void {
    const count = this.#inGroup[group] ?? 0;
    let masks = this.#masks[group] ?? null;
    if (masks || mask !== fullMask) {
      masks = this.#withRoom(masks, count);
      this.#masks[group] = masks;
      const at = this.#rank(index);
      masks.copyWithin(at + 1, at, count);
      masks[at] = mask;
      if (mask !== fullMask) this.#partial[group] = (this.#partial[group] ?? 0) + 1;
    }
    this.#bits[index >>> 5] = (this.#bits[index >>> 5] ?? 0) | (1 << (index & 31));
    this.#countFrom(index >>> 8, 1);
    this.#inGroup[group] = count + 1;
    this.#size += 1;
  }

  /** `by` more dirty blocks in `run`: all runs behind it in its group know. */
  #countFrom(run: number, by: number): void {
    const end = (Math.floor(run / runsPerGroup) + 1) * runsPerGroup;
    for (let behind = run + 1; behind < end; behind += 1) this.#before[behind] = (this.#before[behind] ?? 0) + by;
  }

  /** An array with room for one more than `count` masks; without one yet, all `count` are full. */
  #withRoom(masks: Uint16Array | null, count: number): Uint16Array {
    if (masks && masks.length > count) return masks;
    const roomy = new Uint16Array(Math.min(groupBlocks, (Math.floor(count / growth) + 1) * growth));
    if (masks) roomy.set(masks);
    else roomy.fill(fullMask, 0, count);
    return roomy;
  }

  #lessPartial(group: number, by: number): void {
    const left = (this.#partial[group] ?? 0) - by;
    this.#partial[group] = left;
    if (left === 0) this.#masks[group] = null;
  }

  /** [from, to) lies in one group. */
  #clearInGroup(group: number, from: number, to: number): void {
    const first = this.next(from, to);
    if (first === -1) return;
    const rank = this.#masks[group] ? this.#rank(first) : 0;
    const cleared = this.#clearBits(first, to);
    const count = this.#inGroup[group] ?? 0;
    this.#inGroup[group] = count - cleared;
    this.#size -= cleared;
    const masks = this.#masks[group];
    if (!masks) return;
    let partial = 0;
    for (let at = rank; at < rank + cleared; at += 1) if (masks[at] !== fullMask) partial += 1;
    masks.copyWithin(rank, rank + cleared, count);
    this.#lessPartial(group, partial);
  }

  /** Returns how many were set. */
  #clearBits(from: number, to: number): number {
    let cleared = 0;
    for (let index = from; index < to;) {
      const end = Math.min(to, ((index >>> 5) + 1) * 32);
      const word = this.#bits[index >>> 5] ?? 0;
      const gone = word & bitsBetween(index & 31, end - (index >>> 5) * 32);
      const bits = bitCount(gone);
      this.#bits[index >>> 5] = word & ~gone;
      this.#countFrom(index >>> 8, -bits);
      cleared += bits;
      index = end;
    }
    return cleared;
  }
}

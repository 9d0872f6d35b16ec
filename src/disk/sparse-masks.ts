/**
 * Page masks of up to 65,536 blocks of which few are dirty: an open-addressing table of one 32-bit word per dirty block (index in the high half, mask
 * in the low one; 0 is free), 4 to 7 bytes per dirty block. Where many are dirty `dense-masks.ts` takes over; both answer to `Masks`.
 *
 * Invariant: between an entry's home slot and the entry no slot is free; so a look-up may stop at the first free one.
 */

/** Blocks one table or bitmap is about. */
export const maskedBlocks = 65_536;

/** Dirty blocks a table takes; above it a bitmap with packed masks needs no more memory. */
export const sparseBlocksMax = 1536;

const slotsMin = 16;
/** 2³² divided by the golden ratio: spreads neighbours and strides alike. */
const spread = 0x9e3779b1;

/** Index → page mask, within `maskedBlocks` blocks. Masks given are never 0; an index that has none reads 0. */
export interface Masks {
  /** Indexes with a mask. */
  readonly size: number;
  get(index: number): number;
  /** Adds pages; returns the mask before. */
  add(index: number, mask: number): number;
  /** First index with a mask in [from, to), or −1. */
  next(from: number, to: number): number;
  /** Forgets [from, to). */
  clear(from: number, to: number): void;
  /** ORs the masks from `first` on into `into`. */
  orInto(first: number, into: Uint16Array): void;
  /** All entries in no order. */
  each(visit: (index: number, mask: number) => void): void;
}

export class SparseMasks implements Masks {
  #table = new Uint32Array(slotsMin);
  #shift = 32 - Math.log2(slotsMin);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(index: number): number {
    return (this.#table[this.#find(index)] ?? 0) & 0xffff;
  }

  /** Room for a new index is the caller's care: `sparseBlocksMax`. */
  add(index: number, mask: number): number {
    let slot = this.#find(index);
    const entry = this.#table[slot] ?? 0;
    if (entry !== 0) {
      this.#table[slot] = entry | mask;
      return entry & 0xffff;
    }
    if ((this.#size + 1) * 4 > this.#table.length * 3) {
      this.#grow();
      slot = this.#find(index);
    }
    this.#table[slot] = (index << 16) | mask;
    this.#size += 1;
    return 0;
  }

  next(from: number, to: number): number {
    for (let index = from; index < to; index += 1) if (this.#table[this.#find(index)] !== 0) return index;
    return -1;
  }

  clear(from: number, to: number): void {
    for (let index = from; index < to && this.#size > 0; index += 1) this.#delete(index);
  }

  orInto(first: number, into: Uint16Array): void {
    for (let at = 0; at < into.length; at += 1) into[at] = (into[at] ?? 0) | this.get(first + at);
  }

  each(visit: (index: number, mask: number) => void): void {
    for (const entry of this.#table) if (entry !== 0) visit(entry >>> 16, entry & 0xffff);
  }

  /** The slot of `index`, or the free one where it belongs. */
  #find(index: number): number {
    const table = this.#table;
    const last = table.length - 1;
    let slot = Math.imul(index, spread) >>> this.#shift;
    for (let entry = table[slot] ?? 0; entry !== 0 && entry >>> 16 !== index; entry = table[slot] ?? 0)
      slot = (slot + 1) & last;
    return slot;
  }

  /** Closes the gap by moving back what no longer needs to be where it is. */
  #delete(index: number): void {
    const table = this.#table;
    const last = table.length - 1;
    let gap = this.#find(index);
    if (table[gap] === 0) return;
    this.#size -= 1;
    for (let slot = (gap + 1) & last; ; slot = (slot + 1) & last) {
      const entry = table[slot] ?? 0;
      if (entry === 0) break;
      const home = Math.imul(entry >>> 16, spread) >>> this.#shift;
      if (((slot - home) & last) < ((slot - gap) & last)) continue;
      table[gap] = entry;
      gap = slot;
    }
    table[gap] = 0;
  }

  #grow(): void {
    const old = this.#table;
    this.#table = new Uint32Array(old.length * 2);
    this.#shift -= 1;
    for (const entry of old) if (entry !== 0) this.#table[this.#find(entry >>> 16)] = entry;
  }
}

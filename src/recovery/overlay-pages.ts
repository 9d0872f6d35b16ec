/** A set of pages of a disk, in chunks that are made when they are needed: a disk of any size costs what was written of it. Pure. */
import { invariant } from '../kit/invariant.ts';

export const pageBytes = 4096;
/** Bits of one chunk: what a block of the map file holds beside its header (overlay-map.ts). */
export const chunkBytes = 4032;
export const chunkPages = chunkBytes * 8;

export class PageSet {
  readonly #chunks = new Map<number, Uint8Array>();

  has(page: number): boolean {
    const byte = this.#chunks.get(Math.floor(page / chunkPages))?.[(page % chunkPages) >>> 3] ?? 0;
    return (byte & (1 << (page & 7))) !== 0;
  }

  /** Where the run of pages that are as `page` (in, or not in) ends, at most `end`. */
  alike(page: number, end: number): number {
    const wanted = this.has(page);
    const whole = wanted ? 0xff : 0;
    let at = page + 1;
    while (at < end) {
      const chunk = this.#chunks.get(Math.floor(at / chunkPages));
      const within = at % chunkPages;
      if (!chunk) {
        if (wanted) return at;
        at += chunkPages - within;
      } else if ((at & 7) === 0 && chunk[within >>> 3] === whole) at += 8;
      else if ((((chunk[within >>> 3] ?? 0) & (1 << (at & 7))) !== 0) === wanted) at += 1;
      else return at;
    }
    return Math.min(at, end);
  }

  add(from: number, end: number): void {
    this.#change(from, end, true);
  }

  delete(from: number, end: number): void {
    this.#change(from, end, false);
  }

  /** How many of [from, end) are in. */
  count(from: number, end: number): number {
    let found = 0;
    for (let at = from; at < end;) {
      const until = this.alike(at, end);
      if (this.has(at)) found += until - at;
      at = until;
    }
    return found;
  }

  /** Chunks that ever had a page. */
  chunks(): Iterable<number> {
    return this.#chunks.keys();
  }

  /** The bits of a chunk; they are this set's. */
  bits(chunk: number): Uint8Array | undefined {
    return this.#chunks.get(chunk);
  }

  /** Adds what `bits` says; they are copied. */
  addBits(chunk: number, bits: Uint8Array): void {
    const mine = this.#made(chunk);
    for (let index = 0; index < chunkBytes; index += 1) mine[index] = (mine[index] ?? 0) | (bits[index] ?? 0);
  }

  #made(chunk: number): Uint8Array {
    const there = this.#chunks.get(chunk) ?? new Uint8Array(chunkBytes);
    this.#chunks.set(chunk, there);
    return there;
  }

  #change(from: number, end: number, to: boolean): void {
    invariant(from <= end, 'a range of pages');
    for (let at = from; at < end;) {
      const chunk = Math.floor(at / chunkPages);
      const start = chunk * chunkPages;
      const until = Math.min(end, start + chunkPages);
      const bits = to ? this.#made(chunk) : this.#chunks.get(chunk);
      if (bits) setBits(bits, at - start, until - start, to);
      at = until;
    }
  }
}

function setBits(bits: Uint8Array, from: number, end: number, to: boolean): void {
  for (let at = from; at < end;) {
    if ((at & 7) === 0 && end - at >= 8) {
      const bytesEnd = end >>> 3;
      bits.fill(to ? 0xff : 0, at >>> 3, bytesEnd);
      at = bytesEnd << 3;
      continue;
    }
    const mask = 1 << (at & 7);
    const before = bits[at >>> 3] ?? 0;
    bits[at >>> 3] = to ? before | mask : before & ~mask;
    at += 1;
  }
}

/**
 * The content of a simulated file, and what a power failure makes of writes that were never synced (SQLite's crash-test method): each is
 * applied, dropped, or torn at sectors that keep the old bytes, take the new ones, or hold neither.
 *
 * Assumed, as SQLite does (powersafe overwrite): what is on its way to the disk harms no byte that it leaves as it is. A page cache writes
 * whole pages, so no file can be appended to without that. Everything else may happen in any order: what was written last may be
 * there without what was written first.
 */

/** Repeatable numbers; mulberry32. */
export class Dice {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  /** Uniform in [0, 1). */
  fraction(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }
  below(limit: number): number {
    return Math.floor(this.fraction() * limit);
  }
}

/** By which a power failure lets nothing through that was not synced. */
export const worstDice: Dice = new (class extends Dice {
  override fraction(): number {
    return 0;
  }
})(0);

const pageBytes = 4096;
const noPage = Buffer.alloc(pageBytes);

/** Sparse bytes; a copy shares the pages, which never change once they are in. */
export class SparseBytes {
  size = 0;
  readonly #pages: Map<number, Buffer>;

  constructor(pages?: ReadonlyMap<number, Buffer>, size = 0) {
    this.#pages = new Map(pages);
    this.size = size;
  }

  static of(bytes: Uint8Array): SparseBytes {
    const made = new SparseBytes();
    made.write(bytes, 0);
    return made;
  }

  copy(): SparseBytes {
    return new SparseBytes(this.#pages, this.size);
  }

  /** Fills `into`; returns the bytes there were. */
  read(into: Uint8Array, position: number): number {
    const length = Math.max(0, Math.min(into.byteLength, this.size - position));
    // Most of a disk is holes.
    into.fill(0, 0, length);
    for (let done = 0; done < length;) {
      const at = position + done;
      const within = at % pageBytes;
      const bytes = Math.min(length - done, pageBytes - within);
      const page = this.#pages.get(Math.floor(at / pageBytes));
      if (page) into.set(bytes === pageBytes ? page : page.subarray(within, within + bytes), done);
      done += bytes;
    }
    return length;
  }

  /** Fills all of `into`, with zeros behind the end, and answers it. */
  padded(into: Buffer, position: number): Buffer {
    return into.fill(0, this.read(into, position));
  }

  write(bytes: Uint8Array, position: number): void {
    this.size = Math.max(this.size, position + bytes.byteLength);
    for (let done = 0; done < bytes.byteLength;) {
      const at = position + done;
      const within = at % pageBytes;
      const length = Math.min(bytes.byteLength - done, pageBytes - within);
      const page = Buffer.from(this.#pages.get(Math.floor(at / pageBytes)) ?? noPage);
      page.set(bytes.subarray(done, done + length), within);
      this.#pages.set(Math.floor(at / pageBytes), page);
      done += length;
    }
  }

  zero(position: number, length: number): void {
    const end = Math.min(position + length, this.size);
    for (const index of this.#pages.keys()) {
      const start = index * pageBytes;
      const [from, to] = [Math.max(position, start), Math.min(end, start + pageBytes)];
      if (from >= to) continue;
      if (to - from === pageBytes) this.#pages.delete(index);
      else this.write(noPage.subarray(0, to - from), from);
    }
  }

  resize(size: number): void {
    if (size < this.size) this.zero(size, this.size - size);
    this.size = size;
  }

  /** All of it. */
  bytes(): Buffer {
    const whole = Buffer.alloc(this.size);
    this.read(whole, 0);
    return whole;
  }

  /** Numbers of the 4 KiB pages in which this and `other` differ. */
  differences(other: SparseBytes): number[] {
    const found: number[] = [];
    for (const index of new Set([...this.#pages.keys(), ...other.#pages.keys()])) {
      const [mine, theirs] = [this.#pages.get(index) ?? noPage, other.#pages.get(index) ?? noPage];
      if (mine !== theirs && !mine.equals(theirs)) found.push(index);
    }
    return found;
  }
}

export type Change =
  | { readonly kind: 'write'; readonly position: number; readonly bytes: Buffer }
  | { readonly kind: 'zero'; readonly position: number; readonly length: number }
  | { readonly kind: 'size'; readonly size: number };

export function applyChange(to: SparseBytes, change: Change): void {
  if (change.kind === 'size') to.resize(change.size);
  else if (change.kind === 'zero') to.zero(change.position, change.length);
  else to.write(change.bytes, change.position);
}

/** Which of a sequence of un-synced changes a power failure lets through, and how whole. */
export type Fate = 'applied' | 'dropped' | 'garbled';

/** None, all, a prefix whose last one is garbled, or each by its own lot. */
export function fatesOf(count: number, dice: Dice): Fate[] {
  const mode = dice.below(5);
  const until = mode === 2 ? dice.below(count + 1) : 0;
  return Array.from({ length: count }, (_, index) => {
    if (mode === 0) return 'dropped';
    if (mode === 1) return 'applied';
    if (mode === 2) return index < until ? 'applied' : index === until ? 'garbled' : 'dropped';
    return (['applied', 'dropped', 'garbled'] as const)[dice.below(3)] ?? 'dropped';
  });
}

/** What is on the disk after the power failed. */
export function survivingBytes(durable: SparseBytes, pending: readonly Change[], dice: Dice): SparseBytes {
  if (pending.length === 0) return durable.copy();
  const bytes = durable.copy();
  const fates = fatesOf(pending.length, dice);
  for (const [index, change] of pending.entries()) {
    const fate = fates[index];
    if (fate === 'dropped') continue;
    if (fate === 'applied' || change.kind !== 'write') applyChange(bytes, change);
    else tear(bytes, change.position, change.bytes, dice);
  }
  return bytes;
}

/** Sector by sector: the new bytes, the old ones (zeros past the old end), or others. */
function tear(into: SparseBytes, position: number, bytes: Buffer, dice: Dice): void {
  const sectorBytes = dice.below(3) === 0 ? 4096 : 512;
  const inOrder = dice.below(2) === 0;
  const breaksAt = dice.below(bytes.byteLength + 1);
  // The size may have grown though the data never came.
  if (dice.below(2) === 0) into.size = Math.max(into.size, position + bytes.byteLength);
  for (let at = 0; at < bytes.byteLength;) {
    const length = Math.min(bytes.byteLength - at, sectorBytes - ((position + at) % sectorBytes));
    const lot = inOrder ? (at + length <= breaksAt ? 0 : at <= breaksAt ? dice.below(3) : 1) : dice.below(3);
    const sector = bytes.subarray(at, at + length);
    if (lot === 0) into.write(sector, position + at);
    if (lot === 2) into.write(garbled(into, sector, position + at, dice), position + at);
    at += length;
  }
}

/** Neither old nor new, where these differ: anything, zeros, or some bytes old and some new. */
function garbled(old: SparseBytes, sector: Buffer, position: number, dice: Dice): Buffer {
  const bytes = Buffer.alloc(sector.byteLength);
  const there = old.read(bytes, position);
  const kind = dice.below(3);
  for (const [index, byte] of sector.entries()) {
    if (index < there && bytes[index] === byte) continue;
    if (kind === 0) bytes[index] = dice.below(256);
    else if (kind === 1) bytes[index] = 0;
    else if (dice.below(2) === 0) bytes[index] = byte;
  }
  return bytes;
}

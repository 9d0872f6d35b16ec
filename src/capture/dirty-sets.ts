/**
 * The three sets of a disk (contract.ts): current, sending, unacknowledged. Pure memory; every move is synchronous.
 *
 * Invariant: only `forget` and `forgetSending` shrink the union of the three; the change log may lag behind it with a superset.
 */
import { invariant } from '../kit/invariant.ts';
import { fullMask, maskOfRange } from '../disk/page-mask.ts';
import type { Geometry } from '../disk/geometry.ts';
import { regionOfBlock, type LogLayout } from './log-layout.ts';
import { PageSet } from './page-set.ts';

export class DirtySets {
  readonly #layout: LogLayout;
  readonly #geometry: Geometry;
  #current: PageSet;
  #sending: PageSet;
  #unacknowledged: PageSet;

  constructor(layout: LogLayout) {
    this.#layout = layout;
    this.#geometry = layout.geometry;
    this.#current = new PageSet(layout.geometry);
    this.#sending = new PageSet(layout.geometry);
    this.#unacknowledged = new PageSet(layout.geometry);
  }

  get current(): PageSet {
    return this.#current;
  }

  get uncommittedBytes(): number {
    return this.#current.bytes + this.#sending.bytes + this.#unacknowledged.bytes;
  }

  get sending(): PageSet {
    return this.#sending;
  }

  /** Adds what [offset, offset + length) touches to current. */
  markRange(offset: number, length: number): void {
    const { blockSize } = this.#geometry;
    const last = Math.floor((offset + length - 1) / blockSize);
    for (let block = Math.floor(offset / blockSize); block <= last; block += 1) {
      this.#current.add(block, maskOfRange(this.#geometry, block, offset, length));
    }
  }

  markAll(): void {
    for (let block = 0; block < this.#geometry.blockCount; block += 1) this.#current.add(block, fullMask);
  }

  /** All blocks of a region. */
  markRegion(region: number): void {
    const { blocksPerRegion } = this.#layout;
    const end = Math.min((region + 1) * blocksPerRegion, this.#geometry.blockCount);
    for (let block = region * blocksPerRegion; block < end; block += 1) this.#current.add(block, fullMask);
  }

  /** Masks as a chunk stores them. */
  addMasks(region: number, masks: Uint16Array): void {
    const first = region * this.#layout.blocksPerRegion;
    const end = Math.min(this.#layout.blocksPerRegion, this.#geometry.blockCount - first);
    for (let index = 0; index < end; index += 1) this.#current.add(first + index, masks[index] ?? 0);
  }

  /** The union of the three sets in one region, as a chunk stores it. */
  unionOf(region: number, into: Uint16Array): void {
    const first = region * this.#layout.blocksPerRegion;
    for (let index = 0; index < this.#layout.blocksPerRegion; index += 1) {
      const block = first + index;
      into[index] = this.#current.get(block) | this.#sending.get(block) | this.#unacknowledged.get(block);
    }
  }

  swap(): number {
    invariant(this.#sending.size === 0, 'sending is empty before a swap');
    [this.#current, this.#sending] = [this.#sending, this.#current];
    return this.#sending.size;
  }

  endSending(): void {
    if (this.#unacknowledged.size === 0) {
      [this.#sending, this.#unacknowledged] = [this.#unacknowledged, this.#sending];
      return;
    }
    this.#unacknowledged.merge(this.#sending);
    this.#sending.clear();
  }

  /** Empties unacknowledged and reports each region that shrank, ascending. */
  forget(shrank: (region: number) => void): void {
    let reported = -1;
    for (const [block] of this.#unacknowledged.entries()) {
      const region = regionOfBlock(this.#layout, block);
      if (region !== reported) shrank(region);
      reported = region;
    }
    this.#unacknowledged.clear();
  }

  /** Drops what sending has in [from, to), reporting each region that shrank, ascending. */
  forgetSending(from: number, to: number, shrank: (region: number) => void): void {
    let reported = -1;
    for (const [block] of this.#sending.entries(from)) {
      if (block >= to) break;
      this.#sending.delete(block);
      const region = regionOfBlock(this.#layout, block);
      if (region !== reported) shrank(region);
      reported = region;
    }
  }

  giveUp(): void {
    this.#current.merge(this.#sending);
    this.#current.merge(this.#unacknowledged);
    this.#sending.clear();
    this.#unacknowledged.clear();
  }
}

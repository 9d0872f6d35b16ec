/**
 * The three sets of a disk (contract.ts): current, sending, unacknowledged. Pure memory; every move is synchronous.
 *
 * Invariant: only `forget` and `forgetSending` shrink the union of the three; the change log may lag behind it with a superset.
 */
import { invariant } from '../kit/invariant.ts';
import { ChangeSet } from '../disk/change-set.ts';
import type { Geometry } from '../disk/geometry.ts';
import { fullMask, maskOfRange } from '../disk/page-mask.ts';
import { regionOfBlock, type LogLayout } from './log-layout.ts';

export class DirtySets {
  readonly #layout: LogLayout;
  readonly #geometry: Geometry;
  #current: ChangeSet;
  #sending: ChangeSet;
  #unacknowledged: ChangeSet;
  #changedPages = 0;

  constructor(layout: LogLayout) {
    this.#layout = layout;
    this.#geometry = layout.geometry;
    this.#current = new ChangeSet(layout.geometry.blockCount);
    this.#sending = new ChangeSet(layout.geometry.blockCount);
    this.#unacknowledged = new ChangeSet(layout.geometry.blockCount);
  }

  get current(): ChangeSet {
    return this.#current;
  }

  get currentBytes(): number {
    return this.#current.pages * this.#geometry.pageSize;
  }

  /** What ranges that were marked have added to current so far. */
  get changedBytes(): number {
    return this.#changedPages * this.#geometry.pageSize;
  }

  get uncommittedBytes(): number {
    return (this.#current.pages + this.#sending.pages + this.#unacknowledged.pages) * this.#geometry.pageSize;
  }

  get sending(): ChangeSet {
    return this.#sending;
  }

  /** Adds what [offset, offset + length) touches to current. */
  markRange(offset: number, length: number): void {
    const { blockSize } = this.#geometry;
    const last = Math.floor((offset + length - 1) / blockSize);
    const before = this.#current.pages;
    for (let block = Math.floor(offset / blockSize); block <= last; block += 1) {
      this.#current.add(block, maskOfRange(this.#geometry, block, offset, length));
    }
    this.#changedPages += this.#current.pages - before;
  }

  markAll(): void {
    this.#current.addAll();
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
    into.fill(0);
    this.#current.orInto(first, into);
    this.#sending.orInto(first, into);
    this.#unacknowledged.orInto(first, into);
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
    this.#unacknowledged.absorb(this.#sending);
  }

  /** Empties unacknowledged and reports the region of each of its blocks, in no order. */
  forget(shrank: (region: number) => void): void {
    this.#unacknowledged.each((block) => shrank(regionOfBlock(this.#layout, block)));
    this.#unacknowledged.clear();
  }

  /** Drops what sending has in [from, to), reporting the region of each block dropped. What it costs depends on the range alone. */
  forgetSending(from: number, to: number, shrank: (region: number) => void): void {
    for (let block = this.#sending.next(from, to); block !== -1; block = this.#sending.next(block + 1, to))
      shrank(regionOfBlock(this.#layout, block));
    this.#sending.clearRange(from, to);
  }

  giveUp(): void {
    this.#current.absorb(this.#sending);
    this.#current.absorb(this.#unacknowledged);
  }
}

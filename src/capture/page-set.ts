/** A set of changed pages that knows its size in bytes: `ChangeSet` plus a count of pages. */
import { ChangeSet } from '../disk/change-set.ts';
import { pageCount } from '../disk/page-mask.ts';
import type { Geometry } from '../disk/geometry.ts';

export class PageSet {
  readonly #set: ChangeSet;
  readonly #pageSize: number;
  #pages = 0;

  constructor(geometry: Geometry) {
    this.#set = new ChangeSet(geometry.blockCount);
    this.#pageSize = geometry.pageSize;
  }

  /** Blocks. */
  get size(): number {
    return this.#set.size;
  }

  /** Bytes, by page masks. */
  get bytes(): number {
    return this.#pages * this.#pageSize;
  }

  get(block: number): number {
    return this.#set.get(block);
  }

  add(block: number, mask: number): void {
    const fresh = mask & ~this.#set.get(block);
    if (fresh === 0) return;
    this.#pages += pageCount(fresh);
    this.#set.add(block, fresh);
  }

  delete(block: number): void {
    this.#pages -= pageCount(this.#set.get(block));
    this.#set.delete(block);
  }

  merge(other: PageSet): void {
    for (const [block, mask] of other.entries()) this.add(block, mask);
  }

  clear(): void {
    this.#set.clear();
    this.#pages = 0;
  }

  entries(from = 0): Generator<readonly [block: number, mask: number]> {
    return this.#set.entries(from);
  }
}

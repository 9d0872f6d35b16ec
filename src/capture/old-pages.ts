/**
 * Copy-before-write for one cut of one disk: keeps the old content of pages that are about to change while their block of *sending* is
 * unread. One object per cut; it ends with it.
 *
 * Invariants:
 *  1. A write is issued only after every page it touches in an unread block of sending was saved, or the cut was void. Writers of the same
 *     page wait for the same save.
 *  2. A reader reads the image first and lays the saved pages over it afterwards. A page saved before that moment is laid over; one
 *     saved later has not been written yet. Either way the block is as of the cut.
 *  3. Memory first, then the scratch file; when both are at their bound, or the scratch fails, the cut is void and writers go on.
 *  4. Pages kept ≤ memoryBytesMax in memory and ≤ scratchBytesMax in the file.
 */
import { messageOf, Problem } from '../kit/problem.ts';
import { ChangeSet } from '../disk/change-set.ts';
import { fullMask, maskOfRange, pageCount } from '../disk/page-mask.ts';
import type { Geometry } from '../disk/geometry.ts';
import type { File } from '../posix/files.ts';

export interface OldPagesOptions {
  readonly geometry: Geometry;
  readonly image: File;
  readonly sending: ChangeSet;
  readonly memoryBytesMax: number;
  readonly scratchBytesMax: number;
  /** Opens an empty file that vanishes when it is closed. */
  readonly openScratch: () => Promise<File>;
}

interface Save {
  readonly mask: number;
  readonly done: Promise<void>;
}

/** What is kept of one block: bytes, or where in the scratch file. */
interface Kept {
  saved: number;
  /** True once a reader took it, or the cut ended: late saves are dropped. */
  taken: boolean;
  memoryBytes: number;
  readonly saves: Save[];
  readonly pages: (Uint8Array | { readonly scratchAt: number } | undefined)[];
}

export class OldPages {
  readonly #options: OldPagesOptions;
  readonly #kept = new Map<number, Kept>();
  readonly #read: ChangeSet;
  #memoryBytes = 0;
  #scratchBytes = 0;
  #scratch: Promise<File> | null = null;
  #void: string | null = null;
  #ended = false;

  constructor(options: OldPagesOptions) {
    this.#options = options;
    this.#read = new ChangeSet(options.geometry.blockCount);
  }

  get voidReason(): string | null {
    return this.#void;
  }

  /** Bytes kept now, in memory and in the scratch file. */
  get keptBytes(): number {
    return this.#memoryBytes + this.#scratchBytes;
  }

  /** Whether every block of sending was read. */
  get allRead(): boolean {
    return this.#read.size === this.#options.sending.size;
  }

  /** Whether a block of [offset, offset + length) is still to be read as of the cut: then `save` must be asked. */
  isUnread(offset: number, length: number): boolean {
    if (this.#void !== null || this.#ended || this.allRead) return false;
    const { geometry, sending } = this.#options;
    const last = Math.floor((offset + length - 1) / geometry.blockSize);
    for (let block = Math.floor(offset / geometry.blockSize); block <= last; block += 1)
      if (sending.get(block) !== 0 && this.#read.get(block) === 0) return true;
    return false;
  }

  /** Saves what [offset, offset + length) is about to change; `undefined` when there is nothing to save. Never rejects. */
  save(offset: number, length: number): Promise<void> | undefined {
    if (this.#void !== null || this.#ended || this.allRead) return undefined;
    const { geometry, sending } = this.#options;
    const waits: Promise<void>[] = [];
    const last = Math.floor((offset + length - 1) / geometry.blockSize);
    for (let block = Math.floor(offset / geometry.blockSize); block <= last; block += 1) {
      if (sending.get(block) !== 0 && this.#read.get(block) === 0)
        this.#saveBlock(block, maskOfRange(geometry, block, offset, length), waits);
    }
    return waits.length === 0 ? undefined : Promise.all(waits).then(() => undefined);
  }

  /**
   * Makes `into`, just read from the image, the block as of the cut, and forgets what was kept of it.
   * @throws Problem `cut-void`.
   */
  async settle(block: number, into: Uint8Array): Promise<void> {
    this.#refuseVoid();
    this.#read.add(block, fullMask);
    const kept = this.#kept.get(block);
    if (!kept) return;
    kept.taken = true;
    this.#kept.delete(block);
    this.#memoryBytes -= kept.memoryBytes;
    const { pageSize } = this.#options.geometry;
    for (let page = 0; page < kept.pages.length; page += 1) {
      const old = kept.pages[page];
      if (old === undefined || (kept.saved & (1 << page)) === 0) continue;
      const at = into.subarray(page * pageSize, (page + 1) * pageSize);
      if (old instanceof Uint8Array) at.set(old);
      else await this.#readScratch(old.scratchAt, at);
    }
  }

  /** Refuses a read for a cut that can not give it. @throws Problem `cut-void`. */
  #refuseVoid(): void {
    if (this.#void !== null || this.#ended) {
      throw new Problem('cut-void', `the cut is void: ${this.#void ?? 'it was given up'}`, { retryable: true });
    }
  }

  /** The cut is over. Idempotent. */
  async end(): Promise<void> {
    this.#ended = true;
    this.#drop();
    const scratch = this.#scratch;
    this.#scratch = null;
    try {
      await (await scratch)?.close();
    } catch {
      // It never opened, or its space is freed with the process: nothing is lost with a scratch file.
    }
  }

  #drop(): void {
    for (const kept of this.#kept.values()) kept.taken = true;
    this.#kept.clear();
    this.#memoryBytes = 0;
  }

  #makeVoid(reason: string): void {
    if (this.#void !== null || this.#ended) return;
    this.#void = reason;
    this.#drop();
  }

  #saveBlock(block: number, mask: number, waits: Promise<void>[]): void {
    let kept = this.#kept.get(block);
    if (!kept) {
      kept = { saved: 0, taken: false, memoryBytes: 0, saves: [], pages: [] };
      this.#kept.set(block, kept);
    }
    let fresh = mask & ~kept.saved;
    for (const save of kept.saves) {
      if ((save.mask & fresh) === 0) continue;
      waits.push(save.done);
      fresh &= ~save.mask;
    }
    if (fresh === 0) return;
    const done = this.#keep(kept, block, fresh).catch((error: unknown) =>
      this.#makeVoid(`an old page could not be kept: ${messageOf(error)}`),
    );
    kept.saves.push({ mask: fresh, done });
    waits.push(done);
  }

  /** Reads the old pages of `mask` and keeps them. */
  async #keep(kept: Kept, block: number, mask: number): Promise<void> {
    const { geometry, image, memoryBytesMax, scratchBytesMax } = this.#options;
    const bytes = pageCount(mask) * geometry.pageSize;
    const inMemory = this.#memoryBytes + bytes <= memoryBytesMax;
    const scratchAt = this.#scratchBytes;
    if (inMemory) {
      this.#memoryBytes += bytes;
      kept.memoryBytes += bytes;
    } else if (scratchAt + bytes <= scratchBytesMax) {
      this.#scratchBytes += bytes;
    } else {
      this.#makeVoid('copy-before-write reached its bound');
      return;
    }
    const old = new Uint8Array(bytes);
    const pages = pagesOf(mask);
    for (let from = 0; from < pages.length;) {
      let count = 1;
      while ((pages[from + count] ?? -1) === (pages[from] ?? 0) + count) count += 1;
      const position = block * geometry.blockSize + (pages[from] ?? 0) * geometry.pageSize;
      await image.read(old.subarray(from * geometry.pageSize, (from + count) * geometry.pageSize), position);
      from += count;
    }
    if (!inMemory) await (await this.#openScratch()).write([old], scratchAt);
    if (kept.taken) return;
    for (const [index, page] of pages.entries()) {
      const start = index * geometry.pageSize;
      kept.pages[page] = inMemory ? old.subarray(start, start + geometry.pageSize) : { scratchAt: scratchAt + start };
    }
    kept.saved |= mask;
  }

  #openScratch(): Promise<File> {
    if (this.#ended) return Promise.reject(new Problem('cut-void', 'the cut is over'));
    this.#scratch ??= this.#options.openScratch();
    return this.#scratch;
  }

  async #readScratch(position: number, into: Uint8Array): Promise<void> {
    try {
      const got = await (await this.#openScratch()).read(into, position);
      if (got !== into.byteLength) throw new Error('the scratch file is too short');
    } catch (error) {
      this.#makeVoid(`an old page could not be read back: ${messageOf(error)}`);
      this.#refuseVoid();
    }
  }
}

function pagesOf(mask: number): number[] {
  const pages: number[] = [];
  for (let page = 0; page < 16; page += 1) if ((mask & (1 << page)) !== 0) pages.push(page);
  return pages;
}

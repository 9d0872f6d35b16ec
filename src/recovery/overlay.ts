/**
 * A writable disk over a read-only one: what is written goes to the overlay file, at its place, and is read from there from then on; all else
 * is read from the point. Format and rules: FAILOVER.md, overlay-map.ts.
 *
 * Three sets of pages: `mapped`, whose content is in the overlay file; `fresh`, those of them the map file does not name yet; `stored`, whose
 * place in the overlay file may hold bytes, named or not, and so takes space. A mapped page that is not stored is zeros.
 *
 * Invariants:
 *  1. A page is named in the map file after it was synced in the overlay file. So after a crash the map names no page whose content is not there.
 *  2. A flush is answered after overlay, then map, were synced, with all that was written before it was asked for.
 *  3. What touches a common page is done in call order: of a page that is filled from the point nothing that came later is lost.
 *  4. A failed sync is final (C4): no further write or sync of these files, reads go on. Any other failure costs the request alone.
 *  5. A write that would pass the bound fails with ENOSPC and changes nothing.
 */
import { messageOf, Problem } from '../kit/problem.ts';
import { Serial } from '../kit/serial.ts';
import { limits } from '../limits.ts';
import type { Backend, Extent } from '../nbd/backend.ts';
import type { File, Files } from '../posix/files.ts';
import { chunkFileBytes, OverlayMap, type MapFacts } from './overlay-map.ts';
import { chunkPages, pageBytes, PageSet } from './overlay-pages.ts';
import type { OverlaySpace } from './overlay-space.ts';
import { type OverlayTrouble, remedies, whyNoRoom } from './overlay-trouble.ts';
import { RangeTurns } from './overlay-turns.ts';

export interface OverlayPaths {
  readonly overlay: string;
  readonly map: string;
}

export interface OverlayOptions {
  readonly files: Files;
  readonly paths: OverlayPaths;
  /** Number of the point that `base` shows. */
  readonly point: number;
  readonly base: Backend;
  /** Shared by all disks of the failover. */
  readonly space: OverlaySpace;
  /** A sync failed: from now on the disk can only be read. */
  readonly failed?: (problem: Problem) => void;
  /** A request failed because there was no room for it, by the bound or by the file system. */
  readonly full?: (problem: Problem) => void;
}

/** Where the file system can not punch holes, zeros are written in pieces of this size. */
const zeros = Buffer.alloc(1024 * 1024);

/** Empty files, durable with their names. Whatever lies there is replaced. */
export async function createOverlay(files: Files, paths: OverlayPaths, facts: MapFacts): Promise<void> {
  await files.remove(paths.overlay);
  const file = await files.open(paths.overlay, 'exclusive');
  try {
    await file.truncate(facts.diskSize);
    await file.datasync();
  } finally {
    await file.close();
  }
  await OverlayMap.create(files, paths.map, facts);
  await files.syncDirectory(paths.map.slice(0, paths.map.lastIndexOf('/')));
}

export class Overlay implements Backend {
  readonly size: number;
  readonly readOnly = false;
  readonly multiConnection = true;
  readonly preferredBytes = pageBytes;
  readonly #base: Backend;
  readonly #space: OverlaySpace;
  readonly #onFailed: (problem: Problem) => void;
  readonly #onFull: (problem: Problem) => void;
  readonly #file: File;
  readonly #map: OverlayMap;
  readonly #mapped: PageSet;
  readonly #stored: PageSet;
  #fresh = new PageSet();
  readonly #turns = new RangeTurns();
  readonly #syncs = new Serial();
  /** Requests that changed something, and how many of them are durable. */
  #changes = 0;
  #durableChanges = 0;
  #failure: Problem | null = null;
  /** What the last request that needed room did not find. */
  #lack: OverlayTrouble | null = null;

  private constructor(options: OverlayOptions, file: File, map: OverlayMap, mapped: PageSet) {
    const { base, space, failed, full } = options;
    this.size = base.size;
    this.#base = base;
    this.#space = space;
    this.#onFailed = failed ?? ((): void => undefined);
    this.#onFull = full ?? ((): void => undefined);
    this.#file = file;
    this.#map = map;
    this.#mapped = mapped;
    this.#stored = storedPages(file, base.size);
    space.found(this.#stored.count(0, this.#pages) * pageBytes + [...mapped.chunks()].length * chunkFileBytes);
  }

  /** Opens what `createOverlay` made. @throws Problem `damaged`. */
  static async open(options: OverlayOptions): Promise<Overlay> {
    const { files, paths, point, base } = options;
    const facts = { point, diskSize: base.size };
    const file = await files.open(paths.overlay, 'write');
    try {
      if (file.facts().size !== base.size) {
        throw new Problem('damaged', `${paths.overlay} is not as long as the disk`, {
          remedy: 'cancel or clean up this failover, and start another one from a point',
        });
      }
      // What an earlier process could not make durable must not be taken for durable.
      file.dropCacheSync(0, base.size);
      await file.datasync();
      const { map, pages } = await OverlayMap.open(files, paths.map, facts);
      return new Overlay(options, file, map, pages);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Why it takes no writes now; null: it does, as far as is known here. Whether the file system has room again, whoever asks may look. */
  get trouble(): OverlayTrouble | null {
    if (this.#failure) return { why: 'sync', bytes: 0 };
    if (this.#lack?.why === 'space' && this.#space.has(this.#lack.bytes)) return null;
    return this.#lack;
  }

  async read(into: Uint8Array, offset: number): Promise<void> {
    const end = offset + into.byteLength;
    const endPage = Math.ceil(end / pageBytes);
    for (let at = offset; at < end;) {
      const page = Math.floor(at / pageBytes);
      const until = Math.min(end, this.#mapped.alike(page, endPage) * pageBytes);
      const part = into.subarray(at - offset, until - offset);
      if (!this.#mapped.has(page)) await this.#base.read(part, at);
      else if ((await this.#file.read(part, at)) !== part.byteLength)
        throw new Problem('EIO', 'the overlay ends early');
      at = until;
    }
  }

  async write(data: Uint8Array, offset: number, fua: boolean): Promise<void> {
    await this.#change(offset, data.byteLength, () => this.#put(data, offset));
    if (fua) await this.flush();
  }

  async zero(offset: number, length: number, fua: boolean, mayUnmap: boolean): Promise<void> {
    await this.#change(offset, length, () => this.#zero(offset, offset + length, mayUnmap));
    if (fua) await this.flush();
  }

  /** Whoever comes while a sync is under way shares the next one. */
  flush(): Promise<void> {
    const wanted = this.#changes;
    return this.#syncs.run(async () => {
      this.#refuseAfterFailure();
      if (this.#durableChanges < wanted) await this.#sync();
    });
  }

  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    const end = offset + length;
    const endPage = Math.ceil(end / pageBytes);
    const found: { length: number; zero: boolean; hole: boolean }[] = [];
    for (let at = offset; at < end && found.length < limits.nbd.extentsPerReplyMax;) {
      const page = Math.floor(at / pageBytes);
      const until = Math.min(end, this.#mapped.alike(page, endPage) * pageBytes);
      const parts = this.#mapped.has(page) ? this.#ownExtents(at, until) : await this.#base.extents(at, until - at);
      for (const part of parts) {
        const last = found.at(-1);
        if (last?.zero === part.zero && last.hole === part.hole) last.length += part.length;
        else found.push({ ...part });
        at += part.length;
      }
    }
    return found.slice(0, limits.nbd.extentsPerReplyMax);
  }

  /** Makes all durable if that can still be done, and gives the files back. Nothing may be asked any more. */
  async close(): Promise<void> {
    await this.#turns.idle();
    await this.flush().catch(() => undefined);
    await this.#file.close();
    await this.#map.close();
  }

  get #pages(): number {
    return Math.ceil(this.size / pageBytes);
  }

  #ownExtents(from: number, end: number): Extent[] {
    const found: Extent[] = [];
    for (let at = from; at < end;) {
      const page = Math.floor(at / pageBytes);
      const until = Math.min(end, this.#stored.alike(page, Math.ceil(end / pageBytes)) * pageBytes);
      const zero = !this.#stored.has(page);
      found.push({ length: until - at, zero, hole: zero });
      at = until;
    }
    return found;
  }

  async #change(offset: number, length: number, change: () => Promise<void>): Promise<void> {
    const [from, end] = [Math.floor(offset / pageBytes), Math.ceil((offset + length) / pageBytes)];
    await this.#turns.run(from, end, async () => {
      this.#refuseAfterFailure();
      try {
        await change();
      } catch (error) {
        throw this.#asRequestError(error, (end - from) * pageBytes);
      }
      this.#changes += 1;
    });
  }

  /** Content for a range whose turn it is; the pages at its ends are filled up from the point. */
  async #put(data: Uint8Array, offset: number): Promise<void> {
    const end = offset + data.byteLength;
    const [first, endPage] = [Math.floor(offset / pageBytes), Math.ceil(end / pageBytes)];
    const head = await this.#filling(first, first * pageBytes, offset);
    const tail = await this.#filling(endPage - 1, end, Math.min(this.size, endPage * pageBytes));
    const needsRoom = this.#lack !== null && !this.#isStored(first, endPage);
    this.#take(first, endPage);
    // From here on there may be bytes, even if the write fails.
    this.#stored.add(first, endPage);
    await this.#file.write([head, data, tail], offset - head.byteLength);
    if (needsRoom) this.#lack = null;
    this.#name(first, endPage);
  }

  /** Whether all of the pages are in the overlay file with their bytes: to write them again needs no room. */
  #isStored(first: number, end: number): boolean {
    return [this.#mapped, this.#stored].every((pages) => pages.has(first) && pages.alike(first, end) === end);
  }

  /** What the point has of [from, end) of a page that is not in the overlay. */
  async #filling(page: number, from: number, end: number): Promise<Uint8Array> {
    if (from >= end || this.#mapped.has(page)) return new Uint8Array(0);
    const bytes = new Uint8Array(end - from);
    await this.#base.read(bytes, from);
    return bytes;
  }

  async #zero(offset: number, end: number, mayUnmap: boolean): Promise<void> {
    const first = Math.ceil(offset / pageBytes);
    const last = end === this.size ? this.#pages : Math.floor(end / pageBytes);
    if (first >= last) {
      await this.#putZeros(offset, end);
      return;
    }
    if (offset < first * pageBytes) await this.#putZeros(offset, first * pageBytes);
    await this.#zeroPages(first, last, mayUnmap);
    if (last * pageBytes < end) await this.#putZeros(last * pageBytes, end);
  }

  async #putZeros(offset: number, end: number): Promise<void> {
    for (let at = offset; at < end; at += zeros.byteLength)
      await this.#put(zeros.subarray(0, Math.min(zeros.byteLength, end - at)), at);
  }

  async #zeroPages(first: number, last: number, mayUnmap: boolean): Promise<void> {
    const [from, end] = [first * pageBytes, Math.min(this.size, last * pageBytes)];
    const stored = this.#stored.count(first, last);
    this.#take(first, last, mayUnmap ? 0 : last - first - stored);
    if (!mayUnmap) this.#stored.add(first, last);
    if (!this.#file.punchHoleSync(from, end - from)) {
      await this.#putZeros(from, end);
      return;
    }
    if (mayUnmap) {
      this.#stored.delete(first, last);
      this.#space.give(stored * pageBytes);
    } else this.#file.allocateSync(from, end - from, true);
    this.#name(first, last);
  }

  /** Takes the space of `pages` (those not stored yet, unless told) and of the map's chunks for them. */
  #take(first: number, last: number, pages = last - first - this.#stored.count(first, last)): void {
    const chunks: number[] = [];
    for (let chunk = Math.floor(first / chunkPages); chunk * chunkPages < last; chunk += 1)
      if (!this.#mapped.bits(chunk)) chunks.push(chunk);
    const bytes = pages * pageBytes + chunks.length * chunkFileBytes;
    if (!this.#space.has(bytes)) this.#lack = { why: 'space', bytes };
    this.#space.take(bytes);
    try {
      for (const chunk of chunks) this.#map.reserve(chunk);
      for (const chunk of chunks) this.#mapped.addBits(chunk, new Uint8Array(0));
    } catch (error) {
      this.#space.give(bytes);
      throw error;
    }
  }

  /** The pages are in the overlay file. */
  #name(first: number, last: number): void {
    for (let at = first; at < last;) {
      const until = this.#mapped.alike(at, last);
      if (!this.#mapped.has(at)) this.#fresh.add(at, until);
      at = until;
    }
    this.#mapped.add(first, last);
  }

  /** Invariants 1 and 2. */
  async #sync(): Promise<void> {
    const upTo = this.#changes;
    const covered = this.#fresh;
    this.#fresh = new PageSet();
    await this.#finally(() => this.#file.datasync());
    try {
      for (const chunk of covered.chunks()) await this.#map.write(chunk, this.#nameable(chunk));
    } catch (error) {
      for (const chunk of covered.chunks()) this.#fresh.addBits(chunk, covered.bits(chunk) ?? new Uint8Array(0));
      throw this.#asRequestError(error, chunkFileBytes);
    }
    await this.#finally(() => this.#map.sync());
    this.#durableChanges = upTo;
  }

  /** What the map may say of a chunk: all but what came after the overlay's sync began. */
  #nameable(chunk: number): Uint8Array {
    const bits = Uint8Array.from(this.#mapped.bits(chunk) ?? []);
    const later = this.#fresh.bits(chunk);
    if (later) for (const [index, byte] of later.entries()) bits[index] = (bits[index] ?? 0) & ~byte;
    return bits;
  }

  /** Invariant 4. */
  async #finally(sync: () => Promise<void>): Promise<void> {
    try {
      await sync();
    } catch (error) {
      this.#failure = new Problem(
        'EIO',
        `an overlay could not be made durable, so it is read-only: ${messageOf(error)}`,
        { remedy: remedies.sync, cause: error },
      );
      this.#onFailed(this.#failure);
      throw this.#failure;
    }
  }

  #refuseAfterFailure(): void {
    if (this.#failure) throw this.#failure;
  }

  /** @param bytes what the request needs at most. */
  #asRequestError(error: unknown, bytes: number): Problem {
    if (error instanceof Problem) {
      if (error.code === 'ENOSPC') this.#onFull(error);
      return error;
    }
    const why = whyNoRoom(error);
    if (!why) return new Problem('EIO', messageOf(error), { cause: error });
    this.#lack = { why, bytes };
    const problem = new Problem('ENOSPC', messageOf(error), { remedy: remedies[why], cause: error });
    this.#onFull(problem);
    return problem;
  }
}

/** Pages whose place in the file is no hole. */
function storedPages(file: File, size: number): PageSet {
  const pages = new PageSet();
  for (let at = 0; at < size;) {
    const { hole, length } = file.extentSync(at, size - at);
    const end = at + Math.max(1, length);
    if (!hole) pages.add(Math.floor(at / pageBytes), Math.ceil(end / pageBytes));
    at = end;
  }
  return pages;
}

/**
 * The map of an overlay (FAILOVER.md): which pages of the disk are in the overlay file, durably.
 *
 *   header, 4 KiB  "TMOV", u16 version = 1, u16 0, u32 point, u32 page size, u64 disk size, 32 bytes BLAKE3 of all before, zeros
 *   chunk n        two blocks of 4 KiB at 4 KiB + n · 8 KiB, of which the valid one with the higher version counts; none: no page
 *   block          "TMOB", u32 chunk, u64 version, 32 bytes BLAKE3 of these 16 bytes and the bits, 16 zeros, 4,032 bytes: a bit per page
 *
 * Little-endian. Bits in place would not do: what a power failure makes of a byte that was being changed is anything, a bit for a page that
 * is not there included. So a block is never written over the one that counts, and one that was torn does not check.
 *
 * Invariants:
 *  1. `write` followed by `sync` makes it durable; before `sync` has succeeded the block that counted before is untouched.
 *  2. What was read at opening is made durable before anything is built on it: the block that does not count is written over next.
 *  3. A failed sync is final (C4); the file refuses everything after it, and it is read from the disk, not from the page cache, when it is opened again.
 */
import { digest } from '../kernels/hash.ts';
import { Problem } from '../kit/problem.ts';
import type { File, Files } from '../posix/files.ts';
import { chunkBytes, chunkPages, pageBytes, PageSet } from './overlay-pages.ts';

const headerMagic = 'TMOV';
const blockMagic = 'TMOB';
const version = 1;
const headerBytes = 4096;
const hashedHeaderBytes = 24;
const blockBytes = 4096;
const blockHeaderBytes = 64;
/** Of one chunk in the file. */
export const chunkFileBytes = 2 * blockBytes;

export interface MapFacts {
  readonly point: number;
  /** Bytes. */
  readonly diskSize: number;
}

/** Which of a chunk's two blocks counts, and its version. */
interface Counting {
  readonly slot: 0 | 1;
  readonly version: bigint;
}

export class OverlayMap {
  readonly #file: File;
  readonly #counting: Map<number, Counting>;
  #written = new Map<number, Counting>();

  private constructor(file: File, counting: Map<number, Counting>) {
    this.#file = file;
    this.#counting = counting;
  }

  /** An empty map, durable but for its name. Whatever lies there is replaced. */
  static async create(files: Files, path: string, facts: MapFacts): Promise<void> {
    await files.remove(path);
    const file = await files.open(path, 'exclusive');
    try {
      await file.write([headerOf(facts)], 0);
      await file.truncate(headerBytes + chunksOf(facts) * chunkFileBytes);
      await file.datasync();
    } finally {
      await file.close();
    }
  }

  /** @returns the map and the pages it names. @throws Problem `damaged`. */
  static async open(files: Files, path: string, facts: MapFacts): Promise<{ map: OverlayMap; pages: PageSet }> {
    const file = await files.open(path, 'write');
    try {
      file.dropCacheSync(0, file.facts().size);
      await file.datasync();
      const header = Buffer.alloc(headerBytes);
      const got = await file.read(header, 0);
      if (got !== headerBytes || !header.equals(headerOf(facts))) throw damaged(path, 'its header does not fit');
      const pages = new PageSet();
      const counting = new Map<number, Counting>();
      for await (const chunk of chunksWithData(file, chunksOf(facts))) {
        const both = Buffer.alloc(chunkFileBytes);
        await file.read(both, placeOf(chunk));
        const found = newestOf(path, chunk, both);
        if (!found) continue;
        counting.set(chunk, found.counting);
        pages.addBits(chunk, found.bits);
      }
      return { map: new OverlayMap(file, counting), pages };
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Has the space of a chunk reserved, so that what was taken into it can be made durable. @throws ENOSPC. */
  reserve(chunk: number): void {
    this.#file.allocateSync(placeOf(chunk), chunkFileBytes, true);
  }

  /** Writes what a chunk says now beside the block that counts. */
  async write(chunk: number, bits: Uint8Array): Promise<void> {
    const before = this.#counting.get(chunk);
    const next: Counting = { slot: before?.slot === 0 ? 1 : 0, version: (before?.version ?? 0n) + 1n };
    await this.#file.write([blockOf(chunk, next.version, bits)], placeOf(chunk) + next.slot * blockBytes);
    this.#written.set(chunk, next);
  }

  /** What was written counts. */
  async sync(): Promise<void> {
    const written = this.#written;
    this.#written = new Map();
    await this.#file.datasync();
    for (const [chunk, counting] of written) this.#counting.set(chunk, counting);
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

function chunksOf({ diskSize }: MapFacts): number {
  return Math.ceil(Math.ceil(diskSize / pageBytes) / chunkPages);
}

function placeOf(chunk: number): number {
  return headerBytes + chunk * chunkFileBytes;
}

function damaged(path: string, what: string): Problem {
  return new Problem('damaged', `${path} is damaged: ${what}`, {
    remedy: 'cancel or clean up this failover, and start another one from a point',
  });
}

function headerOf({ point, diskSize }: MapFacts): Buffer {
  const bytes = Buffer.alloc(headerBytes);
  bytes.write(headerMagic, 0, 'latin1');
  bytes.writeUInt16LE(version, 4);
  bytes.writeUInt32LE(point, 8);
  bytes.writeUInt32LE(pageBytes, 12);
  bytes.writeBigUInt64LE(BigInt(diskSize), 16);
  bytes.set(digest(bytes.subarray(0, hashedHeaderBytes)), hashedHeaderBytes);
  return bytes;
}

function blockOf(chunk: number, of: bigint, bits: Uint8Array): Buffer {
  const bytes = Buffer.alloc(blockBytes);
  bytes.write(blockMagic, 0, 'latin1');
  bytes.writeUInt32LE(chunk, 4);
  bytes.writeBigUInt64LE(of, 8);
  bytes.set(bits, blockHeaderBytes);
  bytes.set(digest(bytes.subarray(0, 16), bytes.subarray(blockHeaderBytes)), 16);
  return bytes;
}

/** Of a chunk's two blocks the one that counts; null: none was ever made durable. */
function newestOf(path: string, chunk: number, both: Buffer): { counting: Counting; bits: Uint8Array } | null {
  const blocks = ([0, 1] as const).map((slot) => {
    const bytes = both.subarray(slot * blockBytes, (slot + 1) * blockBytes);
    const counting: Counting = { slot, version: bytes.readBigUInt64LE(8) };
    const bits = bytes.subarray(blockHeaderBytes, blockHeaderBytes + chunkBytes);
    return { counting, bits, valid: bytes.equals(blockOf(chunk, counting.version, bits)), bytes };
  });
  const newest = blocks
    .filter(({ valid }) => valid)
    .sort((a, b) => (a.counting.version < b.counting.version ? 1 : -1))[0];
  if (newest) return newest;
  // The first block of a chunk may have been torn before any flush was answered; two can not.
  if (blocks.every(({ bytes }) => bytes.some((byte) => byte !== 0)))
    throw damaged(path, `chunk ${chunk} does not check`);
  return null;
}

/** Numbers of the chunks of which something was ever written. */
async function* chunksWithData(file: File, chunks: number): AsyncGenerator<number> {
  const end = placeOf(chunks);
  for (let at = headerBytes; at < end;) {
    const { hole, length } = file.extentSync(at, end - at);
    const until = at + Math.max(1, length);
    const last = Math.min(chunks, Math.ceil((until - headerBytes) / chunkFileBytes));
    const first = Math.floor((at - headerBytes) / chunkFileBytes);
    if (hole) {
      // A chunk that only begins in the hole may have data behind it.
      const next = headerBytes + Math.floor((until - headerBytes) / chunkFileBytes) * chunkFileBytes;
      if (next > at) {
        at = next;
        continue;
      }
    }
    const to = hole ? first + 1 : last;
    for (let chunk = first; chunk < to; chunk += 1) yield chunk;
    at = placeOf(to);
  }
}

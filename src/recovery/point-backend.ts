/** A recovery point as a read-only NBD disk. Keeps the last few blocks it rebuilt, because clients read in smaller pieces. */
import { blockBytesOnDisk } from '../disk/geometry.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Backend, Extent } from '../nbd/backend.ts';
import type { PointImage } from './point-image.ts';

export class PointBackend implements Backend {
  readonly size: number;
  readonly readOnly = true;
  readonly multiConnection = true;
  readonly preferredBytes: number;
  readonly #image: PointImage;
  readonly #stored: Uint8Array;
  /** Blocks rebuilt or being rebuilt, oldest first. */
  readonly #cache = new Map<number, Promise<Buffer>>();
  readonly #cacheBlocksMax: number;

  /** The leaves were checked against the root by whoever opened the image (`PointImage.checkLeaves`). */
  constructor(image: PointImage) {
    const { geometry } = image;
    this.#image = image;
    this.size = geometry.size;
    this.preferredBytes = geometry.blockSize;
    this.#cacheBlocksMax = Math.max(2, Math.floor(limits.recovery.exportCacheBytes / geometry.blockSize));
    this.#stored = new Uint8Array(Math.ceil(geometry.blockCount / 8));
    for (const { block, zero } of image.entries()) {
      if (!zero) this.#stored[block >>> 3] = (this.#stored[block >>> 3] ?? 0) | (1 << (block & 7));
    }
  }

  async read(into: Uint8Array, offset: number): Promise<void> {
    const { blockSize } = this.#image.geometry;
    let done = 0;
    while (done < into.byteLength) {
      const block = Math.floor((offset + done) / blockSize);
      const inBlock = (offset + done) % blockSize;
      const length = Math.min(blockSize - inBlock, into.byteLength - done);
      if (this.#isStored(block)) {
        const bytes = await this.#block(block);
        into.set(bytes.subarray(inBlock, inBlock + length), done);
      } else {
        into.fill(0, done, done + length);
      }
      done += length;
    }
  }

  write(): Promise<void> {
    return refuseWrites();
  }

  zero(): Promise<void> {
    return refuseWrites();
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  extents(offset: number, length: number): Promise<readonly Extent[]> {
    const { geometry } = this.#image;
    const end = offset + length;
    const found: { length: number; zero: boolean; hole: boolean }[] = [];
    for (let at = offset; at < end;) {
      const block = Math.floor(at / geometry.blockSize);
      const blockEnd = block * geometry.blockSize + blockBytesOnDisk(geometry, block);
      const piece = Math.min(end, blockEnd) - at;
      const hole = !this.#isStored(block);
      const last = found.at(-1);
      if (last?.hole === hole) last.length += piece;
      else found.push({ length: piece, zero: hole, hole });
      at += piece;
    }
    return Promise.resolve(found);
  }

  #isStored(block: number): boolean {
    return ((this.#stored[block >>> 3] ?? 0) & (1 << (block & 7))) !== 0;
  }

  #block(block: number): Promise<Buffer> {
    const present = this.#cache.get(block);
    if (present) {
      this.#cache.delete(block);
      this.#cache.set(block, present);
      return present;
    }
    const bytes = Buffer.allocUnsafeSlow(this.#image.geometry.blockSize);
    const reading = this.#image.readBlock(block, bytes).then(() => bytes);
    this.#cache.set(block, reading);
    reading.catch(() => this.#cache.delete(block));
    if (this.#cache.size > this.#cacheBlocksMax) {
      const oldest = this.#cache.keys().next();
      if (oldest.done !== true) this.#cache.delete(oldest.value);
    }
    return reading;
  }
}

function refuseWrites(): Promise<void> {
  return Promise.reject(new Problem('EPERM', 'a recovery point is read-only'));
}

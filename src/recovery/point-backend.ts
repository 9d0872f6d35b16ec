/** A recovery point as a read-only NBD disk, through a cache with read-ahead (`read-cache.ts`). */
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Backend, Extent } from '../nbd/backend.ts';
import type { PointImage } from './point-image.ts';
import { ReadCache } from './read-cache.ts';

/** Nodes whose leaves one `extents` looks up in the index: some milliseconds each. */
const nodesPerCallMax = 4;

export class PointBackend implements Backend {
  readonly size: number;
  readonly readOnly = true;
  readonly multiConnection = true;
  readonly preferredBytes: number;
  readonly #image: PointImage;
  readonly #cache: ReadCache;

  /** The leaves were checked against the root by whoever opened the image (`PointImage.checkLeaves`). */
  constructor(image: PointImage) {
    const { geometry } = image;
    this.#image = image;
    this.size = geometry.size;
    this.preferredBytes = geometry.blockSize;
    this.#cache = new ReadCache(image);
  }

  read(into: Uint8Array, offset: number): Promise<void> {
    return this.#cache.read(into, offset);
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

  /** Holes cost nothing; of what is stored only some nodes are looked at per call, which may then answer for less than was asked. */
  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    const image = this.#image;
    const { size, blockSize } = image.geometry;
    const end = offset + length;
    const endBlock = Math.ceil(end / blockSize);
    const found: { length: number; zero: boolean; hole: boolean }[] = [];
    let lookedUp = 0;
    for (let at = offset; at < end;) {
      const block = Math.floor(at / blockSize);
      if (!image.knows(block)) {
        if (lookedUp === nodesPerCallMax) break;
        lookedUp += 1;
      }
      const { zero, blocks } = await image.alike(block, endBlock);
      const piece = Math.min(end, size, (block + blocks) * blockSize) - at;
      const last = found.at(-1);
      if (last?.hole === zero) last.length += piece;
      else if (found.length === limits.nbd.extentsPerReplyMax) break;
      else found.push({ length: piece, zero, hole: zero });
      at += piece;
    }
    return found;
  }
}

function refuseWrites(): Promise<void> {
  return Promise.reject(new Problem('EPERM', 'a recovery point is read-only'));
}

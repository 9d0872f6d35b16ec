/** Which of a block's 16 pages something is about: bit i = page i. Pure arithmetic on 16-bit numbers. */
import type { Geometry } from './geometry.ts';

export const fullMask = 0xffff;

export function pageCount(mask: number): number {
  let rest = mask - ((mask >>> 1) & 0x5555);
  rest = (rest & 0x3333) + ((rest >>> 2) & 0x3333);
  rest = (rest + (rest >>> 4)) & 0x0f0f;
  return (rest + (rest >>> 8)) & 0x1f;
}

/** Mask of the pages of `block` that the byte range [offset, offset + length) of the disk touches. */
export function maskOfRange(geometry: Geometry, block: number, offset: number, length: number): number {
  const start = block * geometry.blockSize;
  const from = Math.max(offset, start) - start;
  const to = Math.min(offset + length, start + geometry.blockSize) - start;
  if (to <= from) return 0;
  const first = Math.floor(from / geometry.pageSize);
  const last = Math.floor((to - 1) / geometry.pageSize);
  return (fullMask >>> (15 - (last - first))) << first;
}

/** Copies the pages of `mask` out of a whole block, one after another, into `into` at `at`. Returns the bytes copied. */
export function gatherPages(
  blockBytes: Uint8Array,
  mask: number,
  pageSize: number,
  into: Uint8Array,
  at: number,
): number {
  if (mask === fullMask) {
    into.set(blockBytes, at);
    return blockBytes.byteLength;
  }
  let done = 0;
  for (let page = 0; page < 16; page += 1) {
    if ((mask & (1 << page)) === 0) continue;
    into.set(blockBytes.subarray(page * pageSize, (page + 1) * pageSize), at + done);
    done += pageSize;
  }
  return done;
}

/** The reverse of `gatherPages`: puts the pages in `pages` where `mask` says into `blockBytes`. */
export function scatterPages(pages: Uint8Array, mask: number, pageSize: number, blockBytes: Uint8Array): void {
  if (mask === fullMask) {
    blockBytes.set(pages);
    return;
  }
  let from = 0;
  for (let page = 0; page < 16; page += 1) {
    if ((mask & (1 << page)) === 0) continue;
    blockBytes.set(pages.subarray(from, from + pageSize), page * pageSize);
    from += pageSize;
  }
}

/**
 * A disk as an array of blocks (DESIGN §3). Size: any multiple of 512 bytes. Block: a power of two from 4 KiB to 1 MiB, always
 * 16 pages. The last block may reach past the disk's end; it is read, hashed and sent zero-padded.
 */
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';

export interface Geometry {
  /** Bytes. */
  readonly size: number;
  /** Bytes per block. */
  readonly blockSize: number;
  /** Bytes per page: blockSize / 16. */
  readonly pageSize: number;
  readonly blockCount: number;
}

/** @throws Problem `bad-geometry` naming the value and what is allowed. */
export function geometryOf(size: number, blockSize: number): Geometry {
  const { sectorBytes, blockBytesMin, blockBytesMax, blockCountMax, pagesPerBlock } = limits.disk;
  const refuse = (message: string, remedy: string): never => {
    throw new Problem('bad-geometry', message, { remedy });
  };
  if (!Number.isSafeInteger(size) || size <= 0 || size % sectorBytes !== 0) {
    refuse(
      `disk size ${size} is not a positive multiple of ${sectorBytes} bytes`,
      `grow the image to a multiple of ${sectorBytes} (truncate -s)`,
    );
  }
  const powerOfTwo = Number.isSafeInteger(blockSize) && blockSize > 0 && Number.isInteger(Math.log2(blockSize));
  if (!powerOfTwo || blockSize < blockBytesMin || blockSize > blockBytesMax) {
    refuse(
      `block size ${blockSize} is not a power of two from ${blockBytesMin} to ${blockBytesMax}`,
      'use 65536 unless you measured otherwise',
    );
  }
  const blockCount = Math.ceil(size / blockSize);
  if (blockCount > blockCountMax)
    refuse(
      `a disk of ${size} bytes has more than ${blockCountMax} blocks of ${blockSize}`,
      'choose a larger block size',
    );
  return { size, blockSize, pageSize: blockSize / pagesPerBlock, blockCount };
}

/** Bytes of block `block` that lie on the disk (less than blockSize only for the last one). */
export function blockBytesOnDisk(geometry: Geometry, block: number): number {
  return Math.min(geometry.blockSize, geometry.size - block * geometry.blockSize);
}

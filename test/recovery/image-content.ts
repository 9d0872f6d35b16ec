/** All of a disk as of a point. */
import { blockBytesOnDisk } from '../../src/disk/geometry.ts';
import type { PointImage } from '../../src/recovery/point-image.ts';

/** Every block matched with its leaf, and these with the committed root. @throws Problem `damaged`. */
export async function imageContent(image: PointImage): Promise<Buffer> {
  await image.checkLeaves();
  const { size, blockSize } = image.geometry;
  const bytes = Buffer.alloc(size);
  const into = Buffer.alloc(blockSize);
  for (const { block } of image.entries()) {
    await image.readBlock(block, into);
    into.copy(bytes, block * blockSize, 0, blockBytesOnDisk(image.geometry, block));
  }
  return bytes;
}

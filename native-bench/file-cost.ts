/** What reading the disk, appending to the store and reading it back cost, by the product's own door to files. Each in one long lap. */
import { systemRandom } from '../src/kit/random.ts';
import { limits } from '../src/limits.ts';
import type { File } from '../src/posix/files.ts';
import { Meter } from './cost.ts';

/** Synchronous reads into one warm buffer: the least that the content of a file in the page cache can cost. */
export async function measureRead(
  file: File,
  pieces: readonly { readonly from: number; readonly bytes: number }[],
): Promise<Meter> {
  const largest = pieces.reduce((most, { bytes }) => Math.max(most, bytes), 0);
  const into = Buffer.alloc(largest);
  const meter = new Meter();
  await meter.during(() => {
    for (const { from, bytes } of pieces) file.readSync(into.subarray(0, bytes), from);
  });
  return meter;
}

/**
 * Appends frames of these sizes to a new file whose space is reserved as a segment's, `together` of them with one write and one fdatasync. Random
 * bytes; what is written does not matter to the file system.
 */
export async function measureAppend(segment: File, sizes: readonly number[], together: number): Promise<Meter> {
  const content = systemRandom.bytes(limits.wire.frameBytesMax);
  segment.allocateSync(0, limits.target.segmentBytesMax, false);
  const meter = new Meter();
  await meter.during(async () => {
    let end = 0;
    for (let at = 0; at < sizes.length; at += together) {
      const group = sizes.slice(at, at + together).map((size) => content.subarray(0, size));
      await segment.write(group, end);
      await segment.datasync();
      end = group.reduce((sum, frame) => sum + frame.byteLength, end);
    }
  });
  return meter;
}

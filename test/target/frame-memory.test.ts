/** The memory of a batch is used again for the next one: not before the first is in the segment. */
import { readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { systemRandom } from '../../src/kit/random.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { frameType } from '../../src/wire/frame.ts';
import { TargetSite } from './peer.ts';

const blockSize = 65_536;
const sites: TargetSite[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

test('a batch that waits to be written stays what it was, whatever arrives behind it', async () => {
  const { promise: written, resolve: write } = Promise.withResolvers<undefined>();
  const files: Files = {
    ...posixFiles,
    open: async (name, mode, permissions) => {
      const file = await posixFiles.open(name, mode, permissions);
      const real = file.write.bind(file);
      file.write = async (parts, position) => {
        // Headers of the segment and of the layer are not what waits.
        if (parts.some(({ byteLength }) => byteLength > blockSize)) await written;
        await real(parts, position);
      };
      return file;
    },
  };
  const site = await TargetSite.start({ files });
  sites.push(site);
  const { peer, disk } = await site.session('m1', null, { size: 64 * blockSize, blockSize });
  const seq = peer.cycle(disk);
  const bodies: Uint8Array[] = [];
  try {
    for (let batch = 0; batch < 4; batch += 1) {
      bodies.push(peer.sealedPages(disk, { seq, batch, block: batch, pages: systemRandom.bytes(blockSize) }));
      // Memory for the next one is taken when this one was received.
      await expect.poll(() => site.target.counters.recordsIn).toBe(batch + 1);
    }
  } finally {
    write(undefined);
  }
  for (let batch = 0; batch < 4; batch += 1) await peer.next(frameType.durable);
  const segment = await readFile(path.join(site.data, 'machines/m1/segments/000001.seg'));
  expect(bodies.map((body) => segment.includes(Buffer.from(body)))).toEqual([true, true, true, true]);
});

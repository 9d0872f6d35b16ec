/** Behind a sync that failed the page cache shows what the disk never got: when that may be, it is dropped before the image is read. */
import { expect, test } from 'vitest';
import { openNbdCapture } from '../../src/capture/nbd-open.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { SparseBytes } from '../simulated-bytes.ts';
import { SimulatedFiles } from '../simulated-files.ts';

const blockSize = 4096;
const blocks = 100;
const image = '/images/vda.raw';
const log = '/state/vda.hrl';
const clock: Clock = { ...systemClock, after: () => ({ cancel: () => undefined }) };
const written = Buffer.alloc(blockSize, 7);

function newFiles(): SimulatedFiles {
  const files = new SimulatedFiles(['/images', '/state']);
  files.plant(image, new SparseBytes(undefined, blocks * blockSize));
  return files;
}

function opened(files: SimulatedFiles, hadLog: boolean): Promise<NbdCapture> {
  const lock = () => Promise.resolve({ release: () => Promise.resolve() });
  const named = { owner: 'm/vda', name: 'vda', image, blockSize, stateDirectory: '/state' };
  return openNbdCapture({ files, clock, random: systemRandom, ...named, hadLog, lock });
}

async function firstBlock(capture: NbdCapture): Promise<Buffer> {
  const into = Buffer.alloc(blockSize);
  await capture.read(into, 0);
  await capture.close();
  return into;
}

test.each(['lost', 'damaged', 'grown'] as const)(
  'after a failed sync, loss %s: what the disk has is read',
  async (loss) => {
    const files = newFiles();
    const capture = await opened(files, false);
    await capture.write(written, 0, false);
    files.fault = (operation, path) => (operation === 'datasync' && path === image ? { code: 'EIO' } : null);
    await expect(capture.flush()).rejects.toThrow();
    await capture.close();
    files.fault = () => null;
    if (loss === 'lost') await files.remove(log);
    else if (loss === 'damaged') await (await files.open(log, 'write')).truncate(0);
    else await (await files.open(image, 'write')).truncate((blocks + 1) * blockSize);
    const again = await opened(files, true);
    expect(again.logLoss).toBe(loss);
    expect((await firstBlock(again)).equals(Buffer.alloc(blockSize))).toBe(true);
  },
);

test('behind a clean stop nothing is dropped, though the image was changed meanwhile', async () => {
  const files = newFiles();
  await (await opened(files, false)).close();
  const other = await files.open(image, 'write');
  await other.write([written], 0);
  await other.close();
  let dropped = 0;
  const open = files.open.bind(files);
  files.open = async (path, mode) => {
    const file = await open(path, mode);
    if (path === image) file.dropCacheSync = () => (dropped += 1);
    return file;
  };
  const again = await opened(files, true);
  expect([again.logLoss, dropped]).toEqual(['changed-behind', 0]);
  // It was synced before it counted: a power failure does not take it back.
  expect((await firstBlock(again)).equals(written)).toBe(true);
});

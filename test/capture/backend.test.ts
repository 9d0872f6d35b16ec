/** The write splitter under the suite every backend must pass, on the real file system. */
import { mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openNbdCapture } from '../../src/capture/nbd-open.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { backendContract } from '../nbd/backend-contract.ts';
import { commitAll } from './setup.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';

function openReal(directory: string, hadLog: boolean, blockSize = 65_536): Promise<NbdCapture> {
  return openNbdCapture({
    files: posixFiles,
    clock: systemClock,
    random: systemRandom,
    image: path.join(directory, 'vda.raw'),
    name: 'vda',
    owner: 'web1/vda',
    blockSize,
    stateDirectory: path.join(directory, 'state'),
    hadLog,
  });
}

backendContract('the write splitter', async (content) => {
  const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-capture-'));
  await writeFile(path.join(directory, 'vda.raw'), content);
  const backend = await openReal(directory, false);
  return {
    backend,
    end: async () => {
      await backend.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
});

let directory = '';
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-capture-'));
  await writeFile(path.join(directory, 'vda.raw'), '');
  await truncate(path.join(directory, 'vda.raw'), 20 * 1024 * 1024 + 512);
});
afterEach(() => rm(directory, { recursive: true, force: true }));

test.each([4096, 65_536, 1_048_576])('a clean stop continues where it was, blocks of %i bytes', async (blockSize) => {
  const first = await openReal(directory, false, blockSize);
  expect(first.logLoss).toBe('new');
  expect(first.currentBlocks).toBe(first.geometry.blockCount);
  await commitAll(first);
  expect(first.currentBytes).toBe(0);
  await first.write(Buffer.alloc(10, 1), 5 * 1024 * 1024 - 5, false);
  await first.close();
  const second = await openReal(directory, true, blockSize);
  expect(second.logLoss).toBeNull();
  expect(second.currentBytes).toBe(2 * second.geometry.pageSize);
  await second.close();
});

test('a disk written behind a clean stop is noticed', async () => {
  await (await openReal(directory, false)).close();
  const image = path.join(directory, 'vda.raw');
  const bytes = await readFile(image);
  bytes[77] = 1;
  await writeFile(image, bytes);
  const again = await openReal(directory, true);
  expect(again.logLoss).toBe('changed-behind');
  expect(again.currentBlocks).toBe(again.geometry.blockCount);
  await again.close();
});

test('punched holes release space and are marked', async () => {
  const image = path.join(directory, 'vda.raw');
  const capture = await openReal(directory, false);
  await capture.write(Buffer.alloc(8 * 1024 * 1024, 7), 0, true);
  await commitAll(capture);
  const before = (await stat(image)).blocks;
  await capture.zero(0, 8 * 1024 * 1024, true, true);
  expect((await stat(image)).blocks).toBeLessThan(before);
  expect(capture.currentBytes).toBe(8 * 1024 * 1024);
  await capture.close();
});

test('a second agent for one image is refused and told who is first', async () => {
  const first = await openReal(directory, false);
  await expect(openReal(directory, true)).rejects.toMatchObject({ code: 'locked' });
  await first.close();
  await (await openReal(directory, true)).close();
});

test('clients are told the holes of the image, and what was written in them', async () => {
  const capture = await openReal(directory, false);
  const mib = 1024 * 1024;
  await capture.write(Buffer.alloc(mib, 3), 4 * mib, true);
  expect(await capture.extents(0, 16 * mib)).toEqual([
    { length: 4 * mib, zero: true, hole: true },
    { length: mib, zero: false, hole: false },
    { length: 11 * mib, zero: true, hole: true },
  ]);
  await capture.close();
});

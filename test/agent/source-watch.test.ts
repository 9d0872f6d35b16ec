import { mkdtemp, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { geometryOf } from '../../src/disk/geometry.ts';
import { sourceFaults } from '../../src/main/source-watch.ts';
import { posixFiles } from '../../src/posix/files.ts';

const size = 128 * 1024;
let directory = '';
let image = '';
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-source-'));
  image = path.join(directory, 'disk.raw');
  await writeFile(image, Buffer.alloc(size));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

async function watched(tracking: 'writes' | 'scan' = 'writes') {
  const { ino } = await stat(image, { bigint: true });
  const capture = { tracking, source: { path: image, inode: ino }, geometry: geometryOf(size, 65_536) };
  return [{ name: 'vda', capture }];
}
const codes = (faults: Awaited<ReturnType<typeof sourceFaults>>) =>
  faults.map(({ code, disk, retryable, remedy }) => [code, disk, retryable, remedy !== '']);

it('finds nothing wrong with the file that was opened, larger or not', async () => {
  const disks = await watched();
  expect(await sourceFaults(posixFiles, disks)).toEqual([]);
  await truncate(image, 2 * size);
  expect(await sourceFaults(posixFiles, disks)).toEqual([]);
});

it('tells a file that is gone, replaced or smaller, until it is back', async () => {
  const disks = await watched();
  await rename(image, `${image}.away`);
  expect(codes(await sourceFaults(posixFiles, disks))).toEqual([['not-found', 'vda', false, true]]);
  await writeFile(image, Buffer.alloc(size));
  expect(codes(await sourceFaults(posixFiles, disks))).toEqual([['bad-image', 'vda', false, true]]);
  await rename(`${image}.away`, image);
  expect(await sourceFaults(posixFiles, disks)).toEqual([]);
  await truncate(image, size - 1);
  const [shrunk] = await sourceFaults(posixFiles, disks);
  expect(shrunk).toMatchObject({
    code: 'shrunk',
    message: expect.stringContaining(`${size - 1} bytes of ${size}`) as unknown,
  });
});

it('leaves a scanned disk to its capture, for which every snapshot is another file', async () => {
  const disks = await watched('scan');
  await rm(image);
  expect(await sourceFaults(posixFiles, disks)).toEqual([]);
});

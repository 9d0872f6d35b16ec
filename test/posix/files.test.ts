import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { posixFiles } from '../../src/posix/files.ts';

let home = '';
beforeEach(async () => {
  home = await mkdtemp(path.join(tmpdir(), 'tidemark-files-'));
});
afterEach(async () => {
  await rm(home, { recursive: true, force: true });
});

it('a write after close went into the next file that got the descriptor number', async () => {
  const first = await posixFiles.open(path.join(home, 'first'), 'exclusive');
  await first.close();
  const next = path.join(home, 'next');
  const second = await posixFiles.open(next, 'exclusive');
  const closed = { code: 'closed' };
  const bytes = Buffer.from('not yours');
  await expect(first.write([bytes], 0)).rejects.toMatchObject(closed);
  await expect(first.read(bytes, 0)).rejects.toMatchObject(closed);
  await expect(first.datasync()).rejects.toMatchObject(closed);
  await expect(first.truncate(100)).rejects.toMatchObject(closed);
  const sync = [
    () => first.writeSync(bytes, 0),
    () => first.readSync(bytes, 0),
    () => first.allocateSync(0, 4096, false),
    () => first.punchHoleSync(0, 4096),
    () => first.extentSync(0, 4096),
    () => first.dropCacheSync(0, 4096),
    () => first.facts(),
  ];
  for (const operation of sync) expect(operation).toThrow(expect.objectContaining(closed));
  await first.close();
  await second.close();
  expect((await readFile(next)).byteLength).toBe(0);
});

it('a close pulled the descriptor from under a write of many parts', async () => {
  const name = path.join(home, 'parts');
  const file = await posixFiles.open(name, 'exclusive');
  // More parts than one call takes, so that the write comes back for the descriptor.
  const parts = Array.from({ length: 5000 }, (_, index) => Buffer.alloc(16, index));
  const writing = file.write(parts, 0);
  const closings = [file.close(), file.close()];
  await writing;
  await Promise.all(closings);
  expect((await readFile(name)).equals(Buffer.concat(parts))).toBe(true);
});

it('what was written and synced is read again from the disk once the cache was dropped', async () => {
  const file = await posixFiles.open(path.join(home, 'cached'), 'exclusive');
  const bytes = Buffer.alloc(300_000, 'of the disk');
  await file.write([bytes], 0);
  file.dropCacheSync(0, bytes.byteLength);
  await file.datasync();
  file.dropCacheSync(4096, 8192);
  file.dropCacheSync(0, 2 ** 40);
  const found = Buffer.alloc(bytes.byteLength);
  await file.read(found, 0);
  expect(found.equals(bytes)).toBe(true);
  await file.close();
});

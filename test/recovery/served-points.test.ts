/**
 * Points that are served for long, while their target folds, moves records to other segments, unlinks what it emptied and makes its index anew:
 * what is read stays what the disk was, by whatever index it was opened.
 */
import { rm } from 'node:fs/promises';
import * as path from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { readBootId } from '../../src/main/boot-id.ts';
import { Closers } from '../../src/main/parts.ts';
import { openServedImages } from '../../src/main/point-access.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { PointBackend } from '../../src/recovery/point-backend.ts';
import type { PointImage } from '../../src/recovery/point-image.ts';
import { ReadPool } from '../../src/recovery/read-pool.ts';
import { Vault } from '../../src/store/vault.ts';
import { MachineLife } from '../store/machine-fixture.ts';
import { blocks, blockSize, diskBytes } from './points-made.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallSegments } = await import('../store/small-segments.ts');
  return smallSegments(await load());
});

const parts = { files, clock, random, version: '0', loggerOf: () => createLogger({ level: 'silent', clock }) };
let life: MachineLife;
let closers: Closers;
let pool: ReadPool;
let content: Buffer;
beforeEach(async () => {
  life = await MachineLife.begin();
  closers = new Closers();
  pool = new ReadPool({ threads: 1 });
});
afterEach(async () => {
  vi.restoreAllMocks();
  await closers.close();
  await pool.close();
  await life.remove();
});

/** The machine opened again, its index made anew; under the `bootId` of the system others may read by it. */
async function again(bootId: string): Promise<void> {
  await life.close();
  await rm(life.path('index'), { recursive: true });
  life = await MachineLife.open(life.directory, files, life.image, bootId);
}

/** What a served point needs lies in several segments beside much that dies with the next points. */
async function begin(): Promise<number> {
  await life.point(blocks(0, 9));
  for (let round = 0; round < 6; round += 1) await life.point(blocks(9 * round, 12));
  const point = await life.point(blocks(3, 20, 2, 0x0ff0));
  content = Buffer.alloc(diskBytes);
  for (const [block, bytes] of life.image) bytes.copy(content, block * blockSize);
  await life.prove();
  return point;
}

/** All but what is kept or in use dies, and what lives is moved; the old files are unlinked at once, as where the store is full. */
async function fold(): Promise<number> {
  const before = life.store.points.removed.size;
  for (let round = 0; round < 5; round += 1) await life.point(blocks(0, 12));
  await life.prove();
  await life.fold();
  return life.store.points.removed.size - before;
}

async function serve(point: number): Promise<PointImage> {
  const place = { data: path.join(life.directory, 'data'), vault: path.join(life.directory, 'vault.key') };
  const vault = await Vault.open({ files, random, keyFile: place.vault });
  const [image] = await openServedImages(
    parts,
    closers,
    { ...place, machine: 'm1', disks: ['vda'], point },
    vault,
    pool,
  );
  if (!image) throw new Error('an image of the disk');
  return image;
}

/** Through a cache that holds nothing yet, many at a time. */
async function expectContent(image: PointImage): Promise<void> {
  const backend = new PointBackend(image);
  const reads = Array.from({ length: 40 }, async (_, number) => {
    const into = Buffer.alloc(3 * blockSize, 0xee);
    const offset = ((number * 7) % 70) * blockSize;
    await backend.read(into, offset);
    if (!into.equals(content.subarray(offset, offset + into.byteLength))) throw new Error(`wrong at ${offset}`);
  });
  await Promise.all(reads);
  for (let block = 0; block < 70; block += 1) {
    const into = Buffer.alloc(blockSize, 0xee);
    await image.readBlock(block, into);
    if (!into.equals(content.subarray(block * blockSize, (block + 1) * blockSize))) throw new Error(`wrong: ${block}`);
  }
}

it('by an index of its own goes on though the segments it names are moved away, again and again', async () => {
  const image = await serve(await begin());
  for (let round = 0; round < 3; round += 1) {
    expect(await fold()).toBeGreaterThan(0);
    await expectContent(image);
  }
});

it("by the target's index goes on when the target makes another one and moves segments away", async () => {
  const boot = await readBootId(files);
  await again(boot);
  const image = await serve(await begin());
  for (let round = 0; round < 3; round += 1) {
    await again(boot);
    expect(await fold()).toBeGreaterThan(0);
    await expectContent(image);
  }
});

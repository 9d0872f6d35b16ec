/** Reading a point by an index that lies: what it lists and what it finds must be the same records, or nothing is served. */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { geometryOf } from '../../src/disk/geometry.ts';
import { zeroLeaf } from '../../src/disk/merkle.ts';
import { leafOf } from '../../src/kernels/hash.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { posixFiles as files, type Files } from '../../src/posix/files.ts';
import { exportRaw } from '../../src/recovery/export.ts';
import { PointBackend } from '../../src/recovery/point-backend.ts';
import { PointImage } from '../../src/recovery/point-image.ts';
import { RootBuilder } from '../../src/recovery/root-builder.ts';
import type { DiskAtPoint, StoredEntry } from '../../src/store/machine-view.ts';

const leafKey = new Uint8Array(32).fill(7);
const geometry = geometryOf(5 * 4096 + 512, 4096);

interface FakeEntry extends StoredEntry {
  readonly content: Buffer;
}

/** A block whose stored content matches its own leaf. */
function entryOf(block: number, fill: number): FakeEntry {
  const content = Buffer.alloc(geometry.blockSize, fill);
  const leaf = fill === 0 ? zeroLeaf : leafOf(leafKey, content);
  // The place of a record is the store's business; the image only hands it back.
  const none = { segment: 1, payloadOffset: 0, storedLength: 0, rawLength: 0, pageMask: 0xffff, codec: 0, nonce: 0 };
  const record = { ...none, block, seq: 1, tag: new Uint8Array(16), leaf, pages: null };
  return { block, leaf, zero: fill === 0, record, content };
}

/** A disk whose index lists `listings` in turn, the last one for ever; its point was committed over the first. */
function diskOf(...listings: readonly (readonly FakeEntry[])[]): DiskAtPoint {
  const builder = new RootBuilder(geometry);
  for (const { block, leaf } of listings[0] ?? []) if (block < geometry.blockCount) builder.add(block, leaf);
  const root = builder.root();
  let reading = 0;
  const next = (): readonly FakeEntry[] => {
    const listing = listings[Math.min(reading, listings.length - 1)] ?? [];
    reading += 1;
    return listing;
  };
  return {
    machine: 'web1',
    disk: 'vda',
    point: 3,
    cutTimeMs: 0,
    geometry,
    root,
    *entries(from = 0) {
      yield* next().filter(({ block }) => block >= from);
    },
    entry: (block) => next().find((entry) => entry.block === block),
    // No node is known: the leaves of all entries have to make the root.
    nodes: () => [],
    renew: () => Promise.resolve(false),
    plan() {
      throw new Error('nothing here is read by threads');
    },
    async read(entry, into) {
      into.set((entry as FakeEntry).content);
    },
  };
}

const good = [entryOf(0, 1), entryOf(2, 2), entryOf(3, 0), entryOf(5, 3)];
const older = [entryOf(0, 1), entryOf(2, 9), entryOf(3, 0), entryOf(5, 3)];
const damaged = { code: 'damaged' };

describe('a point read by an index', () => {
  let directory = '';
  beforeEach(async () => {
    directory = await mkdtemp(path.join(tmpdir(), 'tidemark-recovery-'));
  });
  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  const exported = async (at: DiskAtPoint, through: Files = files): Promise<Buffer> => {
    const to = path.join(directory, 'out.raw');
    const { signal } = new AbortController();
    await exportRaw(new PointImage(at, clock), {
      files: through,
      clock,
      to,
      overwrite: false,
      leafKeys: [leafKey],
      signal,
      progress: () => undefined,
    });
    return readFile(to);
  };
  const served = async (at: DiskAtPoint, offset: number, length: number): Promise<Buffer> => {
    const image = new PointImage(at, clock);
    await image.checkLeaves();
    const into = Buffer.alloc(length);
    await new PointBackend(image).read(into, offset);
    return into;
  };

  it('that is true gives the disk, to its last sector', async () => {
    const whole = Buffer.alloc(geometry.size);
    whole
      .fill(1, 0, 4096)
      .fill(2, 2 * 4096, 3 * 4096)
      .fill(3, 5 * 4096);
    expect((await exported(diskOf(good))).equals(whole)).toBe(true);
    expect((await served(diskOf(good), 1000, geometry.size - 1000)).equals(whole.subarray(1000))).toBe(true);
  });

  it('that finds another record than it listed is not believed, though that record matches its own leaf', async () => {
    await expect(exported(diskOf(good, older))).rejects.toMatchObject(damaged);
    expect(await readdir(directory)).toEqual([]);
    // Leaves are looked up first, then what is to be read.
    await expect(served(diskOf(good, good, older), 2 * 4096, 4096)).rejects.toMatchObject(damaged);
    for (const [block, lost] of [
      [0, good.slice(1)],
      [2, good.filter((entry) => entry.block !== 2)],
      [5, good.slice(0, -1)],
    ] as const) {
      await expect(served(diskOf(good, good, lost), block * 4096, 4096)).rejects.toMatchObject(damaged);
      await expect(served(diskOf(good, good, lost), 0, geometry.size)).rejects.toMatchObject(damaged);
    }
  });

  it('whose export was done could lose its name, because the directory was not synced after the rename', async () => {
    const events: string[] = [];
    const watched: Files = {
      ...files,
      rename: async (from, to) => {
        await files.rename(from, to);
        events.push('renamed');
      },
      syncDirectory: async (name) => {
        await files.syncDirectory(name);
        events.push(`synced ${name}`);
      },
    };
    await exported(diskOf(good), watched);
    expect(events).toEqual(['renamed', `synced ${directory}`]);
  });

  it.each([
    ['misses a record', good.slice(1)],
    ['has an older one', older],
    ['lists a block twice', [good[0], good[0], ...good.slice(1)].filter((entry) => entry !== undefined)],
    ['lists a block the disk does not have', [...good, entryOf(7, 4)]],
  ])('that %s is not believed', async (_, listing) => {
    const lying = (): DiskAtPoint => ({ ...diskOf(listing), root: diskOf(good).root });
    await expect(exported(lying())).rejects.toMatchObject(damaged);
    await expect(served(lying(), 0, 4096)).rejects.toMatchObject(damaged);
  });
});

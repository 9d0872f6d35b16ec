/** Points of a real store, read by nodes, leaves and worker threads, held against a plain model of every point. */
import { mkdir, mkdtemp, readdir, readFile, rename, rm, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { systemClock as clock } from '../../src/kit/clock.ts';
import type { StoredEntry } from '../../src/store/machine-view.ts';
import { isProblem } from '../../src/kit/problem.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { limits } from '../../src/limits.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { serveNbd } from '../../src/nbd/server.ts';
import { PointBackend } from '../../src/recovery/point-backend.ts';
import { PointImage, type PointImageOptions } from '../../src/recovery/point-image.ts';
import { ReadPool } from '../../src/recovery/read-pool.ts';
import { DiskStore } from '../../src/store/disk-store.ts';
import { IndexReader } from '../../src/store/index-reader.ts';
import type { DiskAtPoint } from '../../src/store/machine-view.ts';
import { MachineLife, type BlockChange } from '../store/machine-fixture.ts';
import { requireTool, runToolOk } from '../tools.ts';
import { counted, StoreReading } from './store-fixture.ts';

const blockSize = 4096;
const blocks = 2048;
const size = blocks * blockSize;

function changes(most: number, least = 1): BlockChange[] {
  const made = new Map<number, BlockChange>();
  for (let count = least + ((random.bytes(1)[0] ?? 0) % most); count > 0; count -= 1) {
    const [high = 0, low = 0, kind = 0, mask = 0] = random.bytes(4);
    // Half of it in a few blocks that are written over and over.
    const block = kind % 2 === 0 ? low % 8 : (high * 256 + low) % blocks;
    made.set(block, { block, zero: kind % 7 === 0, mask: kind % 3 === 0 ? 0xffff : (mask << 4) | 1 });
  }
  return [...made.values()].sort((a, b) => a.block - b.block);
}

function whole(model: ReadonlyMap<number, Buffer>): Buffer {
  const bytes = Buffer.alloc(size);
  for (const [block, content] of model) content.copy(bytes, block * blockSize);
  return bytes;
}

async function readAll(image: PointImage): Promise<{ bytes: Buffer; damaged: number[] }> {
  const bytes = Buffer.alloc(size);
  const damaged: number[] = [];
  for await (const run of image.runs(image.stored())) {
    damaged.push(...run.damaged.keys());
    run.entries.forEach(({ block }, each) => {
      bytes.set(run.bytes.subarray(each * blockSize, (each + 1) * blockSize), block * blockSize);
    });
    image.giveBack(run);
  }
  return { bytes, damaged };
}

const codeOf = (error: unknown): string => (isProblem(error) ? error.code : String(error));

describe('a point of a store', () => {
  let pool: ReadPool;
  const undo: (() => Promise<void>)[] = [];
  beforeAll(() => {
    pool = new ReadPool({ threads: 2 });
  });
  afterAll(() => pool.close());
  afterEach(async () => {
    vi.restoreAllMocks();
    for (const step of undo.splice(0).reverse()) await step();
  });

  /** A store with so many points, closed, and what the disk held as of each. */
  const told = async (
    points: number,
    most = 60,
    least = 1,
  ): Promise<{ life: MachineLife; reading: StoreReading; models: Buffer[] }> => {
    const life = await MachineLife.begin();
    const reading = new StoreReading(life);
    undo.push(() => reading.end());
    const models: Buffer[] = [];
    for (let point = 1; point <= points; point += 1) {
      await life.point(changes(most, least));
      models.push(whole(life.image));
    }
    await life.close();
    return { life, reading, models };
  };
  const imageOf = async (at: DiskAtPoint, options: PointImageOptions = { pool }): Promise<PointImage> => {
    const image = new PointImage(at, clock, options);
    await image.checkLeaves();
    return image;
  };

  it('reads as the model says, by nodes and without a look at all records', async () => {
    const { reading, models } = await told(20);
    const at = await reading.view();
    for (const [index, model] of models.entries()) {
      const disk = counted(await at(index + 1));
      const { bytes, damaged } = await readAll(await imageOf(disk));
      expect([disk.scans(), damaged, bytes.equals(model)]).toEqual([0, [], true]);
    }
  });

  it('uses the memory of single blocks again, and takes it from whoever gave it back', async () => {
    const { reading, models } = await told(2);
    const image = await imageOf(await (await reading.view())(1));
    const entries: StoredEntry[] = [];
    for await (const entry of image.stored()) entries.push(entry);
    expect(entries.length).toBeGreaterThan(2);
    for (const entry of entries) {
      const run = await image.readRun([entry]);
      const { block } = entry;
      expect(
        Buffer.compare(run.bytes, models[0]?.subarray(block * blockSize, (block + 1) * blockSize) ?? run.bytes),
      ).toBe(0);
      image.giveBack(run);
      expect(run.bytes.byteLength).toBe(0);
    }
  });

  it('reads the same here and there, in any pieces, and tells its holes', async () => {
    const { reading, models } = await told(6);
    const model = models[3] ?? Buffer.alloc(0);
    const backend = new PointBackend(await imageOf(await (await reading.view())(4)));
    const reads = Array.from({ length: 300 }, async (_, index) => {
      const offset = index % 3 === 0 ? (index * 3000) % size : random.bytes(4).readUInt32LE(0) % size;
      const into = Buffer.alloc(
        Math.min(size - offset, 1 + (random.bytes(4).readUInt32LE(0) % (index % 50 === 0 ? size : 20_000))),
        0xee,
      );
      await backend.read(into, offset);
      return into.equals(model.subarray(offset, offset + into.byteLength));
    });
    expect(new Set(await Promise.all(reads))).toEqual(new Set([true]));
    for (let at = 0; at < size;) {
      const extents = await backend.extents(at, size - at);
      expect(extents.length).toBeGreaterThan(0);
      for (const { length, hole } of extents) {
        for (let block = at / blockSize; block < (at + length) / blockSize; block += 1) {
          const zero = model.subarray(block * blockSize, (block + 1) * blockSize).every((byte) => byte === 0);
          if (zero !== hole) throw new Error(`block ${block}: zero ${zero}, told ${hole}`);
        }
        at += length;
      }
    }
  });

  it.each<[string, (nodes: { node: number; hash: Uint8Array }[]) => { node: number; hash: Uint8Array }[]]>([
    ['lost', (nodes) => nodes.slice(1)],
    [
      'flipped',
      (nodes) =>
        nodes.map(({ node, hash }) => ({
          node,
          hash: Uint8Array.from(hash, (byte, at) => (at === 9 ? byte ^ 1 : byte)),
        })),
    ],
    ['swapped', (nodes) => nodes.map(({ hash }, index) => ({ node: index, hash }))],
    ['past the end of the disk', (nodes) => nodes.map(({ node, hash }) => ({ node: node + 99, hash }))],
  ])('whose nodes are %s is found by its records', async (_, change) => {
    const { reading, models } = await told(4);
    const disk = await (await reading.view())(3);
    const lying = counted({ ...disk, nodes: () => change([...disk.nodes()]) });
    expect((await readAll(await imageOf(lying))).bytes.equals(models[2] ?? Buffer.alloc(0))).toBe(true);
    expect(lying.scans()).toBe(1);
  });

  it('whose nodes are those of the point before is found by its records', async () => {
    const { reading, models } = await told(4);
    const at = await reading.view();
    const [before, disk] = [await at(2), await at(3)];
    const lying = counted({ ...disk, nodes: () => before.nodes() });
    expect((await readAll(await imageOf(lying))).bytes.equals(models[2] ?? Buffer.alloc(0))).toBe(true);
    expect(lying.scans()).toBe(1);
  });

  it('gets the nodes it lost at a commit when its disk is opened next, and all of them with an index begun anew', async () => {
    const { life, reading, models } = await told(3);
    const scans = async (point: number): Promise<number> => {
      const disk = counted(await (await reading.view())(point));
      const { bytes } = await readAll(await imageOf(disk));
      await reading.closeViews();
      expect(bytes.equals(models[point - 1] ?? Buffer.alloc(0))).toBe(true);
      return disk.scans();
    };
    const during = async (work: (now: MachineLife) => Promise<unknown>): Promise<void> => {
      const now = await MachineLife.open(life.directory, files, life.image);
      await work(now);
      await now.close();
    };
    vi.spyOn(DiskStore.prototype, 'noteNodes').mockResolvedValue();
    await during((now) => now.point([{ block: 5 }, { block: 1500 }]));
    vi.restoreAllMocks();
    models.push(whole(life.image));
    expect(await scans(4)).toBe(1);
    await during(() => Promise.resolve());
    expect([await scans(2), await scans(4)]).toEqual([0, 0]);
    await rm(life.path('index'), { recursive: true });
    await during((now) => now.point([{ block: 1500 }]));
    models.push(whole(life.image));
    expect([await scans(1), await scans(2), await scans(4), await scans(5)]).toEqual([0, 0, 0, 0]);
  });

  it('of a disk that grew since is known by its nodes, and so is the first one of the larger size', async () => {
    const small = { size: 1500 * blockSize, blockSize };
    const life = await MachineLife.begin(files, small);
    const reading = new StoreReading(life);
    undo.push(() => reading.end());
    await life.point([{ block: 2 }, { block: 1400 }]);
    await life.close();
    const grown = await MachineLife.open(life.directory, files, life.image, 'boot', { size, blockSize });
    await grown.point([{ block: 3 }]);
    // So that the larger one is no longer the newest, which is made good in another way.
    await grown.point([{ block: 3 }]);
    await grown.close();
    const scans = async (): Promise<number[]> => {
      const at = await reading.view();
      const found: number[] = [];
      for (const [point, sized] of [
        [1, small.size],
        [2, size],
      ] as const) {
        const disk = counted(await at(point));
        expect(disk.geometry.size).toBe(sized);
        await imageOf(disk);
        found.push(disk.scans());
      }
      await reading.closeViews();
      return found;
    };
    expect(await scans()).toEqual([0, 0]);
    await rm(life.path('index'), { recursive: true });
    await (await MachineLife.open(life.directory, files, life.image, 'boot', { size, blockSize })).close();
    expect(await scans()).toEqual([0, 0]);
  });

  it('goes on by another index where its own one gives an older record, and serves nothing without', async () => {
    const { reading, models } = await told(8);
    const disk = await (await reading.view())(8);
    const older = await (await reading.view())(1);
    // One that was written since.
    const lied = [...older.entries()].find(({ block, leaf }) => {
      const newest = disk.entry(block);
      return newest !== undefined && Buffer.compare(newest.leaf, leaf) !== 0;
    })?.block;
    if (lied === undefined) throw new Error('no block was written twice');
    const lie = (entry: ReturnType<DiskAtPoint['entry']>) => (entry?.block === lied ? older.entry(lied) : entry);
    const lying: DiskAtPoint = {
      ...disk,
      *entries(from, end) {
        for (const entry of disk.entries(from, end)) yield lie(entry) ?? entry;
      },
      entry: (block) => lie(disk.entry(block)),
    };
    const alone = await imageOf(lying);
    await expect(readAll(alone)).rejects.toMatchObject({ code: 'damaged' });
    await expect(new PointBackend(alone).read(Buffer.alloc(9000), 0)).rejects.toMatchObject({ code: 'damaged' });
    let asked = 0;
    const otherIndex = async (): Promise<DiskAtPoint> => {
      asked += 1;
      return (await reading.view({ ownIndex: true }))(8);
    };
    const image = await imageOf(lying, { pool, otherIndex });
    expect((await readAll(image)).bytes.equals(models[7] ?? Buffer.alloc(0))).toBe(true);
    const into = Buffer.alloc(size);
    await new PointBackend(image).read(into, 0);
    expect([into.equals(models[7] ?? Buffer.alloc(0)), asked]).toEqual([true, 1]);
  });

  it('walks not through all versions of a block that was written often', async () => {
    const life = await MachineLife.begin();
    const reading = new StoreReading(life);
    undo.push(() => reading.end());
    const models: Buffer[] = [];
    for (let point = 1; point <= 30; point += 1) {
      await life.point([{ block: 3 }, { block: 4 + point, mask: 1 }]);
      models.push(whole(life.image));
    }
    await life.close();
    const at = await reading.view();
    const lookUp = vi.spyOn(IndexReader.prototype, 'lookup');
    for (const point of [1, 5, 17, 30]) {
      lookUp.mockClear();
      expect([...(await at(point)).entries()].map(({ block }) => block).length).toBe(point + 1);
      expect(lookUp.mock.calls.length).toBe(1);
      expect((await readAll(await imageOf(await at(point)))).bytes.equals(models[point - 1] ?? Buffer.alloc(0))).toBe(
        true,
      );
    }
  });

  it('names what rotted, in the threads as here, and serves the rest', async () => {
    const { life, reading, models } = await told(1, 200, 60);
    const model = models[0] ?? Buffer.alloc(0);
    const disk = await (await reading.view())(1);
    const stored = [...disk.entries()].filter(({ record }) => record.storedLength > 64);
    const victims = new Set([stored[3], stored[4], stored.at(-1)].map((entry) => entry?.block ?? 0));
    for (const { block, record } of stored)
      if (victims.has(block)) await life.flip(record.segment, record.payloadOffset + 40);
    const expected = Buffer.from(model);
    for (const block of victims) expected.fill(0, block * blockSize, (block + 1) * blockSize);
    for (const options of [{ pool }, {}]) {
      const { bytes, damaged } = await readAll(await imageOf(disk, options));
      expect([new Set(damaged), bytes.equals(expected)]).toEqual([victims, true]);
    }
    const backend = new PointBackend(await imageOf(disk));
    for (let block = 0; block < blocks; block += 1) {
      const into = Buffer.alloc(blockSize, 0xee);
      const outcome = await backend.read(into, block * blockSize).then(() => 'served', codeOf);
      expect(outcome).toBe(victims.has(block) ? 'damaged' : 'served');
      if (outcome === 'served')
        expect(into.equals(model.subarray(block * blockSize, (block + 1) * blockSize))).toBe(true);
    }
  });

  it('says of every block what is wrong when its segment is gone', async () => {
    const { life, reading } = await told(1);
    const image = await imageOf(await (await reading.view())(1));
    await rm(life.path('segments'), { recursive: true });
    const other = new ReadPool({ threads: 1 });
    undo.push(() => other.close());
    const fresh = await imageOf(image.at, { pool: other });
    const { bytes, damaged } = await readAll(fresh);
    expect([damaged.length > 0, bytes.every((byte) => byte === 0)]).toEqual([true, true]);
  });

  it('calls nothing damaged because the system refused a read, and reads it when it can', async () => {
    const { life, reading, models } = await told(1, 50, 20);
    const segments = life.path('segments');
    const aside = path.join(life.directory, 'aside');
    const name = (await readdir(segments))[0] ?? '';
    await rename(path.join(segments, name), aside);
    // Opens, and can not be read.
    await mkdir(path.join(segments, name));
    const at = await (await reading.view())(1);
    const readBy = async (): Promise<unknown> => {
      const fresh = new ReadPool({ threads: 1 });
      try {
        return await readAll(await imageOf(at, { pool: fresh })).catch((error: unknown) => error);
      } finally {
        await fresh.close();
      }
    };
    expect(await readBy()).toMatchObject({ code: 'read-failed', retryable: true });
    await rmdir(path.join(segments, name));
    await rename(aside, path.join(segments, name));
    expect(await readBy()).toMatchObject({ damaged: [], bytes: models[0] });
  });

  it('finishes what is being read when reading ends, and refuses what comes later', async () => {
    const { reading } = await told(2, 250);
    const ending = new ReadPool({ threads: 1 });
    const opened = async (): Promise<PointBackend> =>
      new PointBackend(await imageOf(await (await reading.view())(2), { pool: ending }));
    const [backend, later] = [await opened(), await opened()];
    const reads = Array.from({ length: 20 }, (_, index) =>
      backend.read(Buffer.alloc(400_000), index * 400_000).then(() => 'served', codeOf),
    );
    await vi.waitFor(() => {
      expect(ending.availableBytes).toBeLessThan(limits.recovery.runsInFlightBytes);
    });
    await ending.close();
    // Of one read some runs may be with the threads and some not yet.
    const outcomes = new Set(await Promise.all(reads));
    expect(outcomes.has('served')).toBe(true);
    expect([...outcomes].filter((outcome) => outcome !== 'served' && outcome !== 'shutting-down')).toEqual([]);
    await expect(later.read(Buffer.alloc(size), 0)).rejects.toMatchObject({ code: 'shutting-down' });
  });

  it.skipIf(!requireTool('nbdcopy', 'qemu-img'))('is the model for nbdcopy and qemu-img, too', async () => {
    const { reading, models } = await told(5);
    const place = await mkdtemp(path.join(tmpdir(), 'tidemark-nbd-'));
    undo.push(() => rm(place, { recursive: true, force: true }));
    const exports = new Map([['vda', new PointBackend(await imageOf(await (await reading.view())(4)))]]);
    const server = await serveNbd({ exports, listen: { unixPath: path.join(place, 's') }, clock, files });
    undo.push(() => server.close());
    const copy = path.join(place, 'copy.raw');
    await runToolOk('nbdcopy', [server.uri('vda'), copy]);
    expect((await readFile(copy)).equals(models[3] ?? Buffer.alloc(0))).toBe(true);
    await runToolOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', server.uri('vda'), copy]);
  });
});

/** A point as an NBD backend: the suite of all backends, what its cache holds, and when it reads ahead. */
import { describe, expect, it } from 'vitest';
import { geometryOf } from '../../src/disk/geometry.ts';
import { zeroLeaf } from '../../src/disk/merkle.ts';
import { leafOf } from '../../src/kernels/hash.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { limits } from '../../src/limits.ts';
import { PointBackend } from '../../src/recovery/point-backend.ts';
import { PointImage } from '../../src/recovery/point-image.ts';
import { ReadCache } from '../../src/recovery/read-cache.ts';
import type { RunReader } from '../../src/recovery/read-pool.ts';
import { ReadStreams } from '../../src/recovery/read-streams.ts';
import { RootBuilder } from '../../src/recovery/root-builder.ts';
import type { DiskAtPoint, StoredEntry } from '../../src/store/machine-view.ts';
import type { RebuildTask } from '../../src/store/rebuild-run.ts';
import { backendContract, patchyContent } from '../nbd/backend-contract.ts';

const leafKey = new Uint8Array(32).fill(7);

/** A disk of this content whose index is right; `planned` hears which blocks are read as runs. */
function diskOf(
  content: Buffer,
  blockSize: number,
  planned: (blocks: readonly number[]) => void = () => undefined,
): DiskAtPoint {
  const geometry = geometryOf(content.byteLength, blockSize);
  const contentOf = (block: number): Buffer => {
    const bytes = Buffer.alloc(blockSize);
    content.copy(bytes, 0, block * blockSize, (block + 1) * blockSize);
    return bytes;
  };
  const none = { segment: 1, payloadOffset: 0, storedLength: 0, rawLength: 0, pageMask: 0xffff, codec: 0, nonce: 0 };
  const made = Array.from({ length: geometry.blockCount }, (_, block): StoredEntry => {
    const leaf = leafOf(leafKey, contentOf(block));
    const record = { ...none, block, seq: 1, tag: new Uint8Array(16), leaf, pages: null };
    return { block, leaf, zero: leaf === zeroLeaf, record };
  }).filter(({ zero }) => !zero);
  const builder = new RootBuilder(geometry);
  for (const { block, leaf } of made) builder.add(block, leaf);
  return {
    machine: 'web1',
    disk: 'vda',
    point: 1,
    cutTimeMs: 0,
    geometry,
    root: builder.root(),
    *entries(from = 0, end = geometry.blockCount) {
      yield* made.filter(({ block }) => block >= from && block < end);
    },
    entry: (block) => made.find((entry) => entry.block === block),
    nodes: () => [],
    renew: () => Promise.resolve(false),
    read: async ({ block }, into) => {
      await clock.turn();
      into.set(contentOf(block));
    },
    plan: (entries) => {
      planned(entries.map(({ block }) => block));
      return taskOf(
        content,
        entries.map(({ block }) => block),
        blockSize,
      );
    },
  };
}

/** The task a fake pool understands: blocks in `records`. */
function taskOf(content: Buffer, blocks: readonly number[], blockSize: number): RebuildTask {
  const disk = { machine: 'web1', no: 0, id: new Uint8Array(16), name: 'vda', blockSize, keys: new Map() };
  return {
    image: 1,
    segments: '',
    disk,
    layers: new Map(),
    blocks: blocks.length,
    records: Float64Array.from(blocks),
    values: content,
  };
}

class FakePool implements RunReader {
  availableBytes = limits.recovery.runsInFlightBytes;
  givenBack = 0;
  /** Blocks that fail, with what code. */
  readonly failing = new Map<number, string>();

  async read({ records, values, disk: { blockSize } }: RebuildTask): ReturnType<RunReader['read']> {
    await clock.sleep(1);
    const bytes = new ArrayBuffer(records.length * blockSize);
    const failures = [...records].flatMap((block, index) => {
      new Uint8Array(bytes).set(values.subarray(block * blockSize, (block + 1) * blockSize), index * blockSize);
      const code = this.failing.get(block);
      return code === undefined ? [] : [{ index, code, message: code, remedy: '', retryable: code !== 'damaged' }];
    });
    return { bytes, failures };
  }

  giveBack(bytes: ArrayBuffer): void {
    if (bytes.byteLength === 0) return;
    this.givenBack += 1;
    bytes.transfer();
  }
}

async function imageOf(at: DiskAtPoint, pool?: RunReader): Promise<PointImage> {
  const image = new PointImage(at, clock, { pool });
  await image.checkLeaves();
  return image;
}

backendContract('a recovery point read here', async (content) => ({
  backend: new PointBackend(await imageOf(diskOf(content, 4096))),
  end: () => Promise.resolve(),
}));
backendContract('a recovery point read by threads', async (content) => ({
  backend: new PointBackend(await imageOf(diskOf(content, 16_384), new FakePool())),
  end: () => Promise.resolve(),
}));

describe('the cache of a point', () => {
  const blockSize = 65_536;
  const content = patchyContent(24 * 1024 * 1024 + 512, 5);

  it('keeps no more than its bytes, whoever reads, and gives back the memory of what it forgets', async () => {
    const pool = new FakePool();
    const max = 3 * limits.recovery.runBytes;
    const cache = new ReadCache(await imageOf(diskOf(content, blockSize), pool), max);
    let most = 0;
    const read = async (offset: number, length: number): Promise<void> => {
      const into = Buffer.alloc(Math.min(length, content.byteLength - offset));
      await cache.read(into, offset);
      most = Math.max(most, cache.bytes);
      if (!into.equals(content.subarray(offset, offset + into.byteLength))) throw new Error(`wrong at ${offset}`);
    };
    for (let offset = 0; offset < content.byteLength; offset += 262_144) await read(offset, 262_144);
    await Promise.all(
      Array.from({ length: 200 }, (_, index) => read((index * 7_919_993) % content.byteLength, 90_000)),
    );
    await read(0, content.byteLength);
    expect(most).toBeLessThanOrEqual(max);
    expect(most).toBeGreaterThan(max / 2);
    expect(pool.givenBack).toBeGreaterThan(10);
  });

  it('gives a run to who waits for it though there is no room to keep it', async () => {
    const cache = new ReadCache(await imageOf(diskOf(content, blockSize), new FakePool()), 0);
    const into = Buffer.alloc(content.byteLength);
    await cache.read(into, 0);
    expect([into.equals(content), cache.bytes]).toEqual([true, 0]);
  });

  it('reads ahead of who reads in order, whole runs, each block once, and never past the end', async () => {
    const planned: number[] = [];
    const disk = diskOf(content, blockSize, (blocks) => planned.push(...blocks));
    const cache = new ReadCache(await imageOf(disk, new FakePool()));
    const into = Buffer.alloc(blockSize);
    for (let block = 0; block < 8; block += 1) await cache.read(into, block * blockSize);
    const ahead = Math.max(...planned);
    expect(ahead).toBeGreaterThan(16);
    expect(ahead).toBeLessThan(8 + 2 * (limits.recovery.readAheadBytesMax / blockSize));
    for (let block = 8; block * blockSize < content.byteLength; block += 1) {
      await cache.read(
        into.subarray(0, Math.min(blockSize, content.byteLength - block * blockSize)),
        block * blockSize,
      );
    }
    expect(Math.max(...planned)).toBeLessThan(disk.geometry.blockCount);
    expect(new Set(planned).size).toBe(planned.length);
  });

  it('begins nothing ahead while the threads have enough to do', async () => {
    const planned: number[] = [];
    const pool = new FakePool();
    pool.availableBytes = limits.recovery.runBytes - 1;
    const cache = new ReadCache(
      await imageOf(
        diskOf(content, blockSize, (blocks) => planned.push(...blocks)),
        pool,
      ),
    );
    const into = Buffer.alloc(blockSize);
    for (let block = 0; block < 20; block += 1) await cache.read(into, block * blockSize);
    expect(Math.max(...planned)).toBeLessThan(32);
  });

  it.each(['damaged', 'read-failed'])('does not remember a run with a block that is %s', async (code) => {
    const pool = new FakePool();
    const dense = Buffer.alloc(8 * blockSize, 9);
    const disk = diskOf(dense, blockSize);
    // What threads find damaged is read here once more.
    const read: DiskAtPoint['read'] = (entry, into) =>
      pool.failing.has(entry.block) ? Promise.reject(new Problem('damaged', 'rotten')) : disk.read(entry, into);
    const cache = new ReadCache(await imageOf({ ...disk, read }, pool));
    const into = Buffer.alloc(4 * blockSize);
    pool.failing.set(2, code);
    for (let time = 0; time < 2; time += 1) await expect(cache.read(into, 0)).rejects.toMatchObject({ code });
    pool.failing.clear();
    await cache.read(into, 0);
    expect(into.equals(dense.subarray(0, into.byteLength))).toBe(true);
  });
});

describe('streams', () => {
  const streams = (): ReadStreams =>
    new ReadStreams({ runBlocks: 16, windowBlocksMax: 64, streamsMax: 3, blockCount: 1000 });

  it('are not seen in reads here and there', () => {
    const seen = streams();
    for (const block of [500, 20, 900, 300, 700, 100, 400]) expect(seen.note(block, block + 1)).toBe(block + 1);
  });

  it('are told apart, and their windows grow to the most and end with the disk', () => {
    const seen = streams();
    for (let step = 0; step < 30; step += 1) {
      for (const start of [0, 300, 600]) {
        const end = start + 4 * (step + 1);
        const ahead = seen.note(end - 4, end);
        if (step < 2) expect(ahead).toBe(end);
        else expect(ahead - end).toBeGreaterThanOrEqual(16);
        expect(ahead - end).toBeLessThanOrEqual(64 + 16);
      }
    }
    for (let block = 900; block < 1000; block += 10) expect(seen.note(block, block + 10)).toBeLessThanOrEqual(1000);
  });

  it('go on though requests come out of their order', () => {
    const seen = streams();
    for (const block of [0, 4, 12, 8, 16, 24, 20]) seen.note(block, block + 4);
    expect(seen.note(28, 32)).toBeGreaterThan(32);
  });
});

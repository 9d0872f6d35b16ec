/** Opening does not depend on how many points there are, how often a block was written, or how large the disk is. */
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { PointBackend } from '../../src/recovery/point-backend.ts';
import { PointImage } from '../../src/recovery/point-image.ts';
import type { DiskAtPoint } from '../../src/store/machine-view.ts';
import { MachineLife } from '../store/machine-fixture.ts';
import { counted, StoreReading } from './store-fixture.ts';

/** Nothing here loses power. */
const unsynced: Files = {
  ...posixFiles,
  open: async (name, mode, permissions) => {
    const file = await posixFiles.open(name, mode, permissions);
    file.datasync = () => Promise.resolve();
    return file;
  },
};

/** Seconds of processor time, whoever else uses the machine meanwhile. */
async function processorSeconds(work: () => Promise<void>): Promise<number> {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

/** How many records of the index are turned into entries. */
function listed(at: DiskAtPoint): DiskAtPoint & { readonly entriesListed: () => number } {
  let number = 0;
  return {
    ...at,
    entriesListed: () => number,
    *entries(from, end) {
      for (const entry of at.entries(from, end)) {
        number += 1;
        yield entry;
      }
    },
  };
}

describe('a point', () => {
  const undo: (() => Promise<void>)[] = [];
  afterEach(async () => {
    for (const step of undo.splice(0).reverse()) await step();
  });
  const begin = async (shape?: {
    size: number;
    blockSize: number;
  }): Promise<{ life: MachineLife; reading: StoreReading }> => {
    const life = await MachineLife.begin(unsynced, shape);
    const reading = new StoreReading(life);
    undo.push(() => reading.end());
    return { life, reading };
  };

  it('among 10,000, of blocks written at each of them, opens within a second', { timeout: 120_000 }, async () => {
    const { life, reading } = await begin();
    const points = 10_000;
    let middle = Buffer.alloc(0);
    for (let point = 1; point <= points; point += 1) {
      await life.point([{ block: 7, mask: 1 << (point % 16) }, { block: 20 + (point % 2000) }]);
      if (point === points / 2) middle = Buffer.from(life.image.get(7) ?? middle);
    }
    await life.close();
    for (const [point, expected] of [
      [points / 2, middle],
      [points, life.image.get(7)],
    ] as const) {
      const seconds = await processorSeconds(async () => {
        const disk = counted(await (await reading.view())(point));
        const image = new PointImage(disk, clock);
        await image.checkLeaves();
        const into = Buffer.alloc(4096);
        await image.readBlock(7, into);
        expect([disk.scans(), into.equals(expected ?? Buffer.alloc(0))]).toEqual([0, true]);
      });
      expect(seconds).toBeLessThan(1);
    }
  });

  it(
    'of a sparse disk of 4 TiB opens within a second, in memory that does not grow with it',
    { timeout: 120_000 },
    async () => {
      const blockSize = 65_536;
      const size = 2 ** 42;
      const last = size / blockSize - 1;
      const { life, reading } = await begin({ size, blockSize });
      const written = [0, 5, 1023, 1024, 1_000_003, 2 ** 25, last];
      await life.point(written.map((block) => ({ block })));
      await life.point([
        { block: 5, mask: 3 },
        { block: last, zero: true },
      ]);
      await life.close();
      const before = process.memoryUsage().arrayBuffers;
      const disk = listed(await (await reading.view())(2));
      const seconds = await processorSeconds(async () => {
        const image = new PointImage(disk, clock);
        await image.checkLeaves();
        const backend = new PointBackend(image);
        for (const block of written) {
          const into = Buffer.alloc(blockSize, 0xee);
          await backend.read(into, block * blockSize);
          expect(into.equals(life.image.get(block) ?? Buffer.alloc(0))).toBe(true);
        }
        for (let at = 0; at < size;) {
          for (const { length, hole } of await backend.extents(at, Math.min(size - at, 2 ** 32 - 1))) {
            if (!hole) expect(written).toContain(Math.floor(at / blockSize));
            at += length;
          }
        }
      });
      expect(seconds).toBeLessThan(1);
      expect(disk.entriesListed()).toBeLessThan(5 * written.length);
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(24 * MiB);
    },
  );
});

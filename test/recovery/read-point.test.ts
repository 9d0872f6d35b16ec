/** Points of a real store, read by nodes, leaves and worker threads, held against a plain model of every point. */
import { rm } from 'node:fs/promises';
import * as path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { posixFiles as files } from '../../src/posix/files.ts';

import { PointImage } from '../../src/recovery/point-image.ts';
import { ReadPool } from '../../src/recovery/read-pool.ts';
import { MachineView, type DiskAtPoint } from '../../src/store/machine-view.ts';
import { Vault } from '../../src/store/vault.ts';

import { MachineLife, type BlockChange } from '../store/machine-fixture.ts';

const blockSize = 4096;
const blocks = 2048;
type Model = ReadonlyMap<number, Buffer>;

/** What the disk held as of each point, from point 1 on. */
async function story(life: MachineLife, points: number): Promise<Model[]> {
  const models: Model[] = [];
  for (let point = 1; point <= points; point += 1) {
    const changes = new Map<number, BlockChange>();
    for (let count = 1 + ((random.bytes(1)[0] ?? 0) % 60); count > 0; count -= 1) {
      const [high = 0, low = 0, kind = 0, mask = 0] = random.bytes(4);
      // Half of it in a few blocks that are written over and over.
      const block = kind % 2 === 0 ? low % 8 : (high * 256 + low) % blocks;
      changes.set(block, { block, zero: kind % 7 === 0, mask: kind % 3 === 0 ? 0xffff : (mask << 4) | 1 });
    }
    await life.point([...changes.values()].sort((a, b) => a.block - b.block));
    models.push(new Map(life.image));
  }
  return models;
}

function whole(model: Model): Buffer {
  const bytes = Buffer.alloc(blocks * blockSize);
  for (const [block, content] of model) content.copy(bytes, block * blockSize);
  return bytes;
}

/** The disk, and how often its index was asked for all records. */
function counted(at: DiskAtPoint): DiskAtPoint & { scans: number } {
  const counting = {
    ...at,
    scans: 0,
    entries: (from?: number, end?: number) => {
      if (end === undefined) counting.scans += 1;
      return at.entries(from, end);
    },
  };
  return counting;
}

describe('a point of a store', () => {
  let pool: ReadPool;
  const undo: (() => Promise<void>)[] = [];
  beforeAll(() => {
    pool = new ReadPool({ threads: 2 });
  });
  afterAll(() => pool.close());
  afterEach(async () => {
    for (const step of undo.splice(0).reverse()) await step();
  });

  const begin = async (): Promise<MachineLife> => {
    const life = await MachineLife.begin();
    undo.push(() => rm(life.directory, { recursive: true, force: true }));
    return life;
  };
  const viewOf = async (directory: string, ownIndex = false): Promise<(point: number) => Promise<DiskAtPoint>> => {
    const scratch = path.join(directory, `scratch-${undo.length}`);
    const options = {
      files,
      clock,
      data: path.join(directory, 'data'),
      machine: 'm1',
      bootId: 'boot',
      scratch,
      ownIndex,
    };
    const view = await MachineView.open(options);
    undo.push(() => view.close());
    const vault = await Vault.open({ files, random, keyFile: path.join(directory, 'vault.key') });
    return (point) => view.diskAt(view.disk('vda'), view.choosePoint(point), vault);
  };

  it('reads as the model says, and is known by its nodes, without a look at its records', async () => {
    const life = await begin();
    const models = await story(life, 25);
    await life.store.close();
    const open = await viewOf(life.directory);
    for (const [index, model] of models.entries()) {
      const at = counted(await open(index + 1));
      const image = new PointImage(at, clock, { pool });
      await image.checkLeaves();
      expect(at.scans).toBe(0);
      const bytes = Buffer.alloc(blocks * blockSize);
      for await (const run of image.runs(image.stored())) {
        expect(run.damaged.size).toBe(0);
        run.entries.forEach(({ block }, each) => {
          bytes.set(run.bytes.subarray(each * blockSize, (each + 1) * blockSize), block * blockSize);
        });
      }
      expect(bytes.equals(whole(model))).toBe(true);
    }
  });
});

/** Whoever reads a point holds it, whoever folds sees that; a holder that is gone holds nothing. */
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { heldSinceMs, holdPoints, pointsInUse, type InUse, type PointsHold } from '../../src/store/points-in-use.ts';
import { holdAlone, removeMachine } from '../../src/store/machine-removal.ts';
import { readMachineFacts } from '../../src/store/machine-directory.ts';
import { PointsLog } from '../../src/store/points-log.ts';
import { MachineLife } from './machine-fixture.ts';

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
});
afterEach(() => life.remove());

const place = (): { files: Files; clock: typeof systemClock; data: string; machine: string } => ({
  files: posixFiles,
  clock: systemClock,
  data: `${life.directory}/data`,
  machine: 'm1',
});
const hold = (points: 'all' | number[], files: Files = posixFiles): Promise<PointsHold> =>
  holdPoints({ ...place(), files, random: systemRandom, role: 'test', points });
const used = (inUse: InUse, upTo = 5): number[] =>
  Array.from({ length: upTo }, (_, at) => at + 1).filter((point) => inUse(point));

async function retire(first: number, last: number): Promise<void> {
  await life.disk();
  const machineId = Buffer.from((await readMachineFacts(posixFiles, place().data, 'm1'))?.id ?? '', 'hex');
  await life.store.close();
  const log = await PointsLog.open({ files: posixFiles, path: life.path('points.log'), machineId });
  await log.append({ type: 'retired', body: { points: [[first, last]], atMs: 1 } });
  await log.close();
}
it('shows what is held until it is given back, by any number of holders', async () => {
  await life.point([{ block: 1 }]);
  await life.point([{ block: 1 }]);
  expect(await heldSinceMs(place())).toBeNull();
  const before = systemClock.wallMs();
  const [one, two, all] = [await hold([2]), await hold([1, 2]), await hold('all')];
  expect(await heldSinceMs(place())).toBeGreaterThanOrEqual(before);
  expect(used(await pointsInUse(place()))).toEqual([1, 2, 3, 4, 5]);
  await all.release();
  expect(used(await pointsInUse(place()))).toEqual([1, 2]);
  await two.release();
  await two.release();
  expect(used(await pointsInUse(place()))).toEqual([2]);
  await one.release();
  expect(used(await pointsInUse(place()))).toEqual([]);
  expect(await readdir(life.path('in-use'))).toEqual([]);
});

it('refuses a retired point and leaves nothing behind', async () => {
  for (let count = 0; count < 3; count += 1) await life.point([{ block: 1 }]);
  await retire(1, 2);
  await expect(hold([3, 2])).rejects.toMatchObject({
    code: 'not-found',
    message: expect.stringMatching(/point 2 of machine m1 is no longer kept/) as unknown,
  });
  expect(await readdir(life.path('in-use'))).toEqual([]);
  const held = await hold([3]);
  expect(used(await pointsInUse(place()))).toEqual([3]);
  await held.release();
});

it('takes away what a process left that is gone, under its name or before it had one', async () => {
  await life.point([{ block: 1 }]);
  await mkdir(life.path('in-use'), { recursive: true });
  await writeFile(life.path('in-use', 'nbd-1-aa.json'), '{"points":[1],"pid":1}');
  await writeFile(life.path('in-use', 'nbd-1-bb.json.new'), '');
  expect(used(await pointsInUse(place()))).toEqual([]);
  expect(await readdir(life.path('in-use'))).toEqual([]);
});

it('makes its file again when fold takes it for stale before it is locked', async () => {
  await life.point([{ block: 1 }]);
  let taken = 0;
  const files: Files = {
    ...posixFiles,
    rename: async (from, to) => {
      taken += 1;
      if (taken < 3) await rm(from);
      await posixFiles.rename(from, to);
    },
  };
  const held = await hold([1], files);
  expect(taken).toBe(3);
  expect(used(await pointsInUse(place()))).toEqual([1]);
  await held.release();
});

it('counts a failover whatever process lives, and what it can not read for all points', async () => {
  await life.point([{ block: 1 }]);
  await mkdir(life.path('failovers', 'test-1'), { recursive: true });
  expect(used(await pointsInUse(place()))).toEqual([]);
  await writeFile(life.path('failovers', 'test-1', 'failover.json'), '{"format":1,"point":4,"createdMs":5}');
  expect(used(await pointsInUse(place()))).toEqual([4]);
  expect(await heldSinceMs(place())).toBe(5);
  await writeFile(life.path('failovers', 'test-1', 'failover.json'), '{"format":1,');
  expect(used(await pointsInUse(place()))).toEqual([1, 2, 3, 4, 5]);
});

it.each(['EROFS', 'EACCES'])(
  'holds nothing where it gets %s, and refuses to go on where a target runs',
  async (code) => {
    await life.point([{ block: 1 }]);
    const refused = (): Promise<never> => Promise.reject(Object.assign(new Error('refused'), { code }));
    const readOnly = { ...posixFiles, makeDirectory: refused };
    await expect(hold([1], readOnly)).rejects.toMatchObject({ code: 'locked' });
    await life.close();
    const held = await hold([1], readOnly);
    life = await MachineLife.open(life.directory, posixFiles, life.image);
    expect(held.held).toBe(false);
    expect(used(await pointsInUse(place()))).toEqual([]);
  },
);

const alone = (files: Files = posixFiles): Promise<PointsHold | null> =>
  holdAlone({ ...place(), files, random: systemRandom });

it('is not deleted while it is read, and not read while it is deleted', async () => {
  await life.point([{ block: 1 }]);
  const reader = await hold([1]);
  await expect(alone()).rejects.toMatchObject({ code: 'in-use' });
  // Which gave back what it had taken meanwhile.
  const second = await hold('all');
  await second.release();
  await reader.release();
  const removal = await alone();
  for (const points of ['all', [1]] as const)
    await expect(hold(points as 'all' | number[])).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('is being deleted') as unknown,
    });
  // Who deletes the machine holds no point of it against fold.
  expect([used(await pointsInUse(place())), await heldSinceMs(place())]).toEqual([[], null]);
  await removal?.release();
  await (await hold([1])).release();
  expect(await readdir(life.path('in-use'))).toEqual([]);
});

it('at least one of who reads and who deletes sees the other, whichever of their operations come between', async () => {
  await life.point([{ block: 1 }]);
  // The removal comes whole before each operation of the reader, and the other way round.
  const outcomes = new Set<string>();
  for (const [first, second] of [
    [(files: Files) => hold([1], files), () => alone()],
    [(files: Files) => alone(files), () => hold([1])],
  ] as const) {
    for (let at = 1; ; at += 1) {
      let operations = 0;
      const between: { other: PromiseSettledResult<PointsHold | null> | null } = { other: null };
      const step = async (): Promise<void> => {
        operations += 1;
        if (operations === at) [between.other = null] = await Promise.allSettled([second()]);
      };
      const files = new Proxy(posixFiles, {
        get: (target, key) => {
          const operation: unknown = Reflect.get(target, key);
          if (typeof operation !== 'function') return operation;
          return (...args: unknown[]): unknown => step().then(() => Reflect.apply(operation, target, args) as unknown);
        },
      });
      const [one] = await Promise.allSettled([first(files)]);
      if (between.other === null) break;
      const held = [one, between.other].flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
      outcomes.add(`${one.status}, ${between.other.status}`);
      expect(held.length, `operation ${at}`).toBeLessThan(2);
      for (const each of held) await each?.release();
    }
  }
  expect(outcomes.has('rejected, fulfilled')).toBe(true);
  expect(outcomes.has('fulfilled, rejected')).toBe(true);
});

it('is refused to who comes when the machine is gone, and nothing is made of it', async () => {
  await life.point([{ block: 1 }]);
  await life.close();
  const removal = await alone();
  await removeMachine(posixFiles, place().data, 'm1');
  await removal?.release();
  await expect(hold([1])).rejects.toMatchObject({ code: 'not-found' });
  expect(await readdir(`${place().data}/machines`)).toEqual([]);
  await life.remove();
  // Between the look for the machine and the first file.
  life = await MachineLife.begin();
  await life.point([{ block: 1 }]);
  await life.close();
  const files: Files = {
    ...posixFiles,
    open: async (path, mode, permissions) => {
      if (mode === 'exclusive') await removeMachine(posixFiles, place().data, 'm1');
      return posixFiles.open(path, mode, permissions);
    },
  };
  await expect(hold([1], files)).rejects.toMatchObject({ code: 'not-found' });
});

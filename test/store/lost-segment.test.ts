/** Segments that vanish or shrink below the place where an opening begins to read. */
import { open, rm, stat, truncate } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { MachineLife } from './machine-fixture.ts';

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
});
afterEach(() => life.remove());

const segment = (number: number): string => life.path('segments', `00000${number}.seg`);
const some = (count: number, first = 0): { block: number }[] =>
  Array.from({ length: count }, (_, index) => ({ block: first + index }));

/** Three proven points, a segment each: blocks 0 to 2, block 5, block 0 again. */
async function threePoints(): Promise<void> {
  await life.point(some(3));
  life = await life.again();
  await life.point([{ block: 5 }]);
  life = await life.again();
  await life.point([{ block: 0 }]);
  await life.prove();
  expect(life.states()).toEqual(['proven', 'proven', 'proven']);
}

async function repairList(): Promise<number[]> {
  return (await life.disk()).blocksToRepair();
}

it.each([
  ['a missing segment', (file: string) => rm(file)],
  ['a segment that was cut off', (file: string) => truncate(file, 200)],
])('%s far below the end is noticed at opening, once, and its blocks are asked for', async (_, harm) => {
  await threePoints();
  await life.close();
  await harm(segment(1));
  life = await life.again();
  expect(life.report.damage).toMatchObject([{ segment: 1 }]);
  expect(life.report.lost).toEqual([{ point: 1, disk: 'vda', blocks: 3 }]);
  expect(life.states()).toEqual(['damaged', 'committed', 'committed']);
  expect(await repairList()).toEqual([1, 2]);
  await life.prove();
  expect(life.states()).toEqual(['damaged', 'damaged', 'damaged']);
  const { size } = await stat(life.path('points.log'));

  life = await life.again();
  expect(life.report.lost).toEqual([]);
  expect((await stat(life.path('points.log'))).size).toBe(size);
  expect(await repairList()).toEqual([1, 2]);
  await life.point(some(2, 1));
  await life.prove();
  expect(life.states().at(-1)).toBe('proven');
  expect(await repairList()).toEqual([]);
});

it('a missing segment is told of at each opening, also when nothing of it is needed any more; its blocks are told once', async () => {
  await threePoints();
  await life.close();
  await rm(segment(1));
  life = await life.again();
  await life.prove();
  await life.point(some(2, 1));
  await life.prove();
  // Only the newest point is left, and has nothing from there.
  await life.fold();
  const { size } = await stat(life.path('points.log'));
  for (let opening = 1; opening <= 2; opening += 1) {
    life = await life.again();
    expect([life.report.damage, life.report.lost]).toMatchObject([[{ segment: 1 }], []]);
    expect(life.states().at(-1)).toBe('proven');
    expect((await stat(life.path('points.log'))).size).toBe(size);
  }
});

it('the last segment missing, and with it the only point, is noticed too', async () => {
  await life.point(some(3));
  await life.close();
  await rm(segment(1));
  life = await life.again();
  expect(life.report.lost).toEqual([{ point: 1, disk: 'vda', blocks: 3 }]);
  expect(life.states()).toEqual(['damaged']);
  expect(await repairList()).toEqual([0, 1, 2]);
});

it('a segment whose header rotted is told of, and costs no block', async () => {
  await threePoints();
  await life.close();
  const file = await open(segment(1), 'r+');
  await file.write(Buffer.alloc(8, 0x55), 0, 8, 8);
  await file.close();
  life = await life.again();
  expect(life.report.damage).toMatchObject([{ segment: 1, offset: 0 }]);
  expect([life.report.lost, await repairList()]).toEqual([[], []]);
  expect(life.states()).toEqual(['proven', 'proven', 'proven']);
});

it('a proven point with some pages from a lost segment is not whole any more; one that replaced them all is', async () => {
  await life.point([{ block: 1 }]);
  life = await life.again();
  await life.point([{ block: 1, mask: 1 }]);
  await life.point([{ block: 1 }]);
  await life.prove();
  expect(life.states()).toEqual(['proven', 'proven', 'proven']);
  await life.close();
  await rm(segment(1));
  life = await life.again();
  expect(life.states()).toEqual(['damaged', 'committed', 'committed']);
  await life.prove();
  expect(life.states()).toEqual(['damaged', 'damaged', 'proven']);
  expect(await repairList()).toEqual([]);
});

/** A point of several layers. */
import { rm } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { runOf } from '../layers.ts';
import { MachineLife } from './machine-fixture.ts';

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
});
afterEach(() => life.remove());

const segment = (number: number): string => life.path('segments', `00000${number}.seg`);

async function blocksOf(point: number): Promise<number[]> {
  const blocks: number[] = [];
  for await (const block of life.store.blocksOf(await life.disk(), point)) blocks.push(block);
  return blocks;
}

it('the blocks of a point are those of all its layers, and of no others', async () => {
  await life.point([{ block: 1 }]);
  const layers = [[2, 3], [3, 9], [5]].map((blocks) => blocks.map((block) => ({ block })));
  const seqs: number[] = [];
  for (const blocks of layers) seqs.push(await life.layer(blocks));
  expect(await life.commit(runOf(seqs), 5)).toBe(2);
  await life.point([{ block: 7 }]);
  expect([await blocksOf(1), await blocksOf(2), await blocksOf(3)]).toEqual([[1], [2, 3, 9, 5], [7]]);
  await life.prove();
  expect(life.states()).toEqual(['proven', 'proven', 'proven']);
  await life.close();
  await rm(segment(1));
  life = await life.again();
  expect(life.report.lost.map(({ point, blocks }) => [point, blocks])).toEqual([
    [1, 1],
    [2, 4],
    [3, 1],
  ]);
});

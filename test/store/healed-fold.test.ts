/** Points that were damaged or healed, and compaction that empties the segments they were written to. */
import { readdir, rm } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { invariant } from '../../src/kit/invariant.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { keepAll } from '../../src/store/retention.ts';
import { runOf } from '../layers.ts';
import { MachineLife } from './machine-fixture.ts';

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
});
afterEach(() => life.remove());

const some = (count: number, first = 0): { block: number }[] =>
  Array.from({ length: count }, (_, index) => ({ block: first + index }));

async function flipPayload(block: number, point: number): Promise<void> {
  const seq = life.store.points.point(point)?.disks[0]?.layers?.last ?? 0;
  const entry = life.store.storedRecords().entry(0, block, seq);
  invariant(entry, 'the record is there');
  await life.flip(entry.segment, entry.payloadOffset + 3);
}

/** Ends the segment that is written to. */
async function nextSegment(): Promise<void> {
  life = await life.again();
}

it('a batch that compaction finds damaged condemns the records in it that are, and no others', async () => {
  await life.point(some(6));
  await nextSegment();
  await life.point(some(4, 2));
  await nextSegment();
  await life.point([{ block: 20 }]);
  await life.prove();
  // Read by no point that is kept: the first one is retired below.
  await flipPayload(5, 1);
  const { outcome } = await life.fold({ ...keepAll, hours: -1 });
  expect(outcome.damage).toMatchObject([{ segment: 1 }]);
  expect(life.store.points.isRetired(1)).toBe(true);
  expect(life.states().slice(1)).toEqual(['proven', 'proven']);
  expect(life.store.points.damaged.size).toBe(0);
});

it('what healed a point is kept for as long as the point is, wherever it goes', async () => {
  await life.point(some(6));
  const content = Buffer.from(life.image.get(1) ?? '');
  await nextSegment();
  await flipPayload(1, 1);
  await life.prove();
  expect(life.states()).toEqual(['damaged']);
  // Little of its segment is left when its own point is retired.
  await life.point([{ block: 1, same: true }, ...some(6, 10)]);
  await life.prove();
  expect(life.states()).toEqual(['proven', 'proven']);
  await nextSegment();
  await life.point([{ block: 1 }, ...some(6, 10)]);
  await nextSegment();
  await life.point([{ block: 30 }]);
  await life.prove();
  await life.pin(1, true);
  await life.fold();
  expect([life.store.points.isRetired(2), life.states()[0]]).toEqual([true, 'proven']);
  expect(await readdir(life.path('segments'))).not.toContain('000002.seg');
  const into = Buffer.alloc(4096);
  await life.store.readerAt(await life.disk(), 1).readBlock(1, into);
  expect(into.equals(content)).toBe(true);
  await life.close();
  await rm(life.path('index'), { recursive: true });
  life = await MachineLife.open(life.directory, posixFiles, life.image);
  into.fill(0);
  await life.store.readerAt(await life.disk(), 1).readBlock(1, into);
  expect(into.equals(content)).toBe(true);
});

it('a point that is proven again is proven by the records it has, wherever they lie now', async () => {
  const first = await life.layer(some(6));
  await nextSegment();
  const second = await life.layer(some(5));
  await life.commit(runOf([first, second]), 11);
  await nextSegment();
  await life.point([{ block: 20 }]);
  await nextSegment();
  await life.point([{ block: 21 }]);
  await life.prove();
  await life.fold(keepAll);
  // Block 5 was alone in it with something to say.
  expect(await readdir(life.path('segments'))).not.toContain('000001.seg');
  const blocks: number[] = [];
  for await (const block of life.store.blocksOf(await life.disk(), 1)) blocks.push(block);
  expect(blocks.sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5]);
});

it('a record that compaction moves during a proof is read where it is now, not what stood there before', async () => {
  const first = await life.layer(some(6));
  await nextSegment();
  const second = await life.layer(some(5));
  await life.commit(runOf([first, second]), 11);
  await nextSegment();
  await life.point(some(8, 20));
  await life.prove();
  const reader = life.store.readerAt(await life.disk(), 2);
  const into = Buffer.alloc(4096);
  const expectBlock = async (block: number): Promise<void> => {
    await reader.readBlock(block, into);
    expect(into.equals(life.image.get(block) ?? Buffer.alloc(0)), `block ${block}`).toBe(true);
  };
  // These follow one another where the log ends, and so will the record of block 5.
  for (let block = 20; block < 28; block += 1) await expectBlock(block);
  await life.fold(keepAll);
  expect(await readdir(life.path('segments'))).not.toContain('000001.seg');
  await expectBlock(5);
});

/** Bytes above what points rely on that rot while the target is down: what is said of the records around them when it opens again. */
import { cp, open, rename, rm } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { invariant } from '../../src/kit/invariant.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { IndexEntry } from '../../src/store/index-codec.ts';
import { MachineLife, retireAll } from './machine-fixture.ts';

type Limits = typeof import('../../src/limits.ts');
vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<Limits>();
  const { limits } = real;
  const target = { ...limits.target, segmentBytesMax: 49_152, groupBytesMax: 32_768 };
  // Two blocks are moved at a time.
  const store = { ...limits.store, movedBytes: 9_000, foldStepRecords: 16 };
  return { ...real, limits: { ...limits, target, store } };
});

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
});
afterEach(() => life.remove());

const blocks = (first: number, count: number): { block: number }[] =>
  Array.from({ length: count }, (_, at) => ({ block: first + at }));

it('of records that were moved only the one that rotted is lost', async () => {
  await life.point(blocks(0, 10));
  const first = life.store.points.listedSeq(0);
  await life.point(blocks(3, 7));
  await life.point(blocks(3, 7));
  await life.prove();
  const placeOf = (block: number): IndexEntry => {
    const entry = life.store.storedRecords().entry(0, block, first);
    invariant(entry, 'nobody wrote the block again');
    return entry;
  };
  expect(placeOf(0).segment).toBe(1);
  // The target ends once some are moved, before the segment is let go and any point relies on the copies.
  await life.store.fold().run(retireAll, { step: (bytes) => Promise.resolve(bytes < 46_000) });
  await vi.waitFor(() => {
    expect(placeOf(0).segment).not.toBe(1);
  });
  const moved = placeOf(0);
  expect([placeOf(1).segment, life.store.points.removed.has(1)]).toEqual([moved.segment, false]);
  await life.close();
  // The log went on behind them; the index that is found is one of before that.
  await cp(life.path('index'), life.path('index-before'), { recursive: true });
  life = await MachineLife.open(life.directory, posixFiles, life.image);
  await life.layer(blocks(50, 1));
  await life.close();
  await rm(life.path('index'), { recursive: true });
  await rename(life.path('index-before'), life.path('index'));
  const file = await open(life.path('segments', `${String(moved.segment).padStart(6, '0')}.seg`), 'r+');
  await file.write(Buffer.from([7, 7, 7, 7]), 0, 4, moved.payloadOffset + 100);
  await file.close();
  life = await MachineLife.open(life.directory, posixFiles, life.image);
  expect(life.report).toMatchObject({ damage: [{ segment: moved.segment }], lost: [{ point: 3, blocks: 1 }] });
  expect([...(life.store.points.damaged.get(3)?.get(0) ?? [])]).toEqual([0]);
  const into = Buffer.alloc(4096);
  await life.store.readerAt(await life.disk(), 3).readBlock(1, into);
  expect(into.equals(life.image.get(1) ?? Buffer.alloc(0))).toBe(true);
});

/** Fold where it hurts: damage, refused reads, no space, points in use, points not proven yet. Without any key. */
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { statSync } from 'node:fs';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import type { FoldOutcome } from '../../src/store/machine-fold.ts';
import { readStoreFacts } from '../../src/store/machine-directory.ts';
import { MachineView } from '../../src/store/machine-view.ts';
import { Vault } from '../../src/store/vault.ts';
import { holdPoints } from '../../src/store/points-in-use.ts';
import { segmentName } from '../../src/store/segment-format.ts';
import { RecordIndex } from '../../src/store/record-index.ts';
import { MachineLife, retireAll } from './machine-fixture.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallSegments } = await import('./small-segments.ts');
  return smallSegments(await load(), 49_152);
});

let life: MachineLife;
let images: Map<number, Buffer>[];
beforeEach(async () => {
  life = await MachineLife.begin();
  images = [];
});
afterEach(async () => {
  vi.restoreAllMocks();
  await life.remove();
});

const blocks = (first: number, count: number): { block: number }[] =>
  Array.from({ length: count }, (_, at) => ({ block: first + at }));

async function point(changes: readonly { block: number; mask?: number }[]): Promise<void> {
  await life.point(changes);
  images.push(new Map(life.image));
}

/** Five points; of the first segments little lives on when only the newest is kept. */
async function fivePoints(): Promise<void> {
  await point(blocks(0, 10));
  await point(blocks(1, 9));
  await point(blocks(1, 9));
  await point(blocks(2, 8));
  await point(blocks(2, 8));
}

async function expectPoint(number: number): Promise<void> {
  const disk = await life.disk();
  const reader = life.store.readerAt(disk, number);
  const into = Buffer.alloc(4096);
  for (const [block, expected] of images[number - 1] ?? []) {
    await reader.readBlock(block, into);
    if (!into.equals(expected)) throw new Error(`block ${block} of point ${number} is another`);
  }
}

const segments = async (): Promise<string[]> =>
  (await readdir(life.path('segments'))).filter((name) => name.endsWith('.seg'));

it('leaves what is not proven where it is: a proof finds all blocks of its point', async () => {
  const disk = await life.disk();
  // The first layer's records are dead but for one, as soon as there is a point.
  await life.layer(blocks(0, 10));
  await life.layer(blocks(1, 9));
  await life.commit(disk.pending, 19);
  images.push(new Map(life.image));
  await point(blocks(2, 8));
  await point(blocks(2, 8));
  const { outcome } = await life.fold();
  expect(outcome).toMatchObject({ retired: 0, recordsDropped: 9, segmentsRemoved: 0 });
  await life.prove();
  expect([1, 2, 3].map((number) => life.store.points.proven.get(number)?.blocks)).toEqual([10, 8, 8]);
  await life.fold();
  expect(life.store.points.kept).toHaveLength(1);
  expect(life.store.points.removed.size).toBeGreaterThanOrEqual(2);
  await expectPoint(3);
});

it('keeps the content of a retired point while it is in use, and takes it when it is not any more', async () => {
  await fivePoints();
  await life.prove();
  const retired = life.store.fold();
  const original = posixFiles.list.bind(posixFiles);
  let looked = 0;
  // Somebody begins to read it between the decision and the record.
  vi.spyOn(posixFiles, 'list').mockImplementation(async (directory) => {
    if (directory.endsWith('failovers') && (looked += 1) === 2) {
      await mkdir(life.path('failovers', 'test-1'), { recursive: true });
      await writeFile(life.path('failovers', 'test-1', 'failover.json'), '{"format":1,"point":2,"createdMs":1}');
    }
    return original(directory);
  });
  await retired.run(retireAll, { step: () => Promise.resolve(true) });
  vi.restoreAllMocks();
  await retired.unlinkDue(true);
  expect(looked).toBe(2);
  expect(life.store.points.isRetired(2)).toBe(true);
  await expectPoint(2);
  await posixFiles.removeTree(life.path('failovers'));
  const { outcome } = await life.fold();
  expect(outcome.recordsDropped).toBeGreaterThan(5);
  await expect(expectPoint(2)).rejects.toThrow();
  await expectPoint(5);
});

it('unlinks what it removed after a while, when all who held points before have gone', async () => {
  await fivePoints();
  await life.prove();
  let [monotonic, wall] = [0, systemClock.wallMs()];
  vi.spyOn(systemClock, 'monotonicMs').mockImplementation(() => monotonic);
  vi.spyOn(systemClock, 'wallMs').mockImplementation(() => wall);
  const place = { files: posixFiles, clock: systemClock, random: systemRandom, data: `${life.directory}/data` };
  const reader = await holdPoints({ ...place, machine: 'm1', role: 'test', points: [5] });
  wall += 5;
  const fold = life.store.fold();
  await fold.run(retireAll, { step: () => Promise.resolve(true) });
  const { removed } = life.store.points;
  expect(removed.size).toBeGreaterThan(2);
  const left = async (): Promise<number> =>
    (await segments()).filter((name) => removed.has(Number(name.slice(0, 6)))).length;
  monotonic += 9_999;
  await fold.unlinkDue();
  expect(await left()).toBe(removed.size);
  monotonic += 60_000;
  await fold.unlinkDue();
  expect(await left()).toBe(removed.size);
  wall += 5;
  const later = await holdPoints({ ...place, machine: 'm1', role: 'test', points: [5] });
  await reader.release();
  await fold.unlinkDue();
  expect(await left()).toBe(0);
  await later.release();
  vi.restoreAllMocks();
  await expectPoint(5);
});

it('unlinks what a process left that ended before', async () => {
  await fivePoints();
  await life.prove();
  await life.store.fold().run(retireAll, { step: () => Promise.resolve(true) });
  const { removed } = life.store.points;
  expect(removed.size).toBeGreaterThan(2);
  life = await life.again();
  expect(life.report).toMatchObject({ damage: [], lost: [] });
  expect(await segments()).toContain(segmentName(2));
  await life.store.fold().unlinkDue(true);
  expect((await segments()).some((name) => removed.has(Number(name.slice(0, 6))))).toBe(false);
  await expectPoint(5);
});

it('does not confuse who looked at the points before it: an index of their own is made of what is there now', async () => {
  await fivePoints();
  await life.prove();
  const data = `${life.directory}/data`;
  const scratch = `${life.directory}/scratch`;
  const around = { files: posixFiles, clock: systemClock, data, machine: 'm1', scratch, ownIndex: true };
  const view = await MachineView.open({ ...around, bootId: 'other' });
  const point = view.choosePoint('latest');
  await life.fold();
  const vault = await Vault.open({
    files: posixFiles,
    random: systemRandom,
    keyFile: `${life.directory}/vault.key`,
    expected: (await readStoreFacts(posixFiles, data))?.vault ?? '',
  });
  const at = await view.diskAt(view.disk('vda'), point, vault);
  const into = Buffer.alloc(4096);
  const entries = [...at.entries()];
  expect(entries.map(({ block }) => block)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  for (const entry of entries) {
    await at.read(entry, into);
    expect(into.equals(images[4]?.get(entry.block) ?? Buffer.alloc(0))).toBe(true);
  }
  await view.close();
});

it('takes Merkle nodes out of the index by the same rule: every kept point still has its own', async () => {
  await fivePoints();
  await life.prove();
  await life.pin(2, true);
  await life.pin(3, true);
  await life.fold();
  await life.close();
  const index = await RecordIndex.open({ files: posixFiles, directory: life.path('index'), bootId: 'boot' });
  const rows = [...(await index.reader()).nodeRows(0)];
  await index.close(true);
  expect(rows).toEqual([2, 3, 5].map((number) => ({ node: 0, point: number })));
  life = await MachineLife.open(life.directory, posixFiles, life.image);
});

it('does not empty a segment with damage: it tells which points are hit, and every other one stays good', async () => {
  await fivePoints();
  await life.prove();
  await life.pin(2, true);
  // In the middle of its last payloads.
  await life.flip(1, Math.floor(statSync(life.segment(1)).size / 2));
  const { outcome } = await life.fold();
  expect(outcome.damage).toMatchObject([{ segment: 1 }]);
  expect(life.store.points.removed.has(1)).toBe(false);
  expect(await segments()).toContain(segmentName(1));
  // Of its ten records one lives on: block 0, which every point reads.
  const hit = life.store.points.damaged;
  for (const [number, disks] of hit) expect([number, [...(disks.get(0) ?? [])]]).toEqual([2, [0]]);
  expect(outcome.complete).toBe(true);
});

/** Reads of one segment, but for its header, fail with this while it is on. */
function refusing(segment: number, code: string): { readonly files: Files; on: boolean } {
  const refusal = { on: true };
  const files: Files = {
    ...posixFiles,
    open: async (path, mode, permissions) => {
      const file = await posixFiles.open(path, mode, permissions);
      if (!path.endsWith(segmentName(segment)) || mode !== 'read') return file;
      const read = file.read.bind(file);
      file.read = (into, at) =>
        refusal.on && at > 0 ? Promise.reject(Object.assign(new Error(code), { code })) : read(into, at);
      return file;
    },
  };
  return Object.assign(refusal, { files });
}

it('ends a pass when the system refuses to read, loses nothing, and goes on later', async () => {
  await fivePoints();
  await life.prove();
  const refusal = refusing(2, 'EMFILE');
  life = await life.again(refusal.files);
  await life.prove();
  await expect(life.fold()).rejects.toThrow('EMFILE');
  expect(life.store.points.removed.has(2)).toBe(false);
  expect(life.store.points.damaged.size).toBe(0);
  await expectPoint(5);
  refusal.on = false;
  const { outcome } = await life.fold();
  expect(outcome.complete).toBe(true);
  expect(life.store.points.removed.has(2)).toBe(true);
  await expectPoint(5);
});

it('passes over a segment the medium does not give back, says so, empties the others, and tries it again later', async () => {
  await fivePoints();
  await life.prove();
  const refusal = refusing(1, 'EIO');
  life = await life.again(refusal.files);
  await point(blocks(2, 8));
  await life.prove();
  const clock = { nowMs: 0 };
  vi.spyOn(systemClock, 'monotonicMs').mockImplementation(() => clock.nowMs);
  const fold = life.store.fold();
  const pass = (): Promise<FoldOutcome> => fold.run(retireAll, { step: () => Promise.resolve(true) });
  const outcome = await pass();
  expect(outcome).toMatchObject({ damage: [], unreadable: [{ segment: 1, error: 'EIO' }], complete: true });
  const { removed, damaged } = life.store.points;
  expect([...removed].sort((a, b) => a - b)).toEqual([2, 3, 4, 5]);
  // A read that was refused proves nothing.
  expect(damaged.size).toBe(0);
  refusal.on = false;
  expect((await pass()).segmentsRemoved).toBe(0);
  clock.nowMs += limits.target.foldIdleMs;
  expect(await pass()).toMatchObject({ segmentsRemoved: 1, unreadable: [] });
  expect(removed.has(1)).toBe(true);
  await expectPoint(6);
});

it('takes along what is no record: a layer begun in a segment that goes, of which the records lie in another', async () => {
  await fivePoints();
  await life.prove();
  await life.fold();
  expect([...life.store.points.removed]).toEqual(expect.arrayContaining([1, 2, 4]));
  await life.close();
  await posixFiles.removeTree(life.path('index'));
  life = await MachineLife.open(life.directory, posixFiles, life.image);
  await expectPoint(5);
});

it('takes no space that ingest needs: emptied where nothing lives, moved only while there is room; later it goes on', async () => {
  await fivePoints();
  await life.prove();
  let free = 2 ** 40;
  const files: Files = { ...posixFiles, freeBytes: () => Promise.resolve(free) };
  life = await life.again(files);
  free = 96 * 2 ** 20;
  await life.pin(5, true);
  const tight = await life.fold();
  expect(tight.outcome.complete).toBe(false);
  expect(tight.outcome.bytesMoved).toBeLessThan(1_000);
  expect(life.store.points.removed.has(1)).toBe(false);
  expect(life.store.points.removed.has(2)).toBe(true);
  await expectPoint(5);
  // Full: the half of what lies below the mark may be used to make room, and no more.
  free = 31 * 2 ** 20;
  life = await life.again(files);
  expect(life.store.full).toBe(true);
  expect((await life.fold()).outcome.complete).toBe(false);
  expect(life.store.points.removed.has(1)).toBe(false);
  free = 33 * 2 ** 20;
  expect((await life.fold()).outcome.complete).toBe(true);
  expect(life.store.full).toBe(true);
  expect(life.store.points.removed.has(1)).toBe(true);
  free = 2 ** 40;
  life = await life.again(files);
  await expectPoint(5);
  const sizes = (await segments()).map((name) => statSync(life.path('segments', name)).size);
  expect(sizes.length).toBeLessThan(5);
});

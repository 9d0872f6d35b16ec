/** Damaged blocks that the source sends again as they were: old points are whole again, and only those that had that content. */
import { rm } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { invariant } from '../../src/kit/invariant.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { IndexEntry } from '../../src/store/index-codec.ts';
import { MachineSurvey } from '../../src/store/machine-survey.ts';
import { PointProofs } from '../../src/store/point-proofs.ts';
import type { PointBody } from '../../src/store/points-record.ts';
import { newTargetCounters } from '../../src/target/counters.ts';
import { ScrubPace } from '../../src/target/scrub-pace.ts';
import { Scrubber } from '../../src/target/scrubber.ts';
import { silent } from '../target/peer.ts';
import { MachineLife } from './machine-fixture.ts';

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
});
afterEach(() => life.remove());

const some = (count: number, first = 0): { block: number }[] =>
  Array.from({ length: count }, (_, index) => ({ block: first + index }));

function entryOf(block: number, point: number): IndexEntry {
  const seq = life.store.points.point(point)?.disks[0]?.layers?.last ?? 0;
  const entry = life.store.storedRecords().entry(0, block, seq);
  invariant(entry, `block ${block} of point ${point} is in the index`);
  return entry;
}

async function flipPayload(block: number, point: number): Promise<void> {
  const { segment, payloadOffset } = entryOf(block, point);
  await life.flip(segment, payloadOffset + 3);
}

async function contentAt(block: number, point: number): Promise<Buffer> {
  const into = Buffer.alloc(4096);
  await life.store.readerAt(await life.disk(), point).readBlock(block, into);
  return into;
}

async function withoutIndex(): Promise<void> {
  await life.close();
  await rm(life.path('index'), { recursive: true });
  life = await MachineLife.open(life.directory, posixFiles, life.image);
}

async function scrub(): Promise<number[]> {
  const asked: number[] = [];
  const scrubber = new Scrubber({
    store: life.store,
    clock: systemClock,
    counters: newTargetCounters(),
    logger: silent(),
    pace: new ScrubPace({ clock: systemClock, share: 1, isBusy: () => false }),
    damaged: (_, blocks) => asked.push(...blocks),
    proofsWanted: () => undefined,
  });
  await scrubber.load();
  await scrubber.pass();
  await life.prove();
  return asked;
}

it('heals the points that had the content the source has still, and keeps it so in an index made anew', async () => {
  await life.point(some(3));
  await life.point(some(1, 7));
  await life.prove();
  const content = Buffer.from(life.image.get(1) ?? '');
  await flipPayload(1, 1);
  expect(await scrub()).toEqual([1]);
  expect(life.states()).toEqual(['damaged', 'damaged']);
  await life.point([{ block: 1, same: true }]);
  await life.prove();
  expect(life.states()).toEqual(['proven', 'proven', 'proven']);
  await life.point([{ block: 1 }]);
  await life.prove();
  for (const point of [1, 2, 3]) expect((await contentAt(1, point)).equals(content)).toBe(true);

  await withoutIndex();
  expect(life.states()).toEqual(['proven', 'proven', 'proven', 'proven']);
  for (const point of [1, 2, 3]) expect((await contentAt(1, point)).equals(content)).toBe(true);
  expect(await scrub()).toEqual([]);
  expect(life.states()).toEqual(['proven', 'proven', 'proven', 'proven']);
});

it('tells whoever verifies the store from its files, too', async () => {
  await life.point(some(2));
  await flipPayload(1, 1);
  await life.prove();
  await life.point([{ block: 1, same: true }]);
  await life.prove();
  const [seq, healthySeq] = [entryOf(1, 1).seq, entryOf(1, 2).seq];
  const survey = await MachineSurvey.make({
    files: posixFiles,
    data: life.path('..', '..'),
    machine: 'm1',
    bootId: 'boot',
    scratch: life.path('scratch'),
    check: 'headers',
    visit: () => undefined,
  });
  expect(new Set(survey.index.get(0, 1, seq)?.pages)).toEqual(new Set([healthySeq]));
  await survey.close();
});

it('leaves damaged what the source has no longer', async () => {
  await life.point(some(3));
  await life.point([{ block: 1 }]);
  await life.point([{ block: 1, mask: 3 }]);
  await life.prove();
  await flipPayload(1, 2);
  await flipPayload(2, 1);
  await scrub();
  expect(life.states()).toEqual(['damaged', 'damaged', 'damaged']);
  // Block 1 as it is now: the third point had that, the second had not. Block 2 is another one.
  await life.point([{ block: 1, same: true }, { block: 2 }]);
  await life.prove();
  expect(life.states()).toEqual(['damaged', 'damaged', 'damaged', 'proven']);
  expect([...(life.store.points.damaged.get(1)?.get(0) ?? [])]).toEqual([2]);
  expect((await contentAt(1, 3)).equals(life.image.get(1) ?? Buffer.alloc(0))).toBe(true);
  await expect(contentAt(1, 2)).rejects.toThrow('tag');
});

it('heals from a record that is named by a newer one only', async () => {
  await life.point(some(2));
  await life.prove();
  await flipPayload(1, 1);
  await scrub();
  await life.point([{ block: 1, same: true }]);
  await life.point([{ block: 1, mask: 6 }]);
  await life.prove();
  expect(life.states()).toEqual(['proven', 'proven', 'proven']);
});

it('heals a block of zeros, and one whose row is lost', async () => {
  await life.point([{ block: 0 }, { block: 1, zero: true }, { block: 2 }]);
  await life.point([{ block: 9 }]);
  await life.prove();
  // The batch's own header: all three rows are lost to who has no index.
  const { segment, payloadOffset } = entryOf(0, 1);
  await life.flip(segment, payloadOffset - 3 * 72 - 128 + 70);
  await scrub();
  expect(life.states()).toEqual(['damaged', 'damaged']);
  await life.point([
    { block: 0, same: true },
    { block: 1, zero: true },
    { block: 2, same: true },
  ]);
  await life.prove();
  expect(life.states()).toEqual(['proven', 'proven', 'proven']);
  await withoutIndex();
  for (const block of [0, 1, 2])
    expect((await contentAt(block, 2)).equals(life.image.get(block) ?? Buffer.alloc(0))).toBe(true);
});

it('heals what a missing segment held, and says so once', async () => {
  await life.point(some(3));
  life = await life.again();
  await life.point(some(1, 7));
  await life.prove();
  await life.close();
  await rm(life.path('segments', '000001.seg'));
  life = await MachineLife.open(life.directory, posixFiles, life.image);
  expect(life.states()).toEqual(['damaged', 'committed']);
  expect((await life.disk()).blocksToRepair()).toEqual([0, 1, 2]);
  await life.point(some(3).map((change) => ({ ...change, same: true })));
  await life.prove();
  expect(life.states()).toEqual(['proven', 'proven', 'proven']);
  life = await life.again();
  expect([life.report.lost, life.states()]).toEqual([[], ['proven', 'proven', 'proven']]);
  await withoutIndex();
  for (const block of [0, 1, 2])
    expect((await contentAt(block, 1)).equals(life.image.get(block) ?? Buffer.alloc(0))).toBe(true);
});

it('does not take an older version for the one that is lost with the index', async () => {
  await life.point(some(2));
  const before = Buffer.from(life.image.get(1) ?? '');
  life = await life.again();
  await life.point([{ block: 1 }]);
  await life.point([{ block: 9 }]);
  await life.prove();
  const { segment, payloadOffset } = entryOf(1, 2);
  await life.close();
  await life.flip(segment, payloadOffset - 72 - 128 + 20);
  await rm(life.path('index'), { recursive: true });
  life = await MachineLife.open(life.directory, posixFiles, life.image);
  await life.store.markDamaged(2, await life.disk(), [1]);
  // The source has again what the first point had.
  life.image.set(1, before);
  await life.point([{ block: 1, same: true }]);
  await life.prove();
  expect(life.states().slice(0, 3)).toEqual(['proven', 'damaged', 'damaged']);
});

it('asks anew when what healed is damaged itself', async () => {
  await life.point(some(2));
  await life.prove();
  await flipPayload(1, 1);
  await scrub();
  await life.point([{ block: 1, same: true }]);
  await life.prove();
  expect(life.states()).toEqual(['proven', 'proven']);
  await flipPayload(1, 2);
  await scrub();
  expect(life.states()).toEqual(['damaged', 'damaged']);
  await life.point([{ block: 1, same: true }]);
  await life.prove();
  expect(life.states()).toEqual(['proven', 'proven', 'proven']);
  await withoutIndex();
  expect((await contentAt(1, 1)).equals(life.image.get(1) ?? Buffer.alloc(0))).toBe(true);
});

it('a repair says for which points it is', () => {
  const proofs = new PointProofs();
  const run = (first: number): PointBody['disks'][number]['layers'] => ({ first, last: first, count: 1, chain: '' });
  const points = [10, 20, 30, 40].map((seq, at) => ({ point: at + 1, disks: [{ no: 0, layers: run(seq) }] }));
  for (const { point } of points) proofs.prove({ point, atMs: 0, blocks: 1 });
  for (const { point } of points) proofs.damage({ point, atMs: 0, disk: 0, blocks: point === 3 ? [5, 6] : [5] });
  proofs.repair({ disk: 0, atMs: 0, versions: [[5, 20, 40, 50]] }, points as unknown as PointBody[]);
  expect([...proofs.damaged.keys()]).toEqual([1, 3, 4]);
  expect([...(proofs.damaged.get(3)?.get(0) ?? [])]).toEqual([6]);
  // What the second point changed is to be read again; what the third did is not.
  expect([proofs.proven.has(2), proofs.provenBefore.has(2), proofs.provenBefore.has(3)]).toEqual([false, false, true]);
});

it('leaves to later versions what they took of a version that is healed, in an index made anew and after fold, too', async () => {
  await life.point([{ block: 1 }, { block: 2 }]);
  await life.point([{ block: 1, mask: 0x0008 }]);
  const second = Buffer.from(life.image.get(1) ?? '');
  await life.point([{ block: 1, mask: 0xfff7 }]);
  const third = Buffer.from(life.image.get(1) ?? '');
  await life.prove();
  // All that the third point reads is whole; the second one leans on what is damaged.
  await flipPayload(1, 1);
  await scrub();
  expect(life.states()).toEqual(['damaged', 'damaged', 'proven']);
  life.image.set(1, Buffer.from(second));
  await life.point([{ block: 1, same: true }]);
  await life.prove();
  const expectPoints = async (): Promise<void> => {
    expect(life.states()).toEqual(['damaged', 'proven', 'proven', 'proven']);
    expect((await contentAt(1, 2)).equals(second)).toBe(true);
    expect((await contentAt(1, 3)).equals(third)).toBe(true);
  };
  await expectPoints();
  await withoutIndex();
  await expectPoints();
  await life.point([{ block: 9 }]);
  await life.prove();
  await life.fold({ hours: null });
  await withoutIndex();
  expect(await scrub()).toEqual([]);
  expect((await contentAt(1, 3)).equals(third)).toBe(true);
});

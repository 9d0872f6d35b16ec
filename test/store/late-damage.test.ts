/** Damage that is found after many points were proven on top of it: what it costs to tell which of them took it over. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { DamageTakenOver } from '../../src/store/damaged-blocks.ts';
import type { IndexEntry } from '../../src/store/index-codec.ts';
import type { RecordLookup } from '../../src/store/index-reader.ts';
import { PointProofs } from '../../src/store/point-proofs.ts';
import { PointsView } from '../../src/store/points-view.ts';
import { runOf } from '../layers.ts';
import { MachineLife } from './machine-fixture.ts';

let life: MachineLife;
/** Of segments. */
let reads = 0;
beforeEach(async () => {
  reads = 0;
  life = await MachineLife.begin(countingReads);
});
afterEach(() => life.remove());

const countingReads: Files = {
  ...posixFiles,
  open: async (path, mode, permissions) => {
    const file = await posixFiles.open(path, mode, permissions);
    if (mode !== 'read' || !path.endsWith('.seg')) return file;
    return new Proxy(file, {
      get: (target, key) => {
        if (key === 'readCachedSync') reads += 1;
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    });
  },
};

it('reads a version with pages from before the damage once, however many later points read it', async () => {
  await life.point([{ block: 1 }]);
  life = await life.again(countingReads);
  await life.point([{ block: 1, mask: 1 }]);
  const end = life.store.points.mark?.offset ?? 0;
  life = await life.again(countingReads);
  // Whole: what it has of the damaged version it replaced, the rest is from before.
  await life.point([{ block: 1, mask: 1 }]);
  for (let block = 10; block < 30; block += 1) await life.point([{ block }]);
  await life.prove();
  await life.flip(2, end - 20);
  await life.store.markDamaged(2, await life.disk(), [1]);
  expect(life.store.points.proven.size).toBe(2);
  reads = 0;
  await life.prove();
  expect(life.states()).toEqual(['proven', 'damaged', ...new Array<string>(21).fill('proven')]);
  // The record and the one whose pages it has.
  expect(reads).toBe(2);
});

it('damage found while a later point is looked at keeps that from being proven on what was known before', async () => {
  await life.point([{ block: 1 }, { block: 2 }]);
  await life.prove();
  await life.point([{ block: 7 }]);
  const disk = await life.disk();
  const blocksOf = life.store.blocksOf.bind(life.store);
  const found: Promise<unknown>[] = [];
  vi.spyOn(life.store, 'blocksOf').mockImplementation(async function* (of, point) {
    yield* blocksOf(of, point);
    // As the scrub does. Under way when the proof is through, not yet on record.
    if (found.length === 0) found.push(Promise.resolve().then(() => life.store.markDamaged(1, disk, [1])));
  });
  await life.prove();
  await Promise.all(found);
  expect(life.states()).toEqual(['damaged', 'damaged']);
});

const points = 2_000;
const seqOfPoint = (point: number): number => 2 ** 32 + point;

function viewOf(count: number): PointsView {
  const view = new PointsView();
  const disk = {
    no: 0,
    size: 1 << 30,
    blockSize: 65536,
    root: '',
    kind: 'delta',
    records: 1,
    payloadBytes: 1,
  } as const;
  for (let point = 1; point <= count; point += 1) {
    const disks = [{ ...disk, layers: runOf([seqOfPoint(point)]) }];
    const times = { cutTimeMs: point, committedMs: point };
    view.apply({ type: 'point', body: { point, ...times, consistency: 'crash', epoch: 1, disks, extents: [] } });
  }
  return view;
}

/** Records by block: seqs ascending, with pages of an older one or without. */
function indexOf(blocks: ReadonlyMap<number, readonly { seq: number; from?: number }[]>): {
  index: RecordLookup;
  lookups: () => number;
} {
  let lookups = 0;
  const lookup = (_: number, block: number, maxSeq: number): IndexEntry | undefined => {
    lookups += 1;
    const found = blocks.get(block)?.findLast(({ seq }) => seq <= maxSeq);
    if (!found) return undefined;
    const pages = found.from === undefined ? null : new Array<number>(16).fill(found.from);
    return {
      ...{ block, seq: found.seq, segment: 1, payloadOffset: 0, storedLength: 1, rawLength: 1, pageMask: 1 },
      ...{ codec: 0, nonce: 0, tag: new Uint8Array(16), leaf: new Uint8Array(32), pages },
    };
  };
  return { index: { lookup, get: () => undefined, layer: () => undefined }, lookups: () => lookups };
}

it('costs about a look-up for each later point, however many blocks are damaged and points marked', async () => {
  const view = viewOf(points);
  const blocks = new Map<number, { seq: number; from?: number }[]>();
  // Replaced by the next point; with pages from before, whole all the same; last of all the one that stays.
  for (let block = 0; block < 100; block += 1) blocks.set(block, [{ seq: seqOfPoint(1) }, { seq: seqOfPoint(2) }]);
  for (let block = 100; block < 200; block += 1)
    blocks.set(block, [{ seq: seqOfPoint(1) }, { seq: seqOfPoint(2), from: seqOfPoint(1) }]);
  blocks.set(200, [{ seq: seqOfPoint(1) }, { seq: seqOfPoint(points / 2) }]);
  view.apply({ type: 'damaged', body: { point: 1, atMs: 1, disk: 0, blocks: [...blocks.keys()] } });
  const { index, lookups } = indexOf(blocks);
  const taken = new DamageTakenOver(index, view);
  const read: number[] = [];
  const over: number[] = [];
  for (let point = 2; point <= points; point += 1) {
    taken.goTo(point);
    const first = await taken.first(0, (block) => Promise.resolve(read.push(block) === 0));
    if (first === null) continue;
    over.push(point);
    view.apply({ type: 'damaged', body: { point, atMs: 1, disk: 0, blocks: [first] } });
  }
  expect(over).toEqual(Array.from({ length: points / 2 - 2 }, (_, at) => at + 2));
  expect(read).toEqual(Array.from({ length: 100 }, (_, at) => at + 100));
  expect(lookups()).toBeLessThan(points + 1_000);
});

it('looks at each proof once that damage takes back, also when each later point is marked', () => {
  const proofs = new PointProofs();
  let looks = 0;
  const get = proofs.proven.get.bind(proofs.proven);
  vi.spyOn(proofs.proven, 'get').mockImplementation((point) => {
    looks += 1;
    return get(point);
  });
  const all = proofs.proven[Symbol.iterator].bind(proofs.proven);
  proofs.proven[Symbol.iterator] = function* () {
    for (const each of all()) {
      looks += 1;
      yield each;
    }
    return undefined;
  };
  for (let point = 1; point <= points; point += 1) proofs.prove({ point, atMs: 1, blocks: point });
  for (let point = points / 2; point <= points; point += 1) proofs.damage({ point, atMs: 2, disk: 0, blocks: [1] });
  expect([proofs.proven.size, proofs.provenBefore.size]).toEqual([points / 2, points / 2]);
  expect(proofs.provenBefore.get(points)?.blocks).toBe(points);
  expect(looks).toBeLessThan(points);
  // What is proven anew is taken back anew.
  proofs.prove({ point: points, atMs: 3, blocks: 1 });
  proofs.damage({ point: 3, atMs: 4, disk: 0, blocks: [1] });
  expect([...proofs.proven.keys()]).toEqual([1, 2, 3]);
});

/** Which records a place that does not check condemns: those that stand there, all of them, and no others. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { invariant } from '../../src/kit/invariant.ts';
import { newTargetCounters } from '../../src/target/counters.ts';
import { ScrubPace } from '../../src/target/scrub-pace.ts';
import { Scrubber } from '../../src/target/scrubber.ts';
import { MachineLife } from '../store/machine-fixture.ts';
import { silent } from './peer.ts';

type Limits = typeof import('../../src/limits.ts');
vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<Limits>();
  const { limits } = real;
  const target = { ...limits.target, segmentBytesMax: 65_536, groupBytesMax: 32_768 };
  return { ...real, limits: { ...limits, target } };
});

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
});
afterEach(() => life.remove());

const some = (count: number, first = 0): { block: number }[] =>
  Array.from({ length: count }, (_, index) => ({ block: first + index }));

/** Where the block's record lies as of the point. */
function place(block: number, point: number): { segment: number; payloadOffset: number } {
  const [disk] = life.store.points.point(point)?.disks ?? [];
  const records = life.store.storedRecords();
  const last = disk?.layers?.last ?? life.store.points.listedSeq(0);
  for (let seq = last; seq > last - 10; seq -= 1) {
    const entry = records.entry(0, block, seq);
    if (entry) return entry;
  }
  throw new Error(`block ${block} is in the index`);
}

async function flipPayload(block: number, point: number): Promise<void> {
  const { segment, payloadOffset } = place(block, point);
  await life.flip(segment, payloadOffset + 3);
}

async function scrubbed(): Promise<void> {
  const scrubber = new Scrubber({
    store: life.store,
    clock: systemClock,
    counters: newTargetCounters(),
    logger: silent(),
    pace: new ScrubPace({ clock: systemClock, share: 1, isBusy: () => false }),
    damaged: () => undefined,
    proofsWanted: () => undefined,
  });
  await scrubber.load();
  await scrubber.pass();
  await life.prove();
}

const damagedAt = (point: number): number[] => [...(life.store.points.damaged.get(point)?.get(0) ?? [])];

it('a record that rots in a batch of which another one is known to be damaged is found as well', async () => {
  await life.point(some(3));
  await life.prove();
  await flipPayload(1, 1);
  await scrubbed();
  expect(damagedAt(1)).toEqual([1]);
  await flipPayload(2, 1);
  await scrubbed();
  expect(damagedAt(1)).toEqual([1, 2]);
});

it('records that were moved and rot leave those alone whose LAYER went along when its segment was emptied', async () => {
  await life.point(some(4));
  await life.point(some(4));
  await life.point(some(3));
  // Its LAYER ends the first segment, and its batch begins the second one.
  await life.point(some(5, 10));
  await life.prove();
  expect([place(3, 4).segment, place(10, 4).segment]).toEqual([1, 2]);
  await life.fold();
  invariant(life.store.points.removed.has(1), 'the first segment is emptied');
  await life.point([{ block: 20 }]);
  await life.prove();
  await flipPayload(3, 5);
  await scrubbed();
  expect([damagedAt(4), damagedAt(5)]).toEqual([[3], [3]]);
});

it('a zero record that ends an entry has nothing to do with the damage that begins behind it', async () => {
  await life.point([{ block: 0 }, { block: 1, zero: true }]);
  await life.point([{ block: 2 }]);
  await life.prove();
  const { segment, payloadOffset: end } = place(1, 1);
  // The next LAYER.
  await life.flip(segment, end + 20);
  await scrubbed();
  expect(life.states()).toEqual(['proven', 'damaged']);
  expect(damagedAt(2)).toEqual([2]);
});

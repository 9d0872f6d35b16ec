/** The scrub beside fold and compaction: records that move and segments that go while it looks are no damage. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { newTargetCounters } from '../../src/target/counters.ts';
import { ScrubPace } from '../../src/target/scrub-pace.ts';
import { Scrubber } from '../../src/target/scrubber.ts';
import { MachineLife, type BlockChange } from '../store/machine-fixture.ts';
import { silent } from './peer.ts';

type Limits = typeof import('../../src/limits.ts');
vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<Limits>();
  const { limits } = real;
  const target = { ...limits.target, segmentBytesMax: 65_536, groupBytesMax: 32_768, proofSliceBytes: 8_192 };
  const store = { ...limits.store, movedBytes: 8_192, foldStepRecords: 16 };
  return { ...real, limits: { ...limits, target, store } };
});

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
});
afterEach(() => life.remove());

/** Some blocks, in another order each round. */
function changes(round: number): BlockChange[] {
  const blocks = new Set(Array.from({ length: 6 }, (_, index) => (round * 7 + index * 5) % 30));
  return [...blocks]
    .sort((a, b) => a - b)
    .map((block) => ({
      block,
      mask: (round + block) % 3 === 0 ? 0xffff : 0x0f << (round % 12),
      zero: block === round,
    }));
}

test('nothing that fold moves or takes away is called damaged', async () => {
  const counters = newTargetCounters();
  const said: string[] = [];
  const scrubber = new Scrubber({
    store: life.store,
    clock: systemClock,
    counters,
    logger: silent((message) => void said.push(message)),
    pace: new ScrubPace({ clock: systemClock, share: 1, isBusy: () => false }),
    damaged: () => undefined,
    proofsWanted: () => undefined,
  });
  let round = 0;
  for (let turn = 0; turn < 6; turn += 1) {
    for (let count = 0; count < 12; count += 1) {
      await life.point(changes(round));
      round += 1;
    }
    await life.pin(round - 4, true);
    await life.prove();
    await Promise.all([life.fold(), scrubber.pass(), scrubbedLater()]);
  }
  await scrubber.pass();
  expect([counters.scrubDamage, counters.integrityErrors]).toEqual([0, 0]);
  expect(new Set(said)).toEqual(new Set(['everything stored was checked']));
  expect(life.store.points.removed.size).toBeGreaterThan(3);
  expect(new Set(life.states())).toEqual(new Set(['proven', 'committed']));

  /** Points come while both are at work. */
  async function scrubbedLater(): Promise<void> {
    for (let count = 0; count < 4; count += 1) {
      await life.point(changes(round));
      round += 1;
    }
  }
});

/** When a machine is folded, how fast beside ingest, and what becomes of a pass that fails or is stopped. */
import { readdir } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { limits } from '../../src/limits.ts';
import type { RetentionPolicy } from '../../src/store/retention.ts';
import { newTargetCounters } from '../../src/target/counters.ts';
import { Folder } from '../../src/target/folder.ts';
import { MachineLife, retireAll } from '../store/machine-fixture.ts';
import { silent } from './peer.ts';

type Limits = typeof import('../../src/limits.ts');
vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<Limits>();
  const { limits: all } = real;
  const target = { ...all.target, segmentBytesMax: 49_152, groupBytesMax: 32_768 };
  return {
    ...real,
    limits: { ...all, target, store: { ...all.store, movedBytes: 8_192, foldStepRecords: 4, removeAfterMs: 50 } },
  };
});

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
  const blocks = Array.from({ length: 10 }, (_, block) => ({ block }));
  for (let count = 0; count < 5; count += 1) await life.point(blocks);
  await life.prove();
});
afterEach(() => life.remove());

/** A folder in a time of its own: whoever sleeps is there at once, and every look at the clock takes a millisecond. */
class Scene {
  nowMs = 1_000;
  sleeps = 0;
  busy = false;
  policy: RetentionPolicy = retireAll;
  readonly counters = newTargetCounters();
  readonly logged: string[] = [];
  readonly foldedMs: number[] = [];
  readonly clock: Clock = {
    ...systemClock,
    monotonicMs: () => (this.nowMs += 1),
    sleep: async (ms, signal) => {
      this.nowMs += ms;
      this.sleeps += 1;
      await systemClock.turn();
      signal?.throwIfAborted();
    },
  };
  readonly folder = new Folder({
    store: life.store,
    clock: this.clock,
    logger: silent((message) => {
      this.logged.push(message);
      if (message === 'folded') this.foldedMs.push(this.nowMs);
    }),
    counters: this.counters,
    retention: () => this.policy,
    isBusy: () => this.busy,
  });

  async until(reached: () => boolean | Promise<boolean>): Promise<void> {
    while (!(await reached())) await systemClock.turn();
  }
}

const segments = async (): Promise<number> =>
  (await readdir(life.path('segments'))).filter((name) => name.endsWith('.seg')).length;

it('folds after a while, tells what it did and what is left, unlinks, and leaves what did not change alone', async () => {
  const scene = new Scene();
  expect(scene.folder.use).toBeNull();
  const before = await segments();
  scene.folder.start();
  await scene.until(() => scene.counters.pointsRetired > 0);
  expect(scene.nowMs).toBeGreaterThan(limits.target.foldEveryMs);
  await scene.until(async () => (await segments()) < before);
  expect(scene.counters).toMatchObject({ pointsRetired: 4, recordsFolded: 40 });
  expect(scene.counters.bytesRemoved).toBeGreaterThan(100_000);
  expect(scene.folder.use?.backlog).toBe(0);
  expect(scene.folder.use?.live).toBeGreaterThan(40_000);
  await scene.until(() => scene.foldedMs.length >= 2);
  const [first = 0, second = 0] = scene.foldedMs;
  expect(second - first).toBeGreaterThan(limits.target.foldIdleMs);
  await scene.folder.stop();
});

it('takes several times as long while something is received', async () => {
  const took: number[] = [];
  for (const busy of [false, true]) {
    const scene = new Scene();
    scene.busy = busy;
    let begunMs = 0;
    // The first thing a pass asks about.
    scene.policy = {
      get hours() {
        begunMs ||= scene.nowMs;
        return null;
      },
    };
    scene.folder.start();
    await scene.until(() => scene.logged.includes('folded'));
    took.push((scene.foldedMs[0] ?? 0) - begunMs);
    await scene.folder.stop();
  }
  expect((took[1] ?? 0) / (took[0] ?? 1)).toBeGreaterThan(1.8);
});

it('tries again what failed', async () => {
  const scene = new Scene();
  const listed = vi.spyOn(life.store.points, 'listedSeq').mockImplementation(() => {
    throw new Problem('index-failed', 'no luck', { retryable: true });
  });
  scene.folder.start();
  await scene.until(() => scene.logged.includes('fold failed to run and is tried again'));
  listed.mockRestore();
  await scene.until(() => scene.logged.includes('folded'));
  await scene.folder.stop();
});

it('is stopped within a step', async () => {
  const scene = new Scene();
  let stopped: Promise<void> | null = null;
  // Asked at every step; the pass has more than one.
  let asked = 0;
  Object.defineProperty(scene, 'busy', {
    get: () => {
      asked += 1;
      stopped ??= scene.folder.stop();
      return false;
    },
  });
  scene.folder.start();
  await scene.until(() => stopped !== null);
  await scene.folder.stop();
  expect(asked).toBe(1);
  expect(life.store.points.removed.size).toBe(0);
  expect(scene.counters.pointsRetired).toBe(4);
});

/**
 * Retention, fold and compaction of a machine against a plain model: whatever is written, committed, pinned, retired, folded, and however often it is
 * opened again, with its index or without, every point that is kept reads as the disk was.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, expect, it, vi } from 'vitest';
import { withLayer } from '../../src/kernels/layer-run.ts';
import { leaveMapped, withRealIndex } from '../crash/real-index.ts';
import { SimulatedFiles } from '../simulated-files.ts';
import { MachineLife, type BlockChange } from './machine-fixture.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallSegments } = await import('./small-segments.ts');
  return smallSegments(await load());
});

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const scratch = mkdtempSync(path.join(tmpdir(), 'tidemark-fold-'));
const index = path.join(scratch, 'data/machines/m1/index');
afterAll(() => {
  rmSync(scratch, { recursive: true, force: true });
});
afterEach(() => {
  leaveMapped(index, null);
});

/** A machine and what its disk was at each point. */
class Story {
  files = new SimulatedFiles([scratch]);
  life: MachineLife | null = null;
  points: Map<number, Buffer>[] = [];
  image = new Map<number, Buffer>();
  pinned = new Set<number>();

  get open(): MachineLife {
    if (!this.life) throw new Error('the machine is open');
    return this.life;
  }

  async begin(): Promise<void> {
    this.life = await MachineLife.open(scratch, withRealIndex(this.files), this.image);
  }

  /** With the index as it was, or without. */
  async again(withIndex: boolean): Promise<void> {
    await this.life?.close();
    if (!withIndex) leaveMapped(index, null);
    await this.begin();
    expect(this.open.report).toMatchObject({ damage: [], lost: [], dropped: [], incompleteDisks: [] });
  }

  async commit(): Promise<void> {
    const { pending } = await this.open.disk();
    await this.open.commit(pending, 1);
    this.points.push(new Map(this.image));
  }

  async pin(point: number, pinned: boolean): Promise<void> {
    if (point > this.points.length || this.open.store.points.isRetired(point)) return;
    await this.open.pin(point, pinned);
    if (pinned) this.pinned.add(point);
    else this.pinned.delete(point);
  }

  async fold(): Promise<void> {
    const { outcome } = await this.open.fold();
    expect(outcome).toMatchObject({ complete: true, damage: [] });
    for (const point of this.pinned) expect(this.open.store.points.isRetired(point)).toBe(false);
    expect(this.open.store.points.isRetired(this.points.length)).toBe(false);
  }

  /** Every kept point, block by block. */
  async expectPoints(): Promise<number> {
    const disk = await this.open.disk();
    const into = Buffer.alloc(disk.geometry.blockSize);
    const { kept } = this.open.store.points;
    for (const { point } of kept) {
      const reader = this.open.store.readerAt(disk, point);
      const blocks = new Set([...this.image.keys(), 999]);
      for (const block of blocks) {
        await reader.readBlock(block, into);
        const expected = this.points[point - 1]?.get(block) ?? Buffer.alloc(disk.geometry.blockSize);
        if (!into.equals(expected)) throw new Error(`block ${block} of point ${point} is another`);
      }
    }
    return kept.length;
  }

  async end(): Promise<void> {
    await this.life?.close();
    this.life = null;
  }
}

const change = fc.record({
  block: fc.nat({ max: 11 }),
  mask: fc.oneof(
    fc.constant(0xffff),
    fc.integer({ min: 1, max: 0xffff }),
    fc.nat({ max: 15 }).map((page) => 1 << page),
  ),
  zero: fc.integer({ min: 0, max: 5 }).map((lot) => lot === 0),
});
const layer = fc
  .uniqueArray(change, { minLength: 1, maxLength: 8, selector: ({ block }) => block })
  .map((changes) => changes.sort((a, b) => a.block - b.block));

type Step =
  | { readonly do: 'layer'; readonly changes: readonly BlockChange[] }
  | { readonly do: 'commit' | 'prove' | 'fold' | 'again' | 'rebuild' }
  | { readonly do: 'pin' | 'unpin'; readonly point: number };
const plain = (kind: 'commit' | 'prove' | 'fold' | 'again' | 'rebuild', weight: number) => ({
  weight,
  arbitrary: fc.constant<Step>({ do: kind }),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: layer.map((changes): Step => ({ do: 'layer', changes })) },
  plain('commit', 5),
  plain('prove', 3),
  plain('fold', 3),
  plain('again', 1),
  plain('rebuild', 1),
  { weight: 1, arbitrary: fc.nat({ max: 12 }).map((point): Step => ({ do: 'pin', point: point + 1 })) },
  { weight: 1, arbitrary: fc.nat({ max: 12 }).map((point): Step => ({ do: 'unpin', point: point + 1 })) },
);

async function tell(story: Story, each: Step): Promise<void> {
  switch (each.do) {
    case 'layer':
      await story.open.layer(each.changes);
      return;
    case 'commit':
      await story.commit();
      return;
    case 'prove':
      expect((await story.open.prove()).asked).toEqual([]);
      return;
    case 'fold':
      await story.fold();
      await story.expectPoints();
      return;
    case 'again':
    case 'rebuild':
      await story.again(each.do === 'again');
      await story.expectPoints();
      return;
    case 'pin':
    case 'unpin':
      await story.pin(each.point, each.do === 'pin');
  }
}

it('keeps every kept point as it was, through layers, points, folds, compactions and openings with and without the index', async () => {
  let folds = 0;
  let removed = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60, size: 'max' }), async (steps) => {
      const story = new Story();
      leaveMapped(index, null);
      await story.begin();
      try {
        for (const each of steps) {
          await tell(story, each);
          if (each.do === 'fold') folds += 1;
        }
        await tell(story, { do: 'commit' });
        await tell(story, { do: 'prove' });
        await tell(story, { do: 'fold' });
        await tell(story, { do: 'rebuild' });
        // And it goes on.
        await tell(story, { do: 'layer', changes: [{ block: 3, mask: 0x0ff0 }] });
        await tell(story, { do: 'commit' });
        expect((await story.open.prove()).asked).toEqual([]);
        await story.expectPoints();
        expect(story.open.states()).not.toContain('damaged');
        removed += story.open.store.points.removed.size;
      } finally {
        await story.end();
      }
    }),
    { numRuns: soak ? 350 : 35 },
  );
  console.info(`folds: ${folds}, segments removed: ${removed}`);
  expect(removed).toBeGreaterThan(10);
}, 600_000);

it('takes at most 1.3 times what is live once it has folded', async () => {
  const story = new Story();
  await story.begin();
  const shares: number[] = [];
  try {
    for (let round = 1; round <= 24; round += 1) {
      // Some blocks change each time, some seldom: segments end up live in part.
      for (let first = 0; first < 180; first += 10) {
        const blocks = Array.from({ length: 10 }, (_, at) => ({ block: first + at }));
        const due = blocks.filter(({ block }) => round % (1 + (block % 7)) === 0);
        if (due.length > 0) await story.open.layer(due);
      }
      await story.commit();
      await story.pin(round, round % 4 === 0);
      await story.open.prove();
      if (round % 8 !== 0) continue;
      const { outcome, use } = await story.open.fold();
      expect(outcome.complete).toBe(true);
      shares.push(use.stored / use.live);
      await story.expectPoints();
    }
    console.info(`stored to live: ${shares.map((share) => share.toFixed(3)).join(', ')}`);
    for (const share of shares) expect(share).toBeLessThanOrEqual(1.3);
  } finally {
    await story.end();
  }
});

it('tells nothing since a retired point, nor since one whose layers may be gone', async () => {
  const story = new Story();
  await story.begin();
  try {
    for (let round = 1; round <= 6; round += 1) {
      await story.open.layer(Array.from({ length: 8 }, (_, block) => ({ block })));
      await story.commit();
    }
    await story.pin(2, true);
    await story.open.prove();
    expect(story.open.store.maxSeqAt(0, 2)).not.toBeNull();
    await story.fold();
    expect(story.open.store.points.removed.size).toBeGreaterThan(0);
    const since = [1, 2, 3, 6].map((point) => story.open.store.maxSeqAt(0, point) !== null);
    expect(since).toEqual([false, false, false, true]);
    const disk = await story.open.disk();
    const seq = await story.open.layer([{ block: 1 }]);
    await story.open.commit(withLayer(null, seq), 1);
    const told: number[] = [];
    for await (const [block] of disk.leavesSince(story.open.store.maxSeqAt(0, 6) ?? 0)) told.push(block);
    expect(told).toEqual([1]);
  } finally {
    await story.end();
  }
});

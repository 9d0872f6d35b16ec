/** Roots over a random history of a growing disk, in any number of passes, against a model that computes each one alone. */
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { geometryOf, type Geometry } from '../../src/disk/geometry.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { RootBuilder } from '../../src/recovery/root-builder.ts';
import { checkRoots, type LeafHistory } from '../../src/recovery/verify-roots.ts';
import { diceOf, seedOfRun, type Dice } from '../product/content.ts';

const blockSize = 4096;
const pointCount = 40;

const leafOf = (block: number, at: number): Uint8Array => createHash('sha256').update(`${block} ${at}`).digest();

interface Model {
  readonly geometries: readonly Geometry[];
  /** Block → points that changed it, ascending. */
  readonly changes: Map<number, number[]>;
}

function modelOf(dice: Dice): Model {
  let count = dice.between(1, 1500);
  const changes = new Map<number, number[]>();
  const geometries: Geometry[] = [];
  for (let at = 0; at < pointCount; at += 1) {
    // To where a node ends, over it, by a little, or not at all.
    if (dice.between(0, 6) === 0)
      count = dice.pick([Math.ceil(count / 1024) * 1024, count + 1, count + 1700, count + 7]);
    geometries.push(geometryOf(count * blockSize, blockSize));
    const changed = dice.pick([0, 1, 5, 60]);
    for (let number = 0; number < changed; number += 1) {
      const block = dice.between(0, count);
      const before = changes.get(block) ?? [];
      if (before.at(-1) !== at) changes.set(block, [...before, at]);
    }
  }
  return { geometries, changes };
}

function rootOf({ geometries, changes }: Model, at: number): string {
  const builder = new RootBuilder(geometries[at] ?? expect.fail('no such point'));
  for (const block of [...changes.keys()].sort((a, b) => a - b)) {
    const last = changes.get(block)?.findLast((each) => each <= at);
    if (last !== undefined) builder.add(block, leafOf(block, last));
  }
  return builder.root();
}

function historyOf(model: Model): LeafHistory {
  const points = model.geometries.map((geometry, at) => ({
    point: at + 1,
    geometry,
    root: rootOf(model, at),
    maxSeq: at + 1,
  }));
  return {
    points,
    *blocks() {
      yield* [...model.changes.keys()].sort((a, b) => a - b);
    },
    *versions(block, first, end) {
      let above = end;
      for (const at of (model.changes.get(block) ?? []).toReversed()) {
        if (at >= above) continue;
        yield { entry: { leaf: leafOf(block, at) }, from: Math.max(at, first), end: above };
        above = at;
        if (at <= first) return;
      }
    },
  };
}

describe('the roots of a random history', () => {
  const seed = seedOfRun('roots');
  it.each(Array.from({ length: 12 }, (_, run) => run))('match, and do not where a leaf differs (%i)', async (run) => {
    const dice = diceOf(seed + run);
    const history = historyOf(modelOf(dice));
    const { signal } = new AbortController();
    for (const changesMax of [1, dice.between(2, 400), 100_000])
      expect(await checkRoots(history, { clock, signal, changesMax })).toEqual(history.points.map(() => true));
    const wrong = dice.between(0, pointCount);
    const points = history.points.map((point, at) => (at === wrong ? { ...point, root: 'ab'.repeat(32) } : point));
    const found = await checkRoots({ ...history, points }, { clock, signal, changesMax: dice.between(1, 400) });
    expect(found).toEqual(points.map((_, at) => at !== wrong));
  });

  it('do not match where a block lies behind the end of the disk', async () => {
    const geometry = geometryOf(10 * blockSize, blockSize);
    const root = new RootBuilder(geometry).root();
    const beyond: LeafHistory = {
      points: [{ point: 1, geometry, root, maxSeq: 1 }],
      blocks: () => [2000].values(),
      versions: () => [{ entry: { leaf: leafOf(1, 1) }, from: 0, end: 1 }],
    } as LeafHistory;
    expect(await checkRoots(beyond, { clock, signal: new AbortController().signal })).toEqual([false]);
  });
});

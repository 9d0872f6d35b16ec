/** Which points go into which, and what is sent again; over connections and spools in `spool-story.test.ts`. */
import { expect, it } from 'vitest';
import { WaitingPoints } from '../../src/process-server/waiting-points.ts';
import type { PointMessage } from '../../src/wire/point.ts';
import { runOf } from '../layers.ts';

function pointOf(cutTimeMs: number, consistency: 'crash' | 'app' = 'crash'): PointMessage {
  const about = { size: 65_536, root: 'cd'.repeat(32), kind: 'delta', records: 1, payloadBytes: 1 } as const;
  return { cutTimeMs, consistency, disks: [{ disk: 0, layers: runOf([cutTimeMs]), ...about }] };
}

/** Points of one layer each, whose number is their cut; all on disk. */
function waiting(cuts: readonly number[]): WaitingPoints {
  const points = new WaitingPoints();
  for (const cut of cuts) {
    points.batch(0, cut);
    points.add(pointOf(cut));
    points.spooled(cut);
  }
  return points;
}

function turn(points: WaitingPoints, cut: number, isAboveMark = true): unknown {
  points.sending(0, cut);
  return points.turn(pointOf(cut), isAboveMark)?.disks[0]?.layers ?? null;
}

it('what was merged is sent with the one it went into, then and when that is sent again, and with no other', () => {
  const points = waiting([1, 2, 3, 4]);
  expect(turn(points, 1)).toBeNull();
  expect(turn(points, 2, false)).toEqual(runOf([1, 2]));
  expect(turn(points, 3)).toBeNull();
  expect(turn(points, 4)).toEqual(runOf([3, 4]));
  expect([1, 2, 3, 4].map((cut) => turn(points, cut, false))).toEqual([null, runOf([1, 2]), null, runOf([3, 4])]);
  expect(points.answered(2)).toMatchObject({ atMs: 1, points: 1 });
  expect(points.answered(4)).toMatchObject({ atMs: 3, points: 1 });
  expect(points.count).toBe(0);
});

it('nothing is merged into what is in memory only, nor an app-consistent point into another kind', () => {
  const points = waiting([1]);
  points.batch(0, 2);
  points.add(pointOf(2, 'app'));
  expect(turn(points, 1)).toEqual(runOf([1]));
  points.spooled(2);
  points.batch(0, 3);
  points.add(pointOf(3));
  points.spooled(3);
  expect(turn(points, 2)).toEqual(runOf([2]));
  points.forget(3);
  expect(points.count).toBe(2);
});

it('a cut that is not behind those that wait is refused', () => {
  const points = waiting([5]);
  for (const cut of [5, 4]) expect(() => points.add(pointOf(cut))).toThrow('while one of 5 waits');
  points.answered(5);
  points.add(pointOf(4));
  expect(points.oldest?.cutTimeMs).toBe(4);
});

/** Points that were due and not made: none is lost in the count, whatever happens to the sessions they are told in. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AppSchedule } from '../../src/agent/app-schedule.ts';
import { Gaps } from '../../src/agent/gaps.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import { gapReasons, type Gap } from '../../src/wire/gap.ts';

const t0 = Date.UTC(2026, 10, 21);
const interval = 5000;

/** In a session since t0, at whose beginning a point was cut. */
function connected(): Gaps {
  const gaps = new Gaps();
  gaps.sessionOpened(t0, t0);
  return gaps;
}
/** A point of this cut, sent and committed. */
function made(gaps: Gaps, cutTimeMs: number): void {
  gaps.pointSent(cutTimeMs, interval);
  gaps.committed(cutTimeMs);
}
const short = (gaps: readonly Gap[]) => gaps.map(({ atMs, points, reason }) => [atMs - t0, points, reason]);

test('points in time leave no gap, nor does one that is a little late', () => {
  const gaps = connected();
  let cut = t0;
  for (const lateMs of [0, 10, 4999]) made(gaps, (cut += interval + lateMs));
  expect(gaps.take()).toEqual([]);
});

test('sending that takes longer than the interval is one gap, with what was due meanwhile', () => {
  const gaps = connected();
  made(gaps, t0 + 3 * interval + 100);
  expect(gaps.take()).toEqual([
    { atMs: t0 + interval, points: 2, reason: 'other', detail: 'sending one point took 15 s' },
  ]);
});

test('what was due while the link was away is one gap; what was due while the backlog was sent is another', () => {
  const gaps = connected();
  gaps.sessionEnded(t0 + 1000);
  // Attempts to connect that came to nothing.
  gaps.sessionEnded(t0 + 2000);
  gaps.sessionOpened(t0 + 61_000, t0);
  made(gaps, t0 + 100_000);
  // 19 intervals after the first due point; 12 of them fit into the minute without a session.
  expect(gaps.take()).toEqual([
    { atMs: t0 + interval, points: 12, reason: 'disconnected', detail: 'without a session for 60 s' },
    { atMs: t0 + interval, points: 7, reason: 'other', detail: 'sending one point took 40 s' },
  ]);
});

test('a link that was away for less than an interval leaves no gap', () => {
  const gaps = connected();
  gaps.sessionEnded(t0 + 1000);
  gaps.sessionOpened(t0 + 4000, t0);
  made(gaps, t0 + 6000);
  expect(gaps.take()).toEqual([]);
});

test('what an agent missed while it did not run is found from the newest point of the target', () => {
  const gaps = new Gaps();
  gaps.sessionOpened(t0 + 60_000, t0);
  made(gaps, t0 + 60_100);
  expect(short(gaps.take())).toEqual([[interval, 11, 'disconnected']]);
});

test('before the first point of a machine nothing is due', () => {
  const gaps = new Gaps();
  gaps.sessionOpened(t0, null);
  gaps.sessionEnded(t0 + 1000);
  gaps.sessionOpened(t0 + 60_000, null);
  made(gaps, t0 + 3_600_000);
  expect(gaps.take()).toEqual([]);
});

test('cuts that were given up count once, and what is told is what failed', () => {
  const gaps = connected();
  for (let due = 1; due <= 3; due += 1) gaps.cutFailed(t0 + due * interval, 'drain', 'slow disk', interval);
  gaps.hooksFailed(t0 + 4 * interval, 'x'.repeat(5000));
  made(gaps, t0 + 4 * interval);
  const told = gaps.take();
  expect(short(told)).toEqual([
    [interval, 1, 'drain'],
    [2 * interval, 1, 'drain'],
    [3 * interval, 1, 'drain'],
    [4 * interval, 1, 'hooks'],
  ]);
  expect(told[3]?.detail.length).toBe(1024);
  expect([...gaps.totals].filter(([, points]) => points > 0)).toEqual([
    ['drain', 3],
    ['hooks', 1],
  ]);
});

test('a clock that was set back makes no gap', () => {
  const gaps = connected();
  made(gaps, t0 - 3_600_000);
  expect(gaps.take()).toEqual([]);
});

test('what was told before a lost session is told again, unless a point was committed behind it', () => {
  const gaps = connected();
  gaps.cutFailed(t0 + interval, 'drain', '', interval);
  expect(short(gaps.take())).toEqual([[interval, 1, 'drain']]);
  expect(gaps.take()).toEqual([]);
  gaps.sessionEnded(t0 + interval);
  expect(short(gaps.take())).toEqual([[interval, 1, 'drain']]);
  made(gaps, t0 + 2 * interval);
  gaps.sessionEnded(t0 + 2 * interval);
  expect([gaps.take(), gaps.untold]).toEqual([[], 0]);
});

test('of points in flight when a session is lost those count that the target has; what was missed before each is told once', () => {
  const gaps = connected();
  // The second is late by one interval, the fourth was given up.
  for (const at of [1, 3, 4]) gaps.pointSent(t0 + at * interval, interval);
  gaps.cutFailed(t0 + 5 * interval, 'drain', '', interval);
  gaps.pointSent(t0 + 6 * interval, interval);
  expect(short(gaps.take())).toEqual([[5 * interval, 1, 'drain']]);
  gaps.sessionEnded(t0 + 6 * interval + 1000);
  gaps.sessionOpened(t0 + 6 * interval + 2000, t0 + 3 * interval);
  expect(short(gaps.take())).toEqual([
    [5 * interval, 1, 'drain'],
    [2 * interval, 1, 'other'],
    [4 * interval, 1, 'other'],
  ]);
  made(gaps, t0 + 7 * interval);
  expect(short(gaps.take())).toEqual([[6 * interval, 1, 'other']]);
  expect([...gaps.totals.values()].reduce((sum, points) => sum + points, 0)).toBe(4);
});

test('points that were merged on the way are told by who merged them', () => {
  const gaps = connected();
  for (const at of [1, 2, 3, 4]) gaps.pointSent(t0 + at * interval, interval);
  gaps.committed(t0 + 3 * interval);
  gaps.committed(t0 + 4 * interval);
  expect([gaps.take(), gaps.untold]).toEqual([[], 0]);
});

test('what was told before a POINT is confirmed with it, not with one before it', () => {
  const gaps = connected();
  gaps.pointSent(t0 + interval, interval);
  gaps.hooksFailed(t0 + interval, 'x');
  gaps.take();
  gaps.pointSent(t0 + 2 * interval, interval);
  gaps.hooksFailed(t0 + 2 * interval, 'y');
  gaps.take();
  gaps.committed(t0 + interval);
  expect(gaps.untold).toBe(2);
  gaps.sessionEnded(t0 + 2 * interval);
  gaps.sessionOpened(t0 + 2 * interval, t0 + 2 * interval);
  expect(gaps.take().map(({ detail }) => detail)).toEqual(['y']);
});

test('a pause and an absence belong to the cut behind them, also while points wait', () => {
  const gaps = connected();
  gaps.pointSent(t0 + interval, interval);
  gaps.wasPaused();
  gaps.pointSent(t0 + 4 * interval, interval);
  gaps.pointSent(t0 + 7 * interval, interval);
  gaps.committed(t0 + 7 * interval);
  expect(short(gaps.take())).toEqual([
    [2 * interval, 2, 'paused'],
    [5 * interval, 2, 'other'],
  ]);
});

test('however many come while nobody listens, they are few, and their points all there', () => {
  const step = fc.oneof(
    { weight: 8, arbitrary: fc.record({ reason: fc.constantFrom(...gapReasons) }) },
    { weight: 1, arbitrary: fc.constant('take' as const) },
    { weight: 1, arbitrary: fc.constant('lost' as const) },
  );
  const run = (steps: readonly (typeof step extends fc.Arbitrary<infer T> ? T : never)[]): void => {
    const gaps = new Gaps();
    gaps.sessionOpened(t0, null);
    let noted = 0;
    for (const [index, now] of steps.entries()) {
      if (now === 'take') gaps.take();
      else if (now === 'lost') gaps.sessionEnded(t0 + index);
      else {
        gaps.cutFailed(t0 + index, now.reason, `at ${index}`, 1_000_000);
        noted += 1;
      }
      expect(gaps.untold).toBe(noted);
    }
    gaps.sessionEnded(t0);
    const told = gaps.take();
    expect(told.length).toBeLessThanOrEqual(limits.agent.gapsKeptMax);
    expect(told.reduce((sum, { points }) => sum + points, 0)).toBe(noted);
    expect([...gaps.totals.values()].reduce((sum, points) => sum + points, 0)).toBe(noted);
    const first = steps.findIndex((now) => typeof now === 'object');
    if (first >= 0) expect(Math.min(...told.map(({ atMs }) => atMs))).toBe(t0 + first);
  };
  fc.assert(fc.property(fc.array(step, { maxLength: 400, size: 'max' }), run), { seed: 20_261_121, numRuns: 100 });
});

test('a wait for the resync window is named as such, once', () => {
  const gaps = new Gaps();
  gaps.sessionOpened(t0, null);
  made(gaps, t0);
  gaps.waitedForWindow();
  made(gaps, t0 + 3 * interval);
  made(gaps, t0 + 6 * interval);
  const [waited, slow] = gaps.take().map(({ detail }) => detail);
  expect(waited).toBe('a resync waited for its window and was sent, in 15 s');
  expect(slow).toBe('sending one point took 15 s');
});

test('an app-consistent point is due at the start, after its hours, when asked for, and a minute after it failed', () => {
  let nowMs = 0;
  let everyMs: number | null = 3_600_000;
  const schedule = new AppSchedule({ ...systemClock, monotonicMs: () => nowMs }, () => everyMs);
  const dueAt = (ms: number): boolean => {
    nowMs = ms;
    return schedule.isDue;
  };
  expect(dueAt(0)).toBe(true);
  schedule.tried(false);
  expect([dueAt(limits.agent.appRetryMs - 1), dueAt(limits.agent.appRetryMs)]).toEqual([false, true]);
  schedule.tried(true);
  const madeMs = nowMs;
  expect([dueAt(madeMs + everyMs - 1), dueAt(madeMs + everyMs)]).toEqual([false, true]);
  everyMs = null;
  expect(schedule.isDue).toBe(false);
  schedule.ask();
  expect(schedule.isDue).toBe(true);
  schedule.tried(false);
  expect(schedule.isDue).toBe(false);
});

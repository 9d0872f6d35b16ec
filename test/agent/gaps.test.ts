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
const short = (gaps: readonly Gap[]) => gaps.map(({ atMs, points, reason }) => [atMs - t0, points, reason]);

test('points in time leave no gap, nor does one that is a little late', () => {
  const gaps = connected();
  let cut = t0;
  for (const lateMs of [0, 10, 4999]) gaps.committed((cut += interval + lateMs), interval);
  expect(gaps.take()).toEqual([]);
});

test('sending that takes longer than the interval is one gap, with what was due meanwhile', () => {
  const gaps = connected();
  gaps.committed(t0 + 3 * interval + 100, interval);
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
  gaps.committed(t0 + 100_000, interval);
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
  gaps.committed(t0 + 6000, interval);
  expect(gaps.take()).toEqual([]);
});

test('what an agent missed while it did not run is found from the newest point of the target', () => {
  const gaps = new Gaps();
  gaps.sessionOpened(t0 + 60_000, t0);
  gaps.committed(t0 + 60_100, interval);
  expect(short(gaps.take())).toEqual([[interval, 11, 'disconnected']]);
});

test('before the first point of a machine nothing is due', () => {
  const gaps = new Gaps();
  gaps.sessionOpened(t0, null);
  gaps.sessionEnded(t0 + 1000);
  gaps.sessionOpened(t0 + 60_000, null);
  gaps.committed(t0 + 3_600_000, interval);
  expect(gaps.take()).toEqual([]);
});

test('cuts that were given up count once, and what is told is what failed', () => {
  const gaps = connected();
  for (let due = 1; due <= 3; due += 1) gaps.cutFailed(t0 + due * interval, 'drain', 'slow disk', interval);
  gaps.hooksFailed(t0 + 4 * interval, 'x'.repeat(5000));
  gaps.committed(t0 + 4 * interval, interval);
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
  gaps.committed(t0 - 3_600_000, interval);
  expect(gaps.take()).toEqual([]);
});

test('what was told before a lost session is told again, unless a point was committed behind it', () => {
  const gaps = connected();
  gaps.cutFailed(t0 + interval, 'drain', '', interval);
  expect(short(gaps.take())).toEqual([[interval, 1, 'drain']]);
  expect(gaps.take()).toEqual([]);
  gaps.sessionEnded(t0 + interval);
  expect(short(gaps.take())).toEqual([[interval, 1, 'drain']]);
  gaps.committed(t0 + 2 * interval, interval);
  gaps.sessionEnded(t0 + 2 * interval);
  expect([gaps.take(), gaps.untold]).toEqual([[], 0]);
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
  gaps.committed(t0, interval);
  gaps.waitedForWindow();
  gaps.committed(t0 + 3 * interval, interval);
  gaps.committed(t0 + 6 * interval, interval);
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

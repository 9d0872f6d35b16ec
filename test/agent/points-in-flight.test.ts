/** POINTs that wait, by a steered clock: their order, their stages, the time they are waited for. */
import { describe, expect, it } from 'vitest';
import { newCounters } from '../../src/agent/counters.ts';
import { PointsInFlight, type SentPoint } from '../../src/agent/points-in-flight.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';

function made() {
  const time = { nowMs: 0 };
  const counters = newCounters();
  const clock = { ...systemClock, wallMs: () => time.nowMs, monotonicMs: () => time.nowMs };
  return { time, counters, points: new PointsInFlight(clock, counters) };
}
const cut = (cutTimeMs: number, app = false): SentPoint => ({
  cut: { cutTimeMs, heldMs: 0, writes: [1] },
  payloadBytes: 1,
  app,
});
const committed = (point: number, cutTimeMs: number) => ({ point, cutTimeMs, disks: [] });

describe('points in flight', () => {
  it('are answered in order, each for itself', () => {
    const { time, points } = made();
    for (const at of [10, 20, 30]) {
      time.nowMs = at + 1;
      points.sending(cut(at), at);
    }
    time.nowMs = 40;
    points.durableBelow(20);
    time.nowMs = 50;
    const first = points.committed(committed(7, 10));
    expect(first).toMatchObject({ point: 7, merged: 0 });
    expect(first.stages).toEqual({ cutMs: 10, sentMs: 11, durableMs: 40, committedMs: 50 });
    expect(points.open).toEqual({ cutMs: 20, sentMs: 21, durableMs: null, committedMs: null });
    time.nowMs = 60;
    points.durableBelow(null);
    time.nowMs = 70;
    expect(points.committed(committed(8, 20)).stages.durableMs).toBe(60);
    expect(points.committed(committed(9, 30)).stages.durableMs).toBe(60);
    expect([points.count, points.allAnswered, points.open]).toEqual([0, true, null]);
  });

  it('are answered together where they were merged', () => {
    const { time, points } = made();
    for (const at of [10, 20, 30]) points.sending(cut(at), at);
    time.nowMs = 99;
    const answered = points.committed(committed(2, 20));
    expect([answered.merged, answered.sent.cut.cutTimeMs, points.count]).toEqual([1, 20, 1]);
    // DURABLE never came for them: at the latest it is with the answer.
    expect(answered.stages).toEqual({ cutMs: 10 + 10, sentMs: 20, durableMs: 99, committedMs: 99 });
  });

  it('take no answer nobody asked for', () => {
    const { points } = made();
    expect(() => points.committed(committed(1, 10))).toThrow('COMMITTED of a cut');
    expect(() => points.rejected()).toThrow('REJECTED without');
    points.sending(cut(10), 1);
    expect(() => points.committed(committed(1, 11))).toThrow('COMMITTED of a cut at 11');
    points.rejected();
  });

  it('rise: a cut that the wall clock dates earlier, or not later, waits for the answers first', () => {
    const { points } = made();
    expect(points.mayFollow(5)).toBe(true);
    points.sending(cut(10), 1);
    expect([points.mayFollow(9), points.mayFollow(10), points.mayFollow(11)]).toEqual([false, false, true]);
    points.committed(committed(1, 10));
    expect(points.mayFollow(9)).toBe(true);
  });

  it('cost the time in which at least one waits, counted as it passes', () => {
    const { time, counters, points } = made();
    const at = (ms: number): void => {
      time.nowMs = ms;
    };
    at(100);
    points.sending(cut(100), 1);
    at(150);
    points.sending(cut(150), 2);
    at(170);
    points.committed(committed(1, 100));
    expect(counters.stageMs.commit).toBe(70);
    at(200);
    points.committed(committed(2, 150));
    expect(counters.stageMs.commit).toBe(100);
    at(900);
    points.sending(cut(900), 3);
    at(910);
    points.end(new Problem('closed', 'gone', { retryable: true }));
    expect(counters.stageMs.commit).toBe(110);
  });

  it('let others wait for all answers, and tell them when none will come', async () => {
    const { points } = made();
    await points.answered();
    points.sending(cut(10, true), 1);
    const waiting = points.answered();
    expect(points.app).toBe(true);
    points.committed(committed(1, 10));
    await waiting;
    points.sending(cut(20), 2);
    const inVain = points.answered();
    points.end(new Problem('closed', 'gone', { retryable: true }));
    await expect(inVain).rejects.toThrow('gone');
    // Nothing waits, and yet not everything was answered.
    expect([points.count, points.allAnswered]).toEqual([0, false]);
  });
});

/** The whole table of pauses, by a steered chance. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RetrySchedule } from '../../src/kit/retry-schedule.ts';
import type { Random } from '../../src/kit/random.ts';
import { limits } from '../../src/limits.ts';

const minute = 60_000;
const chance = (fraction: number): Random => ({ bytes: (length) => Buffer.alloc(length), fraction: () => fraction });

function schedule(fraction: number, slowMs: readonly number[] = [1, 2, 4, 8, 10, 30].map((each) => each * minute)) {
  const { reconnectBaseMs, reconnectMaxMs, reconnectQuicklyMs } = limits.agent;
  return new RetrySchedule({
    quickBaseMs: reconnectBaseMs,
    quickMaxMs: reconnectMaxMs,
    quickForMs: reconnectQuicklyMs,
    slowMs,
    random: chance(fraction),
  });
}

const delays = (of: RetrySchedule, count: number): number[] =>
  Array.from({ length: count }, () => Math.round(of.next().delayMs));

describe('pauses between tries', () => {
  it('are quick for about a minute, then 1, 2, 4, 8, 10 minutes, then 30 for ever', () => {
    const quick = [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000, 10_000, 10_000];
    const slow = [1, 2, 4, 8, 10, 30, 30, 30].map((each) => each * minute);
    // The most of a quick pause is just not reached; the middle of a slow one is its number.
    expect(delays(schedule(0.999_999), quick.length)).toEqual(quick);
    expect(delays(schedule(0.5), quick.length + slow.length).slice(quick.length)).toEqual(slow);
    expect(limits.agent.retryMinutesDefault).toEqual([1, 2, 4, 8, 10, 30]);
  });

  it('say which they are', () => {
    const some = schedule(0.5);
    const phases = Array.from({ length: 14 }, () => some.next().phase);
    expect(phases).toEqual([...Array<string>(11).fill('quick'), ...Array<string>(3).fill('slow')]);
  });

  it('begin anew after a success, wherever they stood', () => {
    const fresh = delays(schedule(0.25), 30);
    for (const tries of [1, 5, 12, 40]) {
      const used = schedule(0.25);
      delays(used, tries);
      used.reset();
      expect(delays(used, 30)).toEqual(fresh);
    }
  });

  it('keep to their bounds whatever chance says', () => {
    const run = (fraction: number): void => {
      const [low, here, high] = [0, fraction, 1].map((each) => delays(schedule(each), 20));
      for (const [index, ms] of (here ?? []).entries()) {
        expect(ms).toBeGreaterThanOrEqual(low?.[index] ?? NaN);
        expect(ms).toBeLessThanOrEqual(high?.[index] ?? NaN);
      }
      expect(low?.slice(0, 2)).toEqual([100, 200]);
      expect([low?.[11], high?.[11]]).toEqual([0.9 * minute, 1.1 * minute]);
    };
    fc.assert(fc.property(fc.double({ min: 0, max: 0.999_999, noNaN: true }), run), { seed: 1, numRuns: 50 });
  });

  it('may have another table, or none: then the last quick pause repeats', () => {
    expect(delays(schedule(0.5, [minute]), 14).slice(11)).toEqual([minute, minute, minute]);
    expect(delays(schedule(0.999_999, []), 14).slice(10)).toEqual([10_000, 10_000, 10_000, 10_000]);
  });

  it('are quick for about a minute, so that a restart of the other end costs seconds', () => {
    const sum = delays(schedule(0.5), 11).reduce((total, ms) => total + ms, 0);
    expect(sum).toBeGreaterThan(40_000);
    expect(sum).toBeLessThan(75_000);
  });
});

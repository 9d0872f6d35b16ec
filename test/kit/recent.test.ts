/** How a total grew lately, held against every single step kept in a list. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Recent } from '../../src/kit/recent.ts';

const spanMs = 60_000;
const ring = () => new Recent({ bucketMs: 5_000, spanMs });

test('nothing is known before two looks', () => {
  const recent = ring();
  expect(recent.over(spanMs)).toEqual({ amount: 0, ms: 0 });
  recent.note(1_000, 500);
  expect(recent.over(spanMs)).toEqual({ amount: 0, ms: 0 });
});

test('what was added between two looks counts as added evenly', () => {
  const recent = ring();
  recent.note(0, 0);
  recent.note(40_000, 400);
  expect(recent.over(10_000)).toEqual({ amount: 100, ms: 10_000 });
  expect(recent.over(spanMs)).toEqual({ amount: 400, ms: 40_000 });
  recent.note(100_000, 400);
  expect(recent.over(10_000)).toEqual({ amount: 0, ms: 10_000 });
  recent.note(500_000, 4400);
  expect(recent.over(spanMs).amount).toBeCloseTo(600, 6);
  recent.note(500_000, 4460);
  expect(recent.over(spanMs).amount).toBeGreaterThan(600);
});

test('is what a list of all steps says, to a bucket', () => {
  const steps = fc.array(fc.record({ ms: fc.integer({ min: 0, max: 30_000 }), added: fc.nat(1000) }), {
    maxLength: 80,
  });
  const run = (taken: readonly { ms: number; added: number }[], span: number): void => {
    const recent = ring();
    let [nowMs, total] = [7_777, 0];
    recent.note(nowMs, total);
    const history = [{ nowMs, total }];
    for (const { ms, added } of taken) {
      [nowMs, total] = [nowMs + ms, total + added];
      recent.note(nowMs, total);
      history.push({ nowMs, total });
    }
    const { amount, ms } = recent.over(span);
    expect(ms).toBe(Math.min(span, nowMs - 7_777));
    // The total at an instant, from the looks on both sides of it: less and more than a bucket earlier and later.
    const at = (when: number): number => {
      const after = history.findIndex((each) => each.nowMs >= when);
      const [b, a] = [history[after], history[after - 1]];
      if (!b) return total;
      if (!a || b.nowMs === a.nowMs) return b.total;
      return a.total + ((b.total - a.total) * (when - a.nowMs)) / (b.nowMs - a.nowMs);
    };
    const early = history[0]?.total ?? 0;
    expect(amount).toBeLessThanOrEqual(
      total - (nowMs - span - 5_000 <= 7_777 ? early : at(nowMs - span - 5_000)) + 1e-6,
    );
    expect(amount).toBeGreaterThanOrEqual(total - at(Math.min(nowMs, nowMs - span + 5_000)) - 1000 - 1e-6);
  };
  fc.assert(fc.property(steps, fc.integer({ min: 5_000, max: spanMs }), run), { seed: 20_261_121, numRuns: 300 });
});

import { expect, test } from 'vitest';
import { restMs } from '../../src/agent/plan.ts';

test('cuts are an interval apart: what a cycle took is not waited again', () => {
  expect(restMs(1000, 50_000, 50_000)).toBe(1000);
  expect(restMs(1000, 50_000, 50_300)).toBe(700);
  expect(restMs(1000, 50_000, 51_000)).toBe(0);
  expect(restMs(1000, 50_000, 90_000)).toBe(0);
});

test('after a cycle without a point, and when the clock was set back, the whole interval is waited', () => {
  expect(restMs(1000, undefined, 50_000)).toBe(1000);
  expect(restMs(1000, 60_000, 50_000)).toBe(1000);
});

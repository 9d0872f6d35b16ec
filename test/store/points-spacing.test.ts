import { expect, test } from 'vitest';
import { longestSpacingMs } from '../../src/store/points-kept.ts';

test('the longest time between two points that are kept one after the other', () => {
  const at = (...times: number[]): { cutTimeMs: number }[] => times.map((cutTimeMs) => ({ cutTimeMs }));
  expect(longestSpacingMs([])).toBeUndefined();
  expect(longestSpacingMs(at(5000))).toBeUndefined();
  expect(longestSpacingMs(at(5000, 5000))).toBe(0);
  expect(longestSpacingMs(at(1000, 2000, 9000, 9500, 12_000))).toBe(7000);
  // A source whose clock was set back.
  expect(longestSpacingMs(at(9000, 2000))).toBe(0);
});

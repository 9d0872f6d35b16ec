/** The levels of a spool by what is free of it (SPOOL.md, "Levels"): each at its edge, and one byte above. */
import { expect, it } from 'vitest';
import { levelOf, spoolLevels, worse } from '../../src/process-server/spool-report.ts';

it.each([
  [100, 'ok'],
  [31, 'ok'],
  [30, 'warning-30'],
  [26, 'warning-30'],
  [25, 'warning-25'],
  [21, 'warning-25'],
  [20, 'throttling'],
  [1, 'throttling'],
  [0, 'full'],
  [-1, 'full'],
])('%i %% free: %s', (free, level) => {
  const limit = 1_000_000_000;
  const bytes = (limit / 100) * free;
  expect(levelOf(bytes, limit)).toBe(level);
});

it('a byte above an edge is the better level', () => {
  const limit = 1_000_000_000;
  const above = [0.3, 0.25, 0.2, 0].map((free) => levelOf(limit * free + 1, limit));
  expect(above).toEqual(['ok', 'warning-30', 'warning-25', 'throttling']);
});

it('a spool of no size is full, and the worse of two levels is the one nearer to that', () => {
  expect(levelOf(0, 0)).toBe('full');
  for (const [at, one] of spoolLevels.entries())
    for (const [other, two] of spoolLevels.entries()) expect(worse(one, two)).toBe(spoolLevels[Math.max(at, other)]);
});

/** The levels of a spool by what is free of it (SPOOL.md, "Levels"): each at its edge, and one byte above; and what the log says of them. */
import { expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import type { Logger } from '../../src/observe/logger.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { Spool } from '../../src/process-server/spool.ts';
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

it('are told in the log when they change, once: as a warning when worse', () => {
  const told: unknown[] = [];
  const note =
    (severity: string) =>
    ({ machine, level, usedBytes }: Readonly<Record<string, unknown>>): unknown =>
      told.push([severity, machine, level, usedBytes]);
  const logger: Logger = {
    debug: note('debug'),
    info: note('info'),
    warn: note('warn'),
    error: note('error'),
    child: () => logger,
  };
  const options = { directory: '/nowhere', bytesMax: 1000, files: posixFiles };
  const spool = new Spool(options, { clock: systemClock, random: systemRandom, logger });
  const room = spool.join('web1');
  for (const bytes of [0, 699, 1, 1, 49, 50, 100, 100, -200, -100, -101]) {
    room.take(bytes);
    room.note(logger);
  }
  spool.close();
  expect(told).toEqual([
    ['warn', 'web1', 'warning-30', 700],
    ['warn', 'web1', 'warning-25', 750],
    ['warn', 'web1', 'throttling', 800],
    ['warn', 'web1', 'full', 1000],
    ['info', 'web1', 'throttling', 800],
    ['info', 'web1', 'warning-30', 700],
    ['info', 'web1', 'ok', 599],
  ]);
});

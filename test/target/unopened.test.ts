/** One machine's store can not be opened: the others are, and whoever asks is told which and why. */
import { expect, test } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import type { Logger } from '../../src/observe/logger.ts';
import { TargetReporter } from '../../src/main/target-report.ts';
import type { Parts } from '../../src/main/parts.ts';
import { Target } from '../../src/target/target.ts';

const silent: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silent,
};

test('a store that can not be opened is named with its reason until it opens', async () => {
  const target = new Target({
    version: 'test',
    clock: systemClock,
    logger: silent,
    machines: () => Promise.resolve(['web1']),
    openMachine: () =>
      Promise.reject(new Problem('damaged', 'points.log is damaged at byte 7', { remedy: 'restore it from a copy' })),
  });
  await target.start();
  expect([...target.unopened()].map(([machine, { code }]) => [machine, code])).toEqual([['web1', 'damaged']]);
  const parts = { clock: systemClock, version: 'test' } as Parts;
  const report = new TargetReporter().make(parts, target, true, 1);
  expect(report.problems).toEqual([
    {
      code: 'damaged',
      message: 'the store of web1 can not be opened: points.log is damaged at byte 7',
      remedy: 'restore it from a copy',
      retryable: false,
      machine: 'web1',
    },
  ]);
  await target.close();
});

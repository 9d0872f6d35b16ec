/** What control says of how long points are kept, is what a target does: the folder of each machine runs by it. */
import { expect, it, onTestFinished, vi } from 'vitest';
import type { ReportReply } from '../../src/control/report-schemas.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { TargetReporter } from '../../src/main/target-report.ts';
import { keepAll } from '../../src/store/retention.ts';
import { Target } from '../../src/target/target.ts';
import { MachineLife } from '../store/machine-fixture.ts';
import { silent } from './peer.ts';

type Limits = typeof import('../../src/limits.ts');
vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<Limits>();
  const { limits: all } = real;
  const often = { foldPollMs: 5, foldEveryMs: 10, foldIdleMs: 10 };
  return { ...real, limits: { ...all, target: { ...all.target, ...often } } };
});

/** Control's answer to a report. */
function answer(name: string, retention: ReportReply['machines'][number]['retention']): ReportReply {
  return {
    machines: [{ name, newestPoint: null, retention }],
    resync: null,
    unprotected: [],
    throttle: [],
    ownThrottle: null,
  };
}

/** No point is kept for its age. */
const nothing = { hours: -1, thinning: null };

it('keeps everything until control has said otherwise, of this machine; then what it said last', async () => {
  const life = await MachineLife.begin();
  onTestFinished(() => life.remove());
  for (let count = 0; count < 4; count += 1) await life.point([{ block: 1 }]);
  await life.prove();
  const reporter = new TargetReporter();
  let passes = 0;
  const target = new Target({
    version: 'test',
    clock: systemClock,
    logger: silent((message) => {
      if (message === 'folded') passes += 1;
    }),
    machines: () => Promise.resolve(['m1']),
    openMachine: () => Promise.resolve(life.store),
    retentionOf: (machine) => reporter.retentionOf(machine),
  });
  onTestFinished(() => target.close());
  /** One that began and ended after now. */
  const wholePass = async (): Promise<void> => {
    const wanted = passes + 2;
    await vi.waitFor(() => expect(passes).toBeGreaterThanOrEqual(wanted), { timeout: 10_000, interval: 5 });
  };
  const kept = (): number[] => life.store.points.kept.map(({ point }) => point);
  await target.start();
  await wholePass();
  expect(kept()).toEqual([1, 2, 3, 4]);
  reporter.answered(answer('m2', nothing));
  reporter.answered(answer('m1', { hours: 1, thinning: null }));
  await wholePass();
  expect(kept()).toEqual([1, 2, 3, 4]);
  reporter.answered(answer('m1', nothing));
  await wholePass();
  expect(kept()).toEqual([4]);
});

it('is handed on as control says it: of hours, of thinning, and of nothing', () => {
  const reporter = new TargetReporter();
  expect(reporter.retentionOf('m1')).toBe(keepAll);
  reporter.answered(answer('m1', { hours: 48, thinning: { afterHours: 4, everyMinutes: 60 } }));
  expect(reporter.retentionOf('m1')).toEqual({ hours: 48, thinning: { afterHours: 4, everyMinutes: 60 } });
  reporter.answered(answer('m1', null));
  expect(reporter.retentionOf('m1')).toMatchObject({ hours: 48 });
  reporter.answered(answer('m1', { hours: 24, thinning: null }));
  expect(reporter.retentionOf('m1')).toEqual({ hours: 24, thinning: undefined });
  expect(reporter.retentionOf('m2')).toBe(keepAll);
  // Another machine of that name starts anew.
  reporter.deletions({ deleted: ['m1'], undeleted: new Map() });
  expect(reporter.retentionOf('m1')).toBe(keepAll);
});

/** The actual RPO between two reports of the target: what goes well is not said to be late, and what is late is said within one report. */
import { expect, it } from 'vitest';
import { storedReport } from '../../src/control/report-schemas.ts';
import { policySchema } from '../../src/control/schemas.ts';
import { judge } from '../../src/control/status.ts';
import { limits } from '../../src/limits.ts';
import { targetReport } from './fixture.ts';

const { reportEveryMs } = limits.control;
const startMs = 1_000_000_000;
const [intervalSeconds, rpoTargetSeconds] = [1, 4];
const policy = policySchema.parse({ intervalSeconds, rpoTargetSeconds });
const machine = { name: 'm1', policy: 'default', paused: false, throttle: null, priority: null, definition: null };
const disks = [{ name: 'root' }];
/** From a cut to its commit. */
const cycleMs = 700;

/** What is said at `nowMs` when points come every interval until `endMs`, and reports every `reportEveryMs` until `silentMs`. */
function at(nowMs: number, endMs = Infinity, silentMs = Infinity) {
  const past = Math.min(nowMs, silentMs) - startMs;
  const receivedMs = startMs + Math.floor(past / reportEveryMs) * reportEveryMs;
  const newest = (whenMs: number): number => {
    const lastMs = Math.min(whenMs - cycleMs, endMs);
    return startMs + Math.floor((lastMs - startMs) / (intervalSeconds * 1000)) * intervalSeconds * 1000;
  };
  const report = targetReport(newest(receivedMs), 'm1', [1]);
  const reports = [storedReport.parse({ name: 't1', receivedMs, report })];
  const input = { machines: [{ ...machine, disks }], policies: new Map([['default', policy]]), reports };
  const [said] = judge({ nowMs, ...input, resyncs: new Map() }).machines;
  const isBreached = said?.disks[0]?.reasons.some(({ code }) => code === 'rpo-breached') ?? false;
  const ageMs = nowMs - newest(nowMs);
  return { isBreached, isTrue: ageMs > rpoTargetSeconds * 1000, actual: said?.rpoActualSeconds ?? NaN };
}

const everyMs = 50;
const times = Array.from({ length: (8 * reportEveryMs) / everyMs }, (_, index) => startMs + 10_000 + index * everyMs);

it('a target below the time between two reports is not breached while points come', () => {
  expect(rpoTargetSeconds * 1000).toBeLessThan(reportEveryMs);
  for (const nowMs of times) {
    const { isBreached, isTrue, actual } = at(nowMs);
    expect([isBreached, isTrue]).toEqual([false, false]);
    expect(actual).toBeLessThanOrEqual(intervalSeconds + cycleMs / 1000);
  }
});

it.each([
  ['told by the next report', Infinity],
  ['told though no report comes any more', 0],
])('a breach is never early, and %s', (_, silentAfterMs) => {
  for (let phase = 0; phase < reportEveryMs; phase += 350) {
    const endMs = startMs + 10_000 + phase;
    let sinceMs: number | null = null;
    for (const nowMs of times) {
      const { isBreached, isTrue } = at(nowMs, endMs, endMs + silentAfterMs);
      if (isTrue) sinceMs ??= nowMs;
      if (silentAfterMs > 0 && !isTrue) expect(isBreached).toBe(false);
      if (sinceMs !== null && nowMs - sinceMs >= reportEveryMs) expect(isBreached).toBe(true);
    }
    expect(sinceMs).not.toBeNull();
  }
});

/** What process server and target measure of themselves, as control gets it. */
import { describe, expect, it } from 'vitest';
import { reportRequest } from '../../src/control/report-schemas.ts';
import { Problem } from '../../src/kit/problem.ts';
import { limits } from '../../src/limits.ts';
import { ProcessServerReporter, type ToldProcessServer } from '../../src/main/process-server-report.ts';
import { TargetFlowMeter } from '../../src/main/target-flow.ts';
import { newCounters } from '../../src/process-server/counters.ts';
import type { MachineSpoolReport } from '../../src/process-server/spool-report.ts';
import { newTargetCounters } from '../../src/target/counters.ts';

const nowMs = 1_000_000;
const target = { host: 'target', port: 9444 };
const session = { machine: 'm1', session: 's', phase: 'open', windowBytes: 1, counters: newCounters() } as const;
const spooled: MachineSpoolReport = {
  machine: 'm1',
  bytes: 7,
  points: 2,
  oldestMs: 5000,
  targetSinceMs: null,
  level: 'ok',
  draining: false,
  failure: null,
};
const quiet: ToldProcessServer = {
  sessions: [],
  grantedBytes: 0,
  targetFailure: null,
  spoolReport: () => ({ usedBytes: 0, limitBytes: 0, level: 'ok', machines: [] }),
  waits: () => null,
  totals: () => new Map(),
};
const make = (more: Partial<ToldProcessServer>, reporter = new ProcessServerReporter()) => {
  const report = reporter.make({ server: { ...quiet, ...more }, target, version: 'test', nowMs });
  // What control would not take is no report.
  expect(reportRequest.parse(report)).toEqual(report);
  return report;
};

describe('a process server', () => {
  it('says nothing of what it does not know', () => {
    expect(make({})).toMatchObject({ machines: [], spool: null, target: null, problems: [] });
    expect(make({ sessions: [{ ...session, phase: 'connecting' }] }).machines).toEqual([
      { machine: 'm1', waits: null, durableMs: null, target: null, spool: null },
    ]);
  });

  it('says what the head of each session waited for, and that its target is there', () => {
    const waits = { agent: 1, pool: 2, target: 3, spool: 4, throttle: 5 };
    const { machines, target: reached } = make({ sessions: [session], waits: () => waits });
    expect(machines[0]?.waits).toEqual({
      windowMs: 10_000,
      agentMs: 1,
      poolMs: 2,
      targetMs: 3,
      spoolMs: 4,
      throttleMs: 5,
    });
    expect(machines[0]?.target).toEqual({ reachable: true, sinceMs: null });
    expect(reached).toEqual({ reachable: true, sinceMs: null });
  });

  it('says what waits on disk, also of a machine whose agent is gone, and whose target is away', () => {
    const machines = [spooled, { ...spooled, machine: 'm2', oldestMs: null, targetSinceMs: 999.6, failure: 'EIO' }];
    const spoolReport = () => ({ usedBytes: 14, limitBytes: 20, level: 'warning-30' as const, machines });
    const report = make({ sessions: [session], spoolReport });
    expect(report.spool).toEqual({ level: 'warning-30', usedBytes: 14, limitBytes: 20 });
    expect(report.machines).toMatchObject([
      { machine: 'm1', target: { reachable: false, sinceMs: null }, spool: { bytes: 7, points: 2, oldestMs: 995_000 } },
      { machine: 'm2', target: { reachable: true, sinceMs: 1000 }, spool: { oldestMs: null } },
    ]);
    expect(report.problems).toMatchObject([{ code: 'spool-failed', machine: 'm2', retryable: true }]);
  });

  it('says that it does not reach its target, since when and why', () => {
    const targetFailure = { atMs: 5000.4, problem: new Problem('unreachable', 'no route', { retryable: true }) };
    const { target: reached, problems } = make({ targetFailure });
    expect(reached).toEqual({ reachable: false, sinceMs: 5000 });
    expect(problems).toMatchObject([
      { code: 'unreachable', message: 'target target:9444, 1970-01-01T00:00:05.000Z: no route' },
    ]);
  });

  it('says how long batches took to be durable since the report before', () => {
    const reporter = new ProcessServerReporter();
    const mean = (batchesDurable: number, durable: number): number | null | undefined => {
      const counters = { ...newCounters(), batchesDurable, stageMs: { ...newCounters().stageMs, durable } };
      return make({ sessions: [session], totals: () => new Map([['m1', counters]]) }, reporter).machines[0]?.durableMs;
    };
    expect(mean(10, 1000)).toBeNull();
    expect(mean(14, 1100)).toBe(25);
    expect(mean(14, 1100)).toBeNull();
  });

  it('does not say more than a report may carry', () => {
    const sessions = Array.from({ length: 600 }, (_, index) => ({ ...session, machine: `m${index}` }));
    const report = make({ sessions });
    expect([report.sessions, report.machines.length]).toEqual([600, limits.control.sessionsPerReportMax]);
  });
});

describe('a target', () => {
  const { growthSampleMs, growthNeedsMs, growthSpanMs } = limits.control;
  const { freeBytesStop } = limits.target;

  it('says how long batches, commits and proofs took since the report before', () => {
    const meter = new TargetFlowMeter();
    const at = (batches: number, points: number, blocks: number) =>
      meter.measured(
        {
          ...newTargetCounters(),
          batchesDurable: batches,
          pointsCommitted: points,
          blocksProven: blocks,
          queuedBytes: 3,
          stageMs: { batch: 10 * batches, commit: 20 * points, proof: 2 * blocks },
        },
        1,
        nowMs,
      );
    const unknown = { batchMs: null, commitMs: null, provenBlocksPerSecond: null, growthBytesPerSecond: null };
    expect(at(5, 5, 5)).toMatchObject({ ...unknown, fullAtMs: null, queuedBytes: 3 });
    expect(at(7, 6, 25)).toMatchObject({ batchMs: 10, commitMs: 20, provenBlocksPerSecond: 500 });
    expect(at(7, 6, 25)).toMatchObject(unknown);
  });

  it('foresees when it is full, by hours, once it has looked for long enough', () => {
    const meter = new TargetFlowMeter();
    const at = (ms: number, freeBytes: number) => meter.measured(newTargetCounters(), freeBytes, ms);
    const perMs = 10;
    const free = (ms: number): number => freeBytesStop + perMs * (2 * growthSpanMs - ms);
    for (let ms = 0; ms < growthNeedsMs; ms += growthSampleMs / 2) expect(at(ms, free(ms)).fullAtMs).toBeNull();
    for (let ms = growthNeedsMs; ms < 1.5 * growthSpanMs; ms += growthSampleMs / 2) {
      expect(at(ms, free(ms))).toMatchObject({ growthBytesPerSecond: perMs * 1000, fullAtMs: 2 * growthSpanMs });
    }
    // What happened before the span is forgotten.
    for (let ms = 1.5 * growthSpanMs; ms <= 2.5 * growthSpanMs + growthSampleMs; ms += growthSampleMs / 2) at(ms, 1e12);
    expect(at(2.5 * growthSpanMs + 2 * growthSampleMs, 1e12)).toMatchObject({
      growthBytesPerSecond: 0,
      fullAtMs: null,
    });
    // A clock that was set back.
    expect(at(0, 1)).toMatchObject({ growthBytesPerSecond: null });
    expect(at(growthNeedsMs, 1)).toMatchObject({ growthBytesPerSecond: 0 });
  });
});

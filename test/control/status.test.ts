import { describe, expect, it } from 'vitest';
import { policySchema, reportRequest, type StoredReport } from '../../src/control/schemas.ts';
import { judge } from '../../src/control/status.ts';
import { limits } from '../../src/limits.ts';
import { agentReport, targetReport } from './fixture.ts';

const nowMs = 1_000_000_000;
const policy = policySchema.parse({ intervalSeconds: 30 });

function stored(name: string, report: object, receivedMs = nowMs): StoredReport {
  return { name, receivedMs, report: reportRequest.parse(report) };
}

function judged(reports: readonly StoredReport[], disks = ['root']) {
  const machines = [{ name: 'm1', policy: 'default', disks: disks.map((name) => ({ name })) }];
  const report = judge({ nowMs, machines, policies: new Map([['default', policy]]), reports });
  const [machine] = report.machines;
  const codes = (reasons: readonly { code: string; severity: string }[] = []) =>
    reasons.map(({ code, severity }) => `${severity} ${code}`);
  return {
    report,
    machine,
    site: codes(report.reasons),
    own: codes(machine?.reasons),
    disk: codes(machine?.disks[0]?.reasons),
  };
}

const agent = (more: object = {}, receivedMs = nowMs) =>
  stored('m1', { ...agentReport(nowMs, 7), ...more }, receivedMs);
const target = (cutTimeMs = nowMs, more: Record<string, unknown> = {}) =>
  stored('t1', targetReport(cutTimeMs, 'm1', [1], more));

describe('status', () => {
  it('is ok when all is well, and says how far behind', () => {
    const { report, machine, site, own, disk } = judged([agent(), target(nowMs - 2000)]);
    expect([report.health, site, own, disk]).toEqual(['ok', [], [], []]);
    expect(machine).toMatchObject({
      lagBytes: 7,
      rpoActualSeconds: 2,
      rpoIntervalSeconds: 30,
      newestCommittedMs: nowMs - 2000,
    });
  });

  it('does not guess what nobody reported', () => {
    const { report, machine, site, own, disk } = judged([]);
    expect(report.health).toBe('warning');
    expect([site, own, disk]).toEqual([['warning no-target'], ['warning agent-never-seen'], ['warning no-point']]);
    expect(machine).toMatchObject({
      lagBytes: null,
      newestCommittedMs: null,
      newestProvenMs: null,
      rpoActualSeconds: null,
    });
    expect(judged([agent(), target()], ['root', 'data']).machine).toMatchObject({
      lagBytes: null,
      newestCommittedMs: null,
    });
  });

  it('turns from ok to warning to critical as the newest point ages', () => {
    const { rpoGraceMs, rpoWarningIntervals, rpoCriticalIntervals } = limits.control;
    const at = (intervals: number) => judged([agent(), target(nowMs - rpoGraceMs - intervals * 30_000 - 1)]);
    expect(at(rpoWarningIntervals - 1).disk).toEqual([]);
    expect(at(rpoWarningIntervals).disk).toEqual(['warning behind']);
    expect(at(rpoCriticalIntervals).disk).toEqual(['critical rpo-breached']);
    expect(at(rpoCriticalIntervals).report.health).toBe('critical');
  });

  it('says when a role fell silent, and when an agent has nobody to send to', () => {
    const silent = nowMs - limits.control.reportSilentMs - 1;
    expect(judged([agent({}, silent), target()]).own).toEqual(['warning agent-silent']);
    expect(judged([agent({ connected: false }), target()]).own).toEqual(['warning agent-disconnected']);
    const { own, site, report } = judged([agent(), { ...target(), receivedMs: silent }]);
    expect([own, site]).toEqual([['warning target-silent'], ['warning silent']]);
    expect(report.roles.map(({ silent: is }) => is)).toEqual([false, true]);
  });

  it('puts problems where they belong: retryable ones warn, others are critical', () => {
    const problem = { code: 'full', message: 'no space', remedy: 'make space', retryable: true };
    const of = (more: object) =>
      judged([agent(), stored('t1', { ...targetReport(nowMs, 'm1', [1]), problems: [{ ...problem, ...more }] })]);
    expect(of({}).site).toEqual(['warning full']);
    expect(of({ machine: 'm1' }).own).toEqual(['warning full']);
    expect(of({ machine: 'm1', disk: 'root', retryable: false }).disk).toEqual(['critical full']);
    expect(of({ machine: 'm1', disk: 'root', retryable: false }).report.health).toBe('critical');
    const lying = agent({ problems: [{ ...problem, machine: 'm2' }] });
    expect(judged([lying, target()]).own).toEqual(['warning full']);
  });

  it('reports damage as critical, unproven points after a while, and a disk that is not captured', () => {
    expect(judged([agent(), target(nowMs, { damagedBlocks: 3 })]).own).toEqual(['critical damaged']);
    const grace = limits.control.proofGraceMs;
    const mark = { point: 2, cutTimeMs: nowMs };
    const disk = { name: 'root', size: 1024, committed: mark };
    const proven = (agoMs: number) =>
      target(nowMs, { disks: [{ ...disk, proven: { point: 1, cutTimeMs: nowMs - agoMs } }] });
    expect(judged([agent(), proven(grace)]).disk).toEqual([]);
    expect(judged([agent(), proven(grace + 1)]).disk).toEqual(['warning unproven']);
    expect(judged([agent({ disks: [] }), target()]).disk).toEqual(['warning disk-not-captured']);
  });

  it('nags until a recovery file was written', () => {
    const nagging = stored('t1', { ...targetReport(nowMs, 'm1', [1]), recoveryFileWritten: false });
    expect(judged([agent(), nagging]).site).toEqual(['warning no-recovery-file']);
    expect(judged([agent(), nagging]).report.reasons[0]?.remedy).toContain('key export');
  });
});

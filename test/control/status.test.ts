import { describe, expect, it } from 'vitest';
import { storedReport, type StoredReport } from '../../src/control/report-schemas.ts';
import { policySchema, type StoredResync } from '../../src/control/schemas.ts';
import { judge } from '../../src/control/status.ts';
import { limits } from '../../src/limits.ts';
import { agentReport, targetReport } from './fixture.ts';

const nowMs = 1_000_000_000;
const policy = policySchema.parse({ intervalSeconds: 30 });

function stored(name: string, report: object, receivedMs = nowMs): StoredReport {
  return storedReport.parse({ name, receivedMs, report });
}

function judged(reports: readonly StoredReport[], disks = ['root'], asked?: StoredResync) {
  const machines = [
    {
      name: 'm1',
      policy: 'default',
      paused: false,
      throttle: null,
      priority: null,
      definition: null,
      disks: disks.map((name) => ({ name })),
    },
  ];
  const resyncs = new Map(asked ? [['m1', asked]] : []);
  const report = judge({ nowMs, machines, policies: new Map([['default', policy]]), reports, resyncs });
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
    const { rpoGraceMs, rpoWarningIntervals, rpoDefaultIntervals } = limits.control;
    const aged = (ms: number) => judged([agent(), target(nowMs - ms)]);
    const at = (intervals: number) => aged(rpoGraceMs + intervals * 30_000 + 1);
    expect(at(rpoWarningIntervals - 1).disk).toEqual([]);
    expect(at(rpoWarningIntervals).disk).toEqual(['warning behind']);
    const targetMs = rpoDefaultIntervals * 30_000;
    expect(aged(targetMs).disk).toEqual(['warning behind']);
    expect(aged(targetMs + 1).disk).toEqual(['critical rpo-breached']);
    expect(aged(targetMs + 1).report.health).toBe('critical');
  });

  it('says when a role fell silent, and when an agent has nobody to send to', () => {
    const silent = nowMs - limits.control.reportSilentMs - 1;
    expect(judged([agent({}, silent), target()]).own).toEqual(['warning agent-silent']);
    expect(judged([agent({ connected: false }), target()]).own).toEqual(['warning agent-disconnected']);
    // Of its own words the cause is to be had.
    const problem = { code: 'connecting', message: 'full: no space left', remedy: 'make room', retryable: true };
    const told = judged([agent({ connected: false, problems: [problem] }), target()]);
    expect(told.own).toEqual(['warning connecting']);
    const { own, site, report } = judged([agent(), { ...target(), receivedMs: silent }]);
    expect([own, site]).toEqual([['warning target-silent'], ['warning silent']]);
    expect(report.roles.map(({ silent: is }) => is)).toEqual([false, true]);
  });

  it('says of the site what a target says of a machine that is not protected any more', () => {
    const problem = { code: 'in-use', message: 'm9 is started', retryable: true, machine: 'm9' };
    const { site, own } = judged([agent(), stored('t1', { ...targetReport(nowMs, 'm1', [1]), problems: [problem] })]);
    expect([site, own]).toEqual([['warning in-use'], []]);
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

  describe('of a resync', () => {
    const disk = { name: 'root', size: 1000, lagBytes: 7, phase: 'cycling', consistency: 'crash' };
    const running = { reason: 'log lost', phase: 'hashing', doneBytes: 505, totalBytes: 1000, opensAtMs: null };
    const of = (resync: object | null, asked?: StoredResync) =>
      judged([agent({ disks: [{ ...disk, resync }] }), target()], ['root'], asked);

    it('warns while it runs, with its reason and how far it is', () => {
      const { report, machine, disk: codes } = of(running);
      expect([report.health, codes]).toEqual(['warning', ['warning resync']]);
      expect(machine?.disks[0]?.resync).toEqual({ ...running, timeZone: null, percent: 50 });
      expect(machine?.disks[0]?.reasons[0]?.message).toBe(
        'every block of disk root is compared (log lost): hashing, 50 %',
      );
      expect(of(null).report.health).toBe('ok');
    });

    it('warns while it waits for its window, and says until when on the clock of that window', () => {
      const opensAtMs = Date.parse('2026-03-29T20:00:00Z');
      const waiting = { ...running, phase: 'waiting', doneBytes: 0, opensAtMs };
      const message = (timeZone: string | null) => of({ ...waiting, timeZone }).machine?.disks[0]?.reasons[0]?.message;
      expect(message('Europe/Berlin')).toContain('waits until 2026-03-29 22:00 Europe/Berlin');
      expect(message('Moon/Tycho')).toContain('waits until 2026-03-29 20:00 UTC');
      const { disk: codes, machine } = of({ ...waiting, timeZone: 'UTC' });
      expect(codes).toEqual(['warning resync-waiting']);
      expect(machine?.disks[0]?.reasons[0]?.remedy).toContain('--now');
    });

    it('warns from the moment it was asked for until the agent has begun', () => {
      const asked = { askedMs: nowMs, disks: [{ name: 'root', now: true }] };
      const { report, machine, disk: codes } = of(null, asked);
      expect([report.health, codes]).toEqual(['warning', ['warning resync-asked']]);
      expect(machine?.disks[0]?.resync).toMatchObject({ phase: 'asked', percent: 0, totalBytes: 1000 });
      expect(of(running, asked).disk).toEqual(['warning resync']);
      expect(of(null, { ...asked, disks: [{ name: 'data', now: true }] }).disk).toEqual([]);
    });
  });

  it('says what the points of a machine can claim, as far as its agent said', () => {
    const of = (...claims: (string | undefined)[]) => {
      const disks = claims.map((consistency, index) => ({
        ...{ name: `d${index}`, size: 1, lagBytes: 0, phase: 'idle' },
        ...(consistency === undefined ? {} : { consistency }),
      }));
      return judged([agent({ disks }), target()]).machine?.consistency;
    };
    expect([of('crash', 'crash'), of('crash', 'none'), of('crash', undefined), of()]).toEqual([
      'crash',
      'none',
      null,
      null,
    ]);
    const gap = { points: 2, reason: 'drain' };
    expect(judged([agent({ gaps: [gap] }), target()]).machine?.gaps).toEqual([gap]);
  });

  it('nags until a recovery file was written', () => {
    const nagging = stored('t1', { ...targetReport(nowMs, 'm1', [1]), recoveryFileWritten: false });
    expect(judged([agent(), nagging]).site).toEqual(['warning no-recovery-file']);
    expect(judged([agent(), nagging]).report.reasons[0]?.remedy).toContain('key export');
  });
});

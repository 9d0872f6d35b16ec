/** What the status explains beyond health: RPO kept apart, what binds, what is to be expected, what is scheduled, and who said it when. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { storedReport, type StoredReport } from '../../src/control/report-schemas.ts';
import { machineSchema, policySchema } from '../../src/control/schemas.ts';
import { judge } from '../../src/control/status.ts';
import { limits } from '../../src/limits.ts';
import { agentReport, Site, targetReport } from './fixture.ts';

const nowMs = 1_000_000_000;
const { reportSilentMs, forecastRaiseMs, fullForecastMs } = limits.control;
const stored = (name: string, report: object, receivedMs = nowMs, foreseen: StoredReport['foreseen'] = null) =>
  storedReport.parse({ name, receivedMs, report, foreseen });
/** Behind by what takes 100 s to drain. */
const slow = {
  cycle: { cutMs: nowMs - 30_000, sentMs: nowMs - 29_900, durableMs: nowMs - 20_200, committedMs: nowMs - 20_000 },
  churn: { minute: 4.75e6 },
  drain: { minute: 2.5e6 },
  pointsInFlight: 2,
};
const agent = (
  flow: object | null,
  name = 'm1',
  receivedMs = nowMs,
  more: object = {},
  foreseen?: StoredReport['foreseen'],
) => stored(name, { ...agentReport(nowMs, 250e6), flow, ...more }, receivedMs, foreseen);
const target = (machines: Readonly<Record<string, number>>, more: object = {}) => {
  const reports = Object.entries(machines).map(([name, ageMs]) => targetReport(nowMs - ageMs, name, [1]));
  return stored('t1', { ...reports[0], machines: reports.flatMap(({ machines: held }) => held), ...more });
};
const processServer = (more: object = {}, receivedMs = nowMs) =>
  stored(
    'ps1',
    { role: 'process-server', atMs: nowMs, version: 'test', sessions: 1, inFlightBytes: 0, ...more },
    receivedMs,
  );

function judged(
  reports: readonly StoredReport[],
  policy: object = { intervalSeconds: 10, rpoTargetSeconds: 900 },
  names = ['m1'],
) {
  const machine = machineSchema.parse({ disks: [{ name: 'root' }] });
  const report = judge({
    nowMs,
    machines: names.map((name) => ({ name, ...machine })),
    policies: new Map([['default', policySchema.parse(policy)]]),
    reports,
    resyncs: new Map(),
  });
  return { report, machine: report.machines[0], codes: report.machines[0]?.reasons.map(({ code }) => code) };
}

describe('an explained status', () => {
  it('keeps RPO target, interval and actual apart, of disk, machine and site', () => {
    const apart = { rpoTargetSeconds: 900, rpoIntervalSeconds: 10, rpoActualSeconds: 30 };
    const { report, machine } = judged([agent(slow), target({ m1: 30_000 })]);
    for (const of of [report, machine, machine?.disks[0]]) expect(of).toMatchObject({ ...apart, lagBytes: 250e6 });
    // Nobody set one: a multiple of the interval, and not less than a minute.
    expect(judged([], { intervalSeconds: 10 }).machine?.rpoTargetSeconds).toBe(120);
    expect(judged([], { intervalSeconds: 1 }).machine?.rpoTargetSeconds).toBe(60);
    expect(judged([], { intervalSeconds: 10 }).machine?.rpoActualSeconds).toBeNull();
  });

  it('names the stage and the forecast, of disk, machine and site, and nothing while nobody says enough', () => {
    const { report, machine } = judged([agent(slow), target({ m1: 30_000 }), processServer()]);
    for (const of of [report, machine, machine?.disks[0]]) {
      expect(of?.stage?.name).toBe('target');
      expect(of?.forecast).toMatchObject({ needsBytesPerSecond: 4.75e6, hasBytesPerSecond: 2.5e6 });
    }
    expect(machine).toMatchObject({ pointsInFlight: 2, flow: { churn: 4.75e6, drain: 2.5e6 } });
    const nothing = judged([agent(null), target({ m1: 30_000 })]);
    for (const of of [nothing.report, nothing.machine]) expect(of).toMatchObject({ stage: null, forecast: null });
    expect(nothing.machine).toMatchObject({ pointsInFlight: null, flow: { churn: null, drain: null }, spooled: null });
  });

  it('says with a breach what binds and what to do about that', () => {
    const { machine } = judged([agent(slow), target({ m1: 1_000_000 })]);
    const [breach] = machine?.disks[0]?.reasons ?? [];
    expect(breach).toMatchObject({ code: 'rpo-breached', severity: 'critical' });
    expect(breach?.message).toBe(
      'the newest committed point is 17 min old, the RPO target is 15 min; what binds: target (the newest point took 9.7 s of 10 s from sent to durable)',
    );
    expect(breach?.remedy).toContain('whether its disk keeps up');
  });

  it('warns of a breach that was foreseen for a while', () => {
    const since = { firstMs: nowMs - forecastRaiseMs, lastMs: nowMs };
    const of = (foreseen: StoredReport['foreseen'], ageMs: number, flow: object | null = slow) =>
      judged([agent(flow, 'm1', nowMs, {}, foreseen), target({ m1: ageMs })]);
    expect(of(null, 30_000).codes).toEqual([]);
    const { machine, codes } = of(since, 30_000);
    expect(codes).toEqual(['breach-foreseen']);
    expect(machine?.reasons[0]?.message).toBe(
      'at this churn and drain rate the RPO target of 15 min is breached in 29 min; needs 38 Mb/s, has 20 Mb/s',
    );
    expect(machine?.reasons[0]?.remedy).toContain('what binds: target');
    expect(of(since, 30_000, null).machine?.reasons[0]?.message).toContain('a moment ago');
    // Then it is a breach.
    expect(of(since, 1_000_000).codes).toEqual([]);
  });

  it('uses no words of who fell silent for what happens now, and says how old what it shows is', () => {
    const silentMs = nowMs - reportSilentMs - 1;
    const flow = { ...slow, nextCutMs: nowMs + 5000 };
    const heard = judged([agent(flow), target({ m1: 30_000 })]);
    expect(heard.machine?.next).toEqual([{ what: 'cut', atMs: nowMs + 5000, disk: null }]);
    const { machine } = judged([agent(flow, 'm1', silentMs), target({ m1: 30_000 })]);
    expect(machine).toMatchObject({
      stage: null,
      forecast: null,
      next: [],
      heardMs: { agent: silentMs, target: nowMs },
    });
    expect(machine?.reasons[0]?.message).toBe(
      'the agent of m1 does not report any more; what it said last is 60 s old and may no longer be true',
    );
    // Silent and without new points: then it is the agent.
    expect(judged([agent(flow, 'm1', silentMs), target({ m1: 100_000 })]).machine?.stage?.name).toBe('agent');
    const away = { target: { reachable: false, sinceMs: 1 } };
    const machines = [{ machine: 'm1', ...away }];
    expect(judged([agent(slow), target({ m1: 30_000 }), processServer({ machines })]).machine).toMatchObject({
      stage: { name: 'target' },
      forecast: { breachInSeconds: 870, hasBytesPerSecond: 0 },
    });
    const cut = agent(null, 'm1', nowMs, { connected: false });
    expect(judged([cut, target({ m1: 0 }), processServer(away)]).machine?.stage?.name).toBe('target');
    expect(judged([cut, target({ m1: 0 }), processServer(away, silentMs)]).machine?.stage?.name).toBe('process-server');
  });

  it('says what is scheduled, soonest first, of the machine and of the site', () => {
    const disks = [
      {
        ...agentReport(0).disks[0],
        resync: { reason: 'lost', phase: 'waiting', doneBytes: 0, totalBytes: 1, opensAtMs: nowMs + 3 },
      },
    ];
    const flow = { nextCutMs: nowMs + 5, nextAppPointMs: nowMs + 4, retry: { atMs: nowMs + 2, class: 'quick' } };
    const held = targetReport(nowMs, 'm1', [1], { flow: { nextScrubMs: nowMs + 1 } });
    const { machine, report } = judged([agent(flow, 'm1', nowMs, { disks }), stored('t1', held)]);
    expect(machine?.next.map(({ what }) => what)).toEqual(['scrub', 'retry', 'resync-window', 'app-point', 'cut']);
    expect(machine?.next[2]?.disk).toBe('root');
    expect(report.next).toEqual({ what: 'scrub', atMs: nowMs + 1, disk: null, machine: 'm1' });
    // What is due is under way.
    expect(judged([agent({ nextCutMs: nowMs })]).machine?.next).toEqual([]);
  });

  it('shows of the site the machine nearest to its target, and the oldest times and the sums of all', () => {
    const { report } = judged([agent(slow), agent(slow, 'm2'), target({ m1: 30_000, m2: 60_000 })], undefined, [
      'm1',
      'm2',
    ]);
    expect(report).toMatchObject({
      worst: 'm2',
      rpoActualSeconds: 60,
      newestCommittedMs: nowMs - 60_000,
      newestProvenMs: nowMs - 60_000,
      lagBytes: 500e6,
    });
    const one = judged([agent(slow), target({ m1: 30_000 })], undefined, ['m1', 'm2']).report;
    expect(one).toMatchObject({ worst: 'm1', newestCommittedMs: null, lagBytes: null });
    const none = judged([], undefined, []).report;
    expect(none).toMatchObject({
      worst: null,
      newestCommittedMs: null,
      rpoActualSeconds: null,
      next: null,
      stage: null,
    });
  });

  it.each([
    ['ok', []],
    ['warning-30', ['warning spool-low']],
    ['warning-25', ['warning spool-low']],
    ['throttling', ['warning spool-throttling']],
    ['full', ['critical spool-full']],
  ])('warns of a spool whose level is %s', (level, expected) => {
    const spool = { level, usedBytes: 80, limitBytes: 100 };
    const session = { machine: 'm1', spool: { bytes: 80, points: 3, oldestMs: 5 } };
    const { report, machine } = judged([processServer({ spool, machines: [session] }), target({ m1: 0 })]);
    expect(report.reasons.map(({ severity, code }) => `${severity} ${code}`)).toEqual(expected);
    expect(report.spools).toEqual([{ ...spool, processServer: 'ps1' }]);
    expect(machine?.spooled).toEqual(session.spool);
  });

  it('warns of a target that fills up, of an overdue check, and names the proof where only that lags', () => {
    const full = (fullAtMs: number) =>
      judged([target({ m1: 0 }, { flow: { fullAtMs } })]).report.reasons.map(({ code }) => code);
    expect(full(nowMs + fullForecastMs)).toEqual([]);
    expect(full(nowMs + fullForecastMs - 1)).toEqual(['target-filling']);
    const held = (flow: object) => judged([agent(null), stored('t1', targetReport(nowMs, 'm1', [1], { flow }))]);
    expect(held({ unprovenPoints: 3 }).machine?.unprovenPoints).toBe(3);
    expect(held({ scrubOverdueMs: nowMs + 1 }).codes).toEqual([]);
    expect(held({ scrubOverdueMs: nowMs }).codes).toEqual(['scrub-overdue']);
    const { proofGraceMs } = limits.control;
    expect(held({ oldestUnprovenMs: nowMs - proofGraceMs }).machine?.stage).toBeNull();
    expect(held({ oldestUnprovenMs: nowMs - proofGraceMs - 1 }).machine?.stage?.name).toBe('proof');
  });
});

describe('at the control API', () => {
  let site: Site;
  beforeEach(async () => {
    site = await Site.start();
  });
  afterEach(async () => {
    await site.end();
  });

  it('warns of a breach once the agent reported it for a while, also after control was started again', async () => {
    const operator = await site.operator();
    await operator.call('putPolicy', { name: 'p', body: { intervalSeconds: 10, rpoTargetSeconds: 900 } });
    await operator.call('putMachine', { name: 'm1', body: { disks: [{ name: 'root' }], policy: 'p' } });
    const { client, credentials } = await site.role('agent', 'm1');
    const { credentials: ofTarget } = await site.role('target', 't1');
    const report = (by = client) => {
      const at = site.clock.wallMs();
      const cycle = { cutMs: at - 30_000, committedMs: at - 20_000 };
      return by.call('report', { body: { ...agentReport(at, 250e6), flow: { ...slow, cycle } } });
    };
    const codes = async (by = operator): Promise<string[] | undefined> => {
      const at = site.clock.wallMs();
      await site
        .client({ kind: 'role', credentials: ofTarget })
        .call('report', { body: targetReport(at - 30_000, 'm1', [1]) });
      return (await by.call('getStatus')).value.machines[0]?.reasons.map(({ code }) => code);
    };
    await report();
    expect(await codes()).toEqual([]);
    site.aheadMs = forecastRaiseMs;
    await report();
    expect(await codes()).toEqual(['breach-foreseen']);
    await site.restart();
    await report(site.client({ kind: 'role', credentials }));
    expect(await codes(await site.operator())).toEqual(['breach-foreseen']);
  });
});

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { agentFlow } from '../../src/control/flow-schemas.ts';
import { preflight } from '../../src/control/preflight.ts';
import { policySchema } from '../../src/control/schemas.ts';
import { agentReport, Site } from './fixture.ts';

const policy = policySchema.parse({ intervalSeconds: 10, rpoTargetSeconds: 60 });
const cycle = (seconds: number) => ({ cutMs: 1000, committedMs: 1000 + seconds * 1000 });
const flow = (of: object) => agentFlow.parse(of);
const said = (of: object, by = policy) => preflight(by, new Map([['m1', flow(of)]])).map(({ code }) => code);

describe('preflight', () => {
  it('warns of a measured transfer longer than half of the RPO target, and of nothing that was not measured', () => {
    expect(said({ cycle: cycle(30) })).toEqual([]);
    expect(said({ cycle: cycle(31) })).toEqual(['transfer-long']);
    expect(said({ cycle: { cutMs: 1000, sentMs: 90_000 } })).toEqual([]);
    expect(said({})).toEqual([]);
    expect(preflight(policy, new Map())).toEqual([]);
  });

  it('warns where what changes in an interval takes that long at the measured rate', () => {
    const rates = (churn: number, drain: number) => ({ churn: { quarterHour: churn }, drain: { quarterHour: drain } });
    expect(said({ cycle: cycle(1), ...rates(30, 10) })).toEqual([]);
    expect(said({ cycle: cycle(1), ...rates(31, 10) })).toEqual(['transfer-long']);
    expect(said({ ...rates(31, 10) })).toEqual(['transfer-long']);
    expect(said({ ...rates(31, 0) })).toEqual([]);
    expect(said({ churn: { quarterHour: 31 } })).toEqual([]);
    const [warning] = preflight(policy, new Map([['m1', flow(rates(40, 10))]]));
    expect(warning?.message).toBe('m1: a transfer takes 40 s as measured, more than half of the RPO target of 60 s');
  });

  it('warns of a target with no room between two points', () => {
    const of = (rpoTargetSeconds: number | null) =>
      said({}, policySchema.parse({ intervalSeconds: 10, rpoTargetSeconds }));
    expect(of(19)).toEqual(['target-tight']);
    expect(of(20)).toEqual([]);
    expect(of(null)).toEqual([]);
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

  it('warns when a policy is set and when a machine is protected, and does both all the same', async () => {
    const operator = await site.operator();
    const body = { disks: [{ name: 'root' }] };
    expect((await operator.call('putMachine', { name: 'm1', body })).value.warnings).toBeUndefined();
    const { client } = await site.role('agent', 'm1');
    const slow = flow({ cycle: cycle(40) });
    await client.call('report', { body: { ...agentReport(5), flow: slow } });
    const codes = (reply: { value: { warnings?: { code: string }[] | undefined } }) =>
      reply.value.warnings?.map(({ code }) => code);
    const set = async (intervalSeconds: number, rpoTargetSeconds: number) => {
      const { version = 0 } = await operator.call('getPolicy', { name: 'default' });
      return operator.call('putPolicy', {
        name: 'default',
        body: { intervalSeconds, rpoTargetSeconds },
        ifMatch: version,
      });
    };
    const move = async () => {
      const { version = 0 } = await operator.call('getMachine', { name: 'm1' });
      return operator.call('putMachine', { name: 'm1', body: { ...body, policy: 'near' }, ifMatch: version });
    };
    expect(codes(await set(5, 79))).toEqual(['transfer-long']);
    expect((await operator.call('getPolicy', { name: 'default' })).value.rpoTargetSeconds).toBe(79);
    expect(codes(await set(5, 80))).toBeUndefined();
    await operator.call('putPolicy', { name: 'near', body: { intervalSeconds: 5, rpoTargetSeconds: 60 } });
    expect(codes(await move())).toEqual(['transfer-long']);
    // What an agent that fell silent measured is no measure of now.
    site.aheadMs = 120_000;
    expect(codes(await move())).toBeUndefined();
  });

  it('refuses a target below the interval, with what to do', async () => {
    const operator = await site.operator();
    const body = { intervalSeconds: 30, rpoTargetSeconds: 29 };
    await expect(operator.call('putPolicy', { name: 'p', body })).rejects.toMatchObject({
      message: expect.stringMatching(/rpoTargetSeconds.*less than intervalSeconds.*raise it/) as unknown,
    });
    await operator.call('putPolicy', { name: 'p', body: { ...body, rpoTargetSeconds: 30 } });
  });
});

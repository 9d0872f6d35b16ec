/** Resync on request, over a whole control plane: asked for by an operator, delivered until the agent says that it is done. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { ControlClient } from '../../src/control/client.ts';
import { limits } from '../../src/limits.ts';
import { agentReport, Site } from './fixture.ts';

let site: Site;
let operator: ControlClient;
let agent: ControlClient;
beforeEach(async () => {
  site = await Site.start();
  operator = await site.operator();
  await operator.call('putMachine', { name: 'm1', body: { disks: [{ name: 'root' }, { name: 'data' }] } });
  agent = (await site.role('agent', 'm1')).client;
});
afterEach(async () => {
  await site.end();
});

const ask = async (body: { disks?: string[]; now?: boolean } = {}, idempotencyKey?: string) =>
  (await operator.call('requestResync', { name: 'm1', body, ...(idempotencyKey ? { idempotencyKey } : {}) })).value;
/** What the agent is told when it reports. */
const told = async (resyncDone: number | null = null) =>
  (await agent.call('report', { body: { ...agentReport(site.clock.wallMs()), resyncDone } })).value.resync;

it('comes with every answer to the agent until that says it is done', async () => {
  expect(await told()).toBeNull();
  const { id, disks } = await ask({ disks: ['data'] });
  expect(disks).toEqual([{ name: 'data', now: false }]);
  for (let times = 0; times < 3; times += 1) expect(await told()).toEqual({ id, disks });
  expect(await told(id)).toBeNull();
  expect(await told()).toBeNull();
});

it('is not lost when control or agent start anew', async () => {
  const { id } = await ask();
  await site.restart();
  agent = (await site.role('agent', 'm1')).client;
  expect((await told())?.id).toBe(id);
  expect((await told(id - 1))?.id).toBe(id);
  expect(await told(id)).toBeNull();
});

it('makes one of requests that are not done, and never takes an old "done" for the new one', async () => {
  const first = await ask({ disks: ['root'], now: true });
  const second = await ask({ disks: ['data'] });
  expect(second.disks).toEqual([
    { name: 'root', now: true },
    { name: 'data', now: false },
  ]);
  expect(await told(first.id)).toEqual({ id: second.id, disks: second.disks });
  const third = await ask({ now: true });
  expect(third.disks).toEqual([
    { name: 'root', now: true },
    { name: 'data', now: true },
  ]);
  expect(new Set([first.id, second.id, third.id]).size).toBe(3);
});

it('is asked for once by one Idempotency-Key, for one machine', async () => {
  const { id } = await ask({}, 'k1');
  expect((await ask({}, 'k1')).id).toBe(id);
  await operator.call('putMachine', { name: 'm2', body: { disks: [{ name: 'root' }] } });
  const other = operator.call('requestResync', { name: 'm2', body: {}, idempotencyKey: 'k1' });
  await expect(other).rejects.toMatchObject({ code: 'idempotency-mismatch' });
});

it('says whether the agent hears of it', async () => {
  expect((await ask()).agent).toBe('never-seen');
  await told();
  expect((await ask()).agent).toBe('connected');
  await agent.call('report', { body: { ...agentReport(1), connected: false } });
  expect((await ask()).agent).toBe('disconnected');
  site.aheadMs = limits.control.reportSilentMs + 1;
  expect((await ask()).agent).toBe('silent');
});

it('says when the window of the policy opens, if it is closed', async () => {
  expect(await ask()).toMatchObject({ window: null, opensAtMs: null });
  const { version = 0 } = await operator.call('getPolicy', { name: 'default' });
  const body = { resyncWindow: '22:00–06:00', resyncTimeZone: 'Europe/Berlin' };
  await operator.call('putPolicy', { name: 'default', body, ifMatch: version });
  const at = async (iso: string) => {
    site.aheadMs = Date.parse(iso) - Date.now();
    return await ask();
  };
  const told = { window: '22:00-06:00', timeZone: 'Europe/Berlin' };
  // Within the certificates' validity, whatever the day of the test.
  const year = new Date().getUTCFullYear();
  expect(await at(`${year}-12-31T12:00:00Z`)).toMatchObject({ ...told, opensAtMs: Date.UTC(year, 11, 31, 21) });
  expect(await at(`${year}-12-31T22:30:00Z`)).toMatchObject({ ...told, opensAtMs: null });
});

it('names an unknown machine or disk with the nearest, and goes with its machine', async () => {
  const refused = operator.call('requestResync', { name: 'm2', body: {} });
  await expect(refused).rejects.toMatchObject({
    code: 'not-found',
    message: 'machine m2 does not exist',
    remedy: expect.stringContaining('did you mean m1?') as unknown,
  });
  await expect(ask({ disks: ['dato'] })).rejects.toMatchObject({
    code: 'not-found',
    message: 'disk of m1: dato does not exist',
    remedy: expect.stringContaining('did you mean data?') as unknown,
  });
  await ask();
  const { version = 0 } = await operator.call('getMachine', { name: 'm1' });
  await operator.call('deleteMachine', { name: 'm1', ifMatch: version });
  expect(await told()).toBeNull();
});

it('shows in the status from the moment it was asked for', async () => {
  await told();
  const disksOf = async () => (await operator.call('getStatus')).value.machines[0]?.disks.map(({ resync }) => resync);
  expect(await disksOf()).toEqual([null, null]);
  const { id } = await ask({ disks: ['root'] });
  expect(await disksOf()).toEqual([expect.objectContaining({ phase: 'asked' }), null]);
  await told(id);
  expect(await disksOf()).toEqual([null, null]);
});

/** Pausing a machine, and disabling its protection with or without its replica: what agents and targets are told. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Site, targetReport } from './fixture.ts';

const code = (wanted: string): object => expect.objectContaining({ code: wanted }) as object;
const machine = { disks: [{ name: 'root' }] };

let site: Site;
beforeEach(async () => {
  site = await Site.start();
  const operator = await site.operator();
  await operator.call('putMachine', { name: 'm1', body: machine });
});
afterEach(() => site.end());

it('tells the agent that the machine is paused, and that it is not any more; status says so', async () => {
  const operator = await site.operator();
  const { client } = await site.role('agent', 'm1');
  const paused = async (): Promise<boolean> => (await client.call('getAgentConfig')).value.paused;
  const reasons = async (): Promise<string[]> =>
    (await operator.call('getStatus')).value.machines.flatMap((one) => one.reasons.map((reason) => reason.code));
  expect([await paused(), (await reasons()).includes('paused')]).toEqual([false, false]);
  const { version = 0 } = await operator.call('getMachine', { name: 'm1' });
  await operator.call('putMachine', { name: 'm1', body: { ...machine, paused: true }, ifMatch: version });
  expect([await paused(), (await reasons()).includes('paused')]).toEqual([true, true]);
});

it('tells a target how long points are kept, and forgets those that were thinned out', async () => {
  const operator = await site.operator();
  const { client } = await site.role('target', 't1');
  const report = async (points: number[], more: Record<string, unknown> = {}) =>
    (await client.call('report', { body: targetReport(Date.now(), 'm1', points, more) })).value.machines;
  expect(await report([1, 2, 3])).toEqual([{ name: 'm1', newestPoint: 3, retention: { hours: 24, thinning: null } }]);
  const { version = 0 } = await operator.call('getPolicy', { name: 'default' });
  const body = { retentionHours: 72, thinAfterHours: 24, thinToMinutes: 30 };
  await operator.call('putPolicy', { name: 'default', body, ifMatch: version });
  const thinning = { afterHours: 24, everyMinutes: 30 };
  expect(await report([], { retired: [2] })).toEqual([
    { name: 'm1', newestPoint: 3, retention: { hours: 72, thinning } },
  ]);
  const listed = (await operator.call('listPoints', { name: 'm1' })).value.points.map(({ point }) => point);
  expect(listed).toEqual([3, 1]);
});

it('lets the agent know that protection was disabled, which is not the same as never heard of', async () => {
  const operator = await site.operator();
  const { client } = await site.role('agent', 'm1');
  const stranger = await site.role('agent', 'm2');
  await operator.call('deleteMachine', { name: 'm1' });
  await expect(client.call('getAgentConfig')).rejects.toEqual(code('unprotected'));
  await expect(stranger.client.call('getAgentConfig')).rejects.toEqual(code('not-found'));
  await operator.call('putMachine', { name: 'm1', body: machine });
  expect((await client.call('getAgentConfig')).value.machine).toBe('m1');
});

it('has the target delete the replica, and protects the machine again only when that is done', async () => {
  const operator = await site.operator();
  const { client } = await site.role('target', 't1');
  const report = async (more: { deleted?: string[] } = {}): Promise<unknown> =>
    (await client.call('report', { body: { ...targetReport(Date.now(), 'm1', [1]), ...more } })).value.unprotected;
  expect(await report()).toEqual([]);
  await operator.call('deleteMachine', { name: 'm1', query: { deleteReplica: 'true' } });
  expect(await report()).toEqual([{ name: 'm1', deleteReplica: true }]);
  await expect(operator.call('putMachine', { name: 'm1', body: machine })).rejects.toThrow(/still to be deleted/);
  expect(await report({ deleted: ['m1'] })).toEqual([{ name: 'm1', deleteReplica: false }]);
  await operator.call('putMachine', { name: 'm1', body: machine });
  expect(await report()).toEqual([]);
});

it('leaves the replica where that was not asked for', async () => {
  const operator = await site.operator();
  const { client } = await site.role('target', 't1');
  await operator.call('deleteMachine', { name: 'm1' });
  const { value } = await client.call('report', { body: targetReport(Date.now(), 'm1', [1]) });
  expect(value.unprotected).toEqual([{ name: 'm1', deleteReplica: false }]);
});

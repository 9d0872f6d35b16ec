/** Limits and priorities from the operator's request to what a process server is told. */
import { dirname } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { ControlClient } from '../../src/control/client.ts';
import { isProblem, type Problem } from '../../src/kit/problem.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { limitProcessServer } from '../../src/main/operator.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { Site } from './fixture.ts';

let site: Site;
let operator: ControlClient;
const disks = [{ name: 'root' }];
const business = 'mon-fri 08:00-18:00 8Mb/s; else unlimited';

beforeAll(async () => {
  site = await Site.start();
  operator = await site.operator();
});
afterAll(() => site.end());

const put = async (name: string, policy: object, machine: object): Promise<void> => {
  await operator.call('putPolicy', { name: `p-${name}`, body: policy });
  await operator.call('putMachine', { name, body: { disks, policy: `p-${name}`, ...machine } });
};

async function refusal(policy: object): Promise<Problem> {
  try {
    await operator.call('putPolicy', { name: 'refused', body: policy });
  } catch (error) {
    if (isProblem(error)) return error;
    throw error;
  }
  throw new Error('it was taken');
}

it('tells process servers of all machines that have a limit or a priority, and nobody else', async () => {
  await put('plain', {}, {});
  await put('limited', { throttle: business, throttleTimeZone: 'Europe/Berlin' }, {});
  await put('own', { throttle: business, priority: 'low' }, { throttle: '4Mb/s', priority: 'high' });
  await put('first', { priority: 'high' }, {});
  const body = { role: 'process-server', atMs: 1, version: 'test', sessions: 0, inFlightBytes: 0 } as const;
  const { client } = await site.role('process-server', 'ps1');
  const utc = { timeZone: 'UTC', ofPolicy: null, own: null };
  const { throttle } = (await client.call('report', { body })).value;
  expect(throttle.sort((a, b) => a.machine.localeCompare(b.machine))).toEqual([
    { ...utc, machine: 'first', policy: 'p-first', priority: 'high' },
    {
      ...utc,
      machine: 'limited',
      policy: 'p-limited',
      ofPolicy: business,
      timeZone: 'Europe/Berlin',
      priority: 'normal',
    },
    { ...utc, machine: 'own', policy: 'p-own', ofPolicy: business, own: '4Mb/s', priority: 'high' },
  ]);
});

it('refuses what is no limit with what to write instead, and keeps what was', async () => {
  expect((await refusal({ throttle: '0Mb/s' })).message).toMatch(
    /throttle.*"0Mb\/s" lets nothing pass.*tidemark pause/,
  );
  expect((await refusal({ throttle: 'mon 08-18 8Mb/s; else unlimited' })).message).toContain('"08:00-18:00"');
  expect((await refusal({ throttle: `${business}; fri 1Mb/s` })).message).toContain('at all other times');
  const contradiction = `fri 1Mb/s; ${business}`;
  expect((await refusal({ throttle: contradiction })).message).toContain('both speak of fri 08:00');
  expect((await refusal({ throttle: '8Mb/s', throttleTimeZone: 'Europe/Berln' })).message).toContain('Europe/Berlin');
  expect((await refusal({ priority: 'hihg' })).message).toContain('priority');
});

it('says of a limit above that of its policy that the lower one counts, from either side', async () => {
  await operator.call('putPolicy', { name: 'tight', body: { throttle: business } });
  const above = await operator.call('putMachine', {
    name: 'above',
    body: { disks, policy: 'tight', throttle: 'tue 09:30-10:00 9Mb/s; else 1Mb/s' },
  });
  expect(above.value.warnings).toMatchObject([{ code: 'limit-above-policy', severity: 'warning' }]);
  expect(above.value.warnings?.[0]?.message).toMatch(
    /above may send more than its policy tight .*tue 09:30.*the lower limit counts/,
  );
  const ifMatch = (await operator.call('getPolicy', { name: 'tight' })).version;
  const wider = await operator.call('putPolicy', {
    name: 'tight',
    body: { throttle: '8Mb/s' },
    ...(ifMatch === undefined ? {} : { ifMatch }),
  });
  expect(wider.value.warnings).toMatchObject([{ code: 'limit-above-policy' }]);
  const below = await operator.call('putMachine', {
    name: 'below',
    body: { disks, policy: 'tight', throttle: '8Mb/s' },
  });
  expect(below.value.warnings).toBeUndefined();
});

it('tells a process server its own limit as it was set last, with the answer to its next report', async () => {
  const { client } = await site.role('process-server', 'ps7');
  const body = { role: 'process-server', atMs: 1, version: 'test', sessions: 0, inFlightBytes: 0 } as const;
  const told = async () => (await client.call('report', { body })).value.ownThrottle;
  const set = (limit: object, ifMatch?: number) =>
    operator.call('putProcessServerLimit', {
      name: 'ps7',
      body: limit,
      ...(ifMatch === undefined ? {} : { ifMatch }),
    });
  expect(await told()).toBeNull();
  const { version } = await set({ throttle: business, throttleTimeZone: 'Europe/Berlin' });
  expect(await told()).toEqual({ throttle: business, timeZone: 'Europe/Berlin' });
  const other = await site.role('process-server', 'ps8');
  expect((await other.client.call('report', { body })).value.ownThrottle).toBeNull();
  await expect(set({ throttle: '8Mb/s' })).rejects.toMatchObject({ code: 'precondition-required' });
  await expect(set({ throttle: '8Mb/s' }, (version ?? 0) + 1)).rejects.toMatchObject({ code: 'version-conflict' });
  const read = await operator.call('getProcessServerLimit', { name: 'ps7' });
  expect(read).toMatchObject({ version, value: { name: 'ps7', throttle: business } });
  await set({ throttle: 'unlimited' }, version);
  expect(await told()).toEqual({ throttle: 'unlimited', timeZone: 'UTC' });
  const held = {
    session: 'a'.repeat(32),
    address: 'ps7:1',
    sessions: 0,
    inFlightBytes: 0,
    windowBytes: 0,
    machines: [],
  };
  await client.call('holdLeases', { body: held });
  const listed = async () => (await operator.call('listProcessServers')).value.processServers[0]?.throttle;
  expect(await listed()).toEqual({ throttle: 'unlimited', timeZone: 'UTC' });
  await set({}, (await operator.call('getProcessServerLimit', { name: 'ps7' })).version);
  expect([await told(), await listed()]).toEqual([null, null]);
});

it('names a process server that is not known, and what is wrong with its limit', async () => {
  const put = (name: string, body: object) => operator.call('putProcessServerLimit', { name, body });
  await expect(put('ps-7', { throttle: '8Mb/s' })).rejects.toMatchObject({
    code: 'not-found',
    remedy: expect.stringContaining('did you mean ps7?') as string,
  });
  for (const [limit, why] of [
    [{ throttle: '0Mb/s' }, 'lets nothing pass'],
    [{ throttle: `fri 1Mb/s; ${business}` }, 'both speak of fri 08:00'],
    [{ throttle: '8Mb/s', throttleTimeZone: 'Europe/Berln' }, 'Europe/Berlin'],
  ] as const)
    await expect(put('ps8', limit)).rejects.toMatchObject({
      code: 'bad-argument',
      message: expect.stringContaining(why) as string,
    });
  const { client } = await site.role('process-server', 'ps8');
  await expect(client.call('putProcessServerLimit', { name: 'ps8', body: {} })).rejects.toMatchObject({
    code: 'not-authorised',
  });
});

it('is set, changed and taken back by the command, which leaves what it does not name', async () => {
  const { client } = await site.role('process-server', 'ps9');
  const body = { role: 'process-server', atMs: 1, version: 'test', sessions: 0, inFlightBytes: 0 } as const;
  const told = async () => (await client.call('report', { body })).value.ownThrottle;
  await told();
  const logger = createLogger({ level: 'silent', clock: systemClock });
  const world = {
    files: posixFiles,
    clock: systemClock,
    random: systemRandom,
    version: 'test',
    loggerOf: () => logger,
  };
  const place = { controlUrl: site.control.url, credentials: dirname(site.control.tokenFile) };
  const set = (throttle: string | null | undefined, throttleTimeZone?: string) =>
    limitProcessServer(world, { ...place, processServer: 'ps9', throttle, throttleTimeZone });
  await set(business, 'Asia/Kolkata');
  expect(await told()).toEqual({ throttle: business, timeZone: 'Asia/Kolkata' });
  await set('4Mb/s');
  expect(await told()).toEqual({ throttle: '4Mb/s', timeZone: 'Asia/Kolkata' });
  await set(undefined, 'UTC');
  expect(await told()).toEqual({ throttle: '4Mb/s', timeZone: 'UTC' });
  await set(null);
  expect(await told()).toBeNull();
});

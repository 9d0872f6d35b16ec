import { expect, it } from 'vitest';
import { processServerConfig } from '../../src/config.ts';
import { exitCodes } from '../../src/fatal.ts';
import { commandLine } from './fake-roles.ts';

const business = 'mon-fri 08:00-18:00 8Mb/s; else unlimited';

it('protect passes on limits and priorities, of the policy and of the machine', async () => {
  const said: unknown[] = [];
  const line = commandLine({
    roles: {
      protect: async ({ machine, disks, policy, change, own }) => (
        said.push({ change, own }),
        { machine, disks, policy, warnings: [] }
      ),
    },
  });
  const protect = (...flags: string[]) => line.run('protect', 'web1', '--disk', 'vda', ...flags);
  expect(await protect('--throttle', business, '--throttle-time-zone', 'Asia/Kolkata', '--priority', 'high')).toBe(0);
  expect(await protect('--throttle', 'none', '--machine-throttle', '4Mb/s', '--machine-priority', 'low')).toBe(0);
  expect(await protect('--machine-throttle', 'none', '--machine-priority', 'none')).toBe(0);
  const untold = { throttle: undefined, priority: undefined };
  expect(said).toMatchObject([
    { change: { throttle: business, throttleTimeZone: 'Asia/Kolkata', priority: 'high' }, own: untold },
    { change: { throttle: null, throttleTimeZone: undefined }, own: { throttle: '4Mb/s', priority: 'low' } },
    { change: untold, own: { throttle: null, priority: null } },
  ]);
});

it.each([
  [['--throttle', '0Mb/s'], 'tidemark pause'],
  [['--throttle', '8'], 'b for bits and B for bytes'],
  [['--machine-throttle', 'mon-fri 8-18 8Mb/s; else unlimited'], 'did you mean "08:00-18:00"?'],
  [['--throttle', 'mon 8Mb/s; weekdays 4Mb/s; else unlimited'], 'contradict: both speak of mon 00:00'],
  [['--throttle-time-zone', 'UCT1'], '"UCT1" is not a time zone'],
  [['--priority', 'urgent'], 'Allowed choices are high, normal, low'],
])('protect refuses %j', async (flags, why) => {
  const line = commandLine();
  expect(await line.run('protect', 'web1', '--disk', 'vda', ...flags)).toBe(exitCodes.usage.code);
  expect(line.stderr()).toContain(why);
});

it('process-servers limits one of them, and lists what holds', async () => {
  const said: unknown[] = [];
  const flow = { sessions: 1, inFlightBytes: 0, windowBytes: 1024, heardMs: 0, machines: [] };
  const load = { ...flow, processes: 1, busyProcesses: 0, state: 'ok' } as const;
  const limit = { throttle: business, timeZone: 'Asia/Kolkata' };
  const processServers = [
    { ...load, name: 'ps1', address: 'ps1:9443', throttle: limit },
    { ...load, name: 'ps2', address: 'ps2:9443', throttle: null },
  ];
  const line = commandLine({
    roles: {
      limitProcessServer: async ({ processServer, throttle, throttleTimeZone }) =>
        void said.push([processServer, throttle, throttleTimeZone]),
      processServers: async () => ({ processServers }),
    },
  });
  const run = (...words: string[]) => line.run('process-servers', ...words);
  expect(await run('ps1', '--throttle', business, '--throttle-time-zone', 'Asia/Kolkata')).toBe(0);
  expect(line.stdout()).toContain(`  its limit: ${business} (Asia/Kolkata)`);
  expect(line.stdout()).not.toContain('ps2');
  expect(await run('ps1', '--throttle', 'none')).toBe(0);
  expect(await run('ps1', '--throttle', 'unlimited')).toBe(0);
  expect(await run()).toBe(0);
  expect(line.stdout()).toContain('ps2');
  expect(said).toEqual([
    ['ps1', business, 'Asia/Kolkata'],
    ['ps1', null, undefined],
    ['ps1', 'unlimited', undefined],
  ]);
});

it.each([
  [['ps1', '--throttle', '0Mb/s'], 'lets nothing pass'],
  [['ps1', '--throttle', `fri 8Mb/s; ${business}`], 'contradict: both speak of fri 08:00'],
  [['ps1', '--throttle', '8Mb/s', '--throttle-time-zone', 'UCT1'], '"UCT1" is not a time zone'],
  [['--throttle', '8Mb/s'], 'name the process server'],
])('process-servers refuses %j', async (words, why) => {
  const line = commandLine();
  expect(await line.run('process-servers', ...words)).toBe(exitCodes.usage.code);
  expect(line.stderr()).toContain(why);
});

it('a process server has a limit of its own, by file, environment or flag, and is told what is wrong with it', () => {
  const config = (throttle: string) =>
    processServerConfig({
      file: {
        name: 'c.yaml',
        text: `processServer: { target: t, throttle: "${throttle}", throttleTimeZone: Asia/Kolkata }`,
      },
      environment: {},
      flags: {},
    });
  expect(config(business)).toMatchObject({ throttle: business, throttleTimeZone: 'Asia/Kolkata' });
  expect(() => config('0 Mb/s')).toThrow('"0 Mb/s" lets nothing pass');
  expect(() => config(`fri 8Mb/s; ${business}`)).toThrow('contradict: both speak of fri 08:00');
});

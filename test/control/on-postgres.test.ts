/** The whole control plane on PostgreSQL: everything that is tested of it on the embedded state, and what only several APIs can do. */
import { cp, rm } from 'node:fs/promises';
import * as path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { exitCodes } from '../../src/fatal.ts';
import { command } from '../product/command.ts';
import type { Credentials } from '../../src/transport/credentials.ts';
import { agentReport, keepStateIn, Site } from './fixture.ts';
import { Postgres, requirePostgres } from './postgres.ts';

const there = requirePostgres();
let server: Postgres;
const newAddress = async (): Promise<string> => server.address(await server.database());
beforeAll(async () => {
  if (!there) return;
  server = await Postgres.start();
  keepStateIn(newAddress);
});
afterAll(async () => {
  if (there) await server.remove();
});

if (there) {
  await import('./control.test.ts');
  await import('./resync.test.ts');
  await import('./unprotect.test.ts');
}

const machine = { disks: [{ name: 'root' }] };
const remedy = expect.stringMatching(/./) as unknown;

describe.skipIf(!there)('several control APIs on one database', () => {
  it('are one control plane: what one is told, the other knows', async () => {
    const first = await Site.start();
    const second = await Site.start({ postgres: first.postgres ?? '', authorityOf: first.dataDir });
    await (await first.operator()).call('putMachine', { name: 'm1', body: machine });
    // A key made by one is good at the other, once; the certificate is good at both; one token is, too.
    const key = await first.registrationKey('agent', 'm1');
    const credentials = await second.enroll(key, 'agent', 'm1');
    await expect(first.enroll(key, 'agent', 'm1')).rejects.toMatchObject({ code: 'bad-registration-key' });
    const access = { kind: 'role', credentials } as const;
    await second.client(access).call('report', { body: agentReport(Date.now(), 5) });
    expect((await first.client(access).call('getAgentConfig')).value.machine).toBe('m1');
    const { value } = await (await first.operator()).call('getStatus');
    expect(value.machines[0]).toMatchObject({ name: 'm1', lagBytes: 5 });
    // What both change at once, one changes.
    const change = async (site: Site, paused: boolean): Promise<unknown> => {
      const operator = await site.operator();
      const { version } = await operator.call('getMachine', { name: 'm1' });
      const ifMatch = version === undefined ? {} : { ifMatch: version };
      return operator.call('putMachine', { name: 'm1', body: { ...machine, paused }, ...ifMatch }).catch(() => null);
    };
    const changed = await Promise.all([change(first, true), change(second, false)]);
    expect(changed.filter((one) => one !== null).length).toBeGreaterThan(0);
    const machines = await Promise.all(
      [first, second].map(async (site) => (await site.operator()).call('getMachine', { name: 'm1' })),
    );
    expect(machines[0]).toEqual(machines[1]);
    await Promise.all([first.end(), second.end()]);
  });

  it('have one authority: another, or a lost one, is refused before it can shut anyone out', async () => {
    const first = await Site.start();
    const postgres = first.postgres ?? '';
    const fault = { code: 'no-key', remedy: expect.stringContaining('copy the directory authority/') as string };
    await expect(Site.start({ postgres })).rejects.toMatchObject(fault);
    const stranger = await Site.start();
    await expect(Site.start({ postgres, authorityOf: stranger.dataDir })).rejects.toMatchObject({
      ...fault,
      message: expect.stringContaining(first.control.caFingerprint) as string,
    });
    const [here, aside] = ['authority', 'aside'].map((name) => path.join(first.dataDir, name)) as [string, string];
    await cp(here, aside, { recursive: true });
    await rm(here, { recursive: true });
    await expect(first.restart()).rejects.toMatchObject(fault);
    await cp(aside, here, { recursive: true });
    await first.restart();
    await Promise.all([first.end(), stranger.end()]);
  });

  it('judge leases alike, an hour apart by their own clocks, and give one machine to one process server', async () => {
    const first = await Site.start();
    const second = await Site.start({ postgres: first.postgres ?? '', authorityOf: first.dataDir });
    first.aheadMs = 3_600_000;
    const ask = async (site: Site, credentials: Credentials, want: 'take' | 'keep', machines = ['m1']) => {
      const { name } = credentials.identity;
      const about = { session: Buffer.from(name.padEnd(16)).toString('hex'), address: `${name}:9443` };
      const asks = machines.map((one) => ({ machine: one, want, epoch: want === 'keep' ? 1 : 0 }));
      const body = { ...about, sessions: 0, inFlightBytes: 0, windowBytes: 1, machines: asks };
      return (await site.client({ kind: 'role', credentials }).call('holdLeases', { body })).value.machines;
    };
    const [a, b] = [
      (await second.role('process-server', 'a')).credentials,
      (await second.role('process-server', 'b')).credentials,
    ];
    expect(await ask(second, a, 'take')).toMatchObject([{ held: true, epoch: 1 }]);
    expect(await ask(first, b, 'take')).toMatchObject([{ held: false, holder: 'a' }]);
    expect(await ask(first, a, 'keep')).toMatchObject([{ held: true, epoch: 1 }]);
    expect(await ask(second, b, 'take')).toMatchObject([{ held: false, holder: 'a' }]);
    const many = Array.from({ length: 30 }, (_, index) => `n${index}`);
    const both = await Promise.all([ask(first, a, 'take', many), ask(second, b, 'take', many)]);
    for (let index = 0; index < many.length; index += 1)
      expect(both.filter((answers) => answers[index]?.held === true)).toHaveLength(1);
    await Promise.all([first.end(), second.end()]);
  });

  it('do not start on what they can not use: named, with the remedy and an exit code of its own, nothing lost', async () => {
    const site = await Site.start();
    const database = new URL(site.postgres ?? '').pathname.slice(1);
    const start = (state: string) =>
      command([
        'control',
        '--data',
        site.dataDir,
        '--listen',
        '127.0.0.1:0',
        '--metrics',
        '127.0.0.1:0',
        '--state',
        state,
      ]);
    await (await site.operator()).call('putMachine', { name: 'm1', body: machine });
    await site.stop();
    await server.query('update tidemark.store set format = 9', database);
    const version = await start(site.postgres ?? '');
    expect(version.code).toBe(exitCodes['wrong-version'].code);
    expect(version.stderr).toMatch(/is of version 9, not 1.*\n.*use the version of tidemark that made it/);
    await server.query('update tidemark.store set format = 1', database);
    const away = await start('postgres:///tidemark?host=/nowhere');
    expect(away.code).toBe(exitCodes.unreachable.code);
    expect(away.stderr).toMatch(/PostgreSQL \/nowhere:5432\/tidemark can not be reached.*\n.*see whether it runs/);
    const secret = await start('postgres://ada:s3cret@db/tidemark');
    expect(secret.code).toBe(exitCodes.usage.code);
    expect(secret.stderr).toContain('control.statePassword');
    expect(secret.stderr).not.toContain('s3cret');
    await site.restart();
    expect((await (await site.operator()).call('getMachine', { name: 'm1' })).value.name).toBe('m1');
    await site.end();
  });

  it('say that their database is away or takes no writes, and go on when it is back', async () => {
    const site = await Site.start();
    const operator = await site.operator();
    await operator.call('putMachine', { name: 'm1', body: machine });
    await server.stopServer();
    await expect(operator.call('getMachine', { name: 'm1' })).rejects.toMatchObject({
      code: 'unreachable',
      retryable: true,
      message: expect.stringContaining('PostgreSQL') as string,
      remedy,
    });
    await expect(Site.start({ postgres: site.postgres ?? '' })).rejects.toMatchObject({ code: 'unreachable', remedy });
    await server.startServer();
    await operator.call('getMachine', { name: 'm1' });
    await server.setReadOnly(true);
    await expect(operator.call('deleteMachine', { name: 'm1' })).rejects.toMatchObject({
      code: 'not-writable',
      retryable: true,
    });
    await expect(Site.start({ postgres: await newAddress().catch(() => site.postgres ?? '') })).rejects.toMatchObject({
      code: expect.stringMatching(/not-writable|no-key/) as string,
    });
    await server.setReadOnly(false);
    await operator.call('deleteMachine', { name: 'm1' });
    await site.end();
  });
});

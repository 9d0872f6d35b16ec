import { createServer as createHttpsServer } from 'node:https';
import { createServer } from 'node:net';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import { startControl } from '../../src/control/server.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { Site, targetReport } from './fixture.ts';

let site: Site;
beforeEach(async () => {
  site = await Site.start();
});
afterEach(async () => {
  await site.end();
});

const machine = { disks: [{ name: 'root' }] };
const code = (wanted: string) => expect.objectContaining({ code: wanted }) as unknown;

describe('as a whole', () => {
  it('keeps everything over a restart', async () => {
    const operator = await site.operator();
    const made = await operator.call('putMachine', { name: 'm1', body: machine });
    const { credentials } = await site.role('target', 't1');
    const unused = await site.registrationKey('agent', 'm1');
    await site.client({ kind: 'role', credentials }).call('report', { body: targetReport(5, 'm1', [1]) });
    await site.restart();
    const after = await site.operator();
    expect(await after.call('getMachine', { name: 'm1' })).toEqual(made);
    expect((await after.call('listPoints', { name: 'm1' })).value.points).toHaveLength(1);
    expect((await after.call('getStatus')).value.roles).toHaveLength(1);
    await site.client({ kind: 'role', credentials }).call('report', { body: targetReport(6, 'm1', [2]) });
    await site.enroll(unused, 'agent', 'm1');
  });

  it('writes no secret to its log and keeps no registration key', async () => {
    const key = await site.registrationKey('agent', 'm1');
    const token = await site.token();
    await site.enroll(key, 'agent', 'm1');
    await site.enroll(key, 'agent', 'm1').catch(() => undefined);
    await site.raw('GET', `/v1/machines/${key}`, { headers: { authorization: `Bearer ${token}` } });
    await site.raw('GET', `/v1/${token}?token=${token}`, { headers: { authorization: `Bearer ${token}x` } });
    const log = site.logLines.join('');
    expect(log).toContain('"operation":"enroll"');
    const secretOf = (text: string): string => text.split('.')[1] ?? '';
    for (const secret of [secretOf(key), secretOf(token), 'PRIVATE KEY']) expect(log).not.toContain(secret);
    if (site.postgres !== null) return;
    const state = await posixFiles.readWhole(path.join(site.dataDir, 'state', 'data.mdb'));
    expect(state.includes(secretOf(key))).toBe(false);
  });

  it('does the same POST once', async () => {
    const operator = await site.operator();
    const once = { body: { role: 'agent' as const }, idempotencyKey: 'k1' };
    const keys = await Promise.all(
      [1, 2, 3].map(async () => (await operator.call('createRegistrationKey', once)).value.registrationKey),
    );
    expect(new Set(keys).size).toBe(1);
    const other = await operator.call('createRegistrationKey', { ...once, idempotencyKey: 'k2' });
    expect(keys).not.toContain(other.value.registrationKey);
  });

  it('sends its token to no other role, though the site signed that one too', async () => {
    const { credentials } = await site.role('target', 't1');
    let asked = 0;
    const other = createHttpsServer(
      { key: credentials.keyPem, cert: credentials.certPem + credentials.caPem },
      (_request, response) => {
        asked += 1;
        response.end();
      },
    );
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const address = other.address();
    const url = `https://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
    const access = { kind: 'operator', token: await site.token() } as const;
    const client = new ControlClient({ url, access, clock: systemClock });
    await expect(client.call('getStatus')).rejects.toEqual(code('bad-certificate'));
    expect(asked).toBe(0);
    other.close();
  });

  it('says when control is away, silent, or something else', async () => {
    const operator = await site.operator();
    await operator.call('getStatus');
    const token = await site.token();
    const url = site.control.url;
    await site.end();
    await expect(operator.call('getStatus')).rejects.toMatchObject({
      code: 'unreachable',
      retryable: true,
      remedy: expect.stringMatching(/./) as unknown,
    });
    const mute = createServer(() => undefined);
    await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
    const address = mute.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const options = {
      access: { kind: 'operator', token },
      clock: systemClock,
      deadlineMs: 100,
    } as const;
    await expect(new ControlClient({ ...options, url: `https://127.0.0.1:${port}` }).call('getStatus')).rejects.toEqual(
      code('timeout'),
    );
    mute.close();
    expect(() => new ControlClient({ ...options, url: url.replace('https', 'http') })).toThrow('not the address');
    expect(() => new ControlClient({ ...options, url, access: { kind: 'operator', token: 'abc' } })).toThrow('token');
    site = await Site.start();
  });

  it('refuses a data directory of another version, and a port that is taken', async () => {
    const logger = createLogger({ level: 'silent', clock: systemClock });
    const start = (dataDir: string, port: number) =>
      startControl({ dataDir, port, files: posixFiles, clock: systemClock, random: systemRandom, logger });
    await expect(start(path.join(site.directory, 'second'), site.control.port)).rejects.toEqual(code('bad-config'));
    const foreign = path.join(site.directory, 'foreign');
    await posixFiles.makeDirectory(foreign);
    await posixFiles.replaceFile(path.join(foreign, 'control.json'), Buffer.from('{"format": 2}'));
    await expect(start(foreign, 0)).rejects.toEqual(code('wrong-version'));
  });
});

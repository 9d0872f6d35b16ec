import { stat } from 'node:fs/promises';
import * as path from 'node:path';
import { X509Certificate } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { routes, type Route } from '../../src/control/api.ts';
import { policySchema } from '../../src/control/schemas.ts';
import { limits } from '../../src/limits.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { makeRequest } from '../../src/transport/credentials.ts';
import { identityOf } from '../../src/transport/identity.ts';
import { agentReport, Site, targetReport } from './fixture.ts';

let site: Site;
beforeEach(async () => {
  site = await Site.start();
});
afterEach(async () => {
  await site.end();
});

const machine = { disks: [{ name: 'root' }] };
const code = (wanted: string) => expect.objectContaining({ code: wanted }) as unknown;

describe('who may call what', () => {
  it('every route admits its callers and nobody else', async () => {
    const token = await site.token();
    const tlsOf = async (role: 'agent' | 'process-server' | 'target') => {
      const { keyPem, certPem } = (await site.role(role, `some-${role}`)).credentials;
      return { tls: { key: keyPem, cert: certPem } };
    };
    const callers = {
      nobody: {},
      'wrong token': { headers: { authorization: `Bearer ${token.slice(0, -1)}x` } },
      'no bearer': { headers: { authorization: token } },
      operator: { headers: { authorization: `Bearer ${token}` } },
      agent: await tlsOf('agent'),
      'process-server': await tlsOf('process-server'),
      target: await tlsOf('target'),
    };
    for (const [name, route] of Object.entries<Route>(routes)) {
      for (const [caller, how] of Object.entries(callers)) {
        const body = route.body ? { body: '{}' } : {};
        const { status, json } = await site.raw(route.method, route.path.replace('{name}', 'x'), { ...how, ...body });
        const allowed = route.callers.some((one) => one === 'anyone' || one === caller);
        const known = caller in { operator: 1, agent: 1, 'process-server': 1, target: 1 };
        const say = `${name} by ${caller}: ${status} ${String(json['code'])}`;
        if (allowed) expect([200, 201, 204, 400, 404], say).toContain(status);
        else expect([status, json['code']], say).toEqual(known ? [403, 'not-authorised'] : [401, 'not-authenticated']);
      }
    }
  });

  it('refuses a certificate of another authority, and one that has ended', async () => {
    const other = await Site.start();
    const { credentials } = await other.role('agent', 'm1');
    await other.end();
    const foreign = await site.raw('GET', '/v1/agent/config', {
      tls: { key: credentials.keyPem, cert: credentials.certPem },
    });
    expect([foreign.status, foreign.json['code']]).toEqual([401, 'not-authenticated']);

    const own = (await site.role('agent', 'm1')).credentials;
    site.aheadMs = 400 * 24 * 3600 * 1000;
    const ended = await site.raw('GET', '/v1/agent/config', { tls: { key: own.keyPem, cert: own.certPem } });
    expect([ended.status, ended.json['code']]).toEqual([401, 'bad-certificate']);
  });

  it('keeps the operator token in a file only its owner reads, the same over restarts', async () => {
    expect((await stat(site.control.tokenFile)).mode & 0o777).toBe(0o600);
    const before = await site.token();
    await site.restart();
    expect(await site.token()).toBe(before);
  });
});

describe('enrolment', () => {
  it('turns a registration key into a certificate of the site that admits its holder', async () => {
    const { client, credentials } = await site.role('agent', 'm1');
    const certificate = new X509Certificate(credentials.certPem);
    const authority = new X509Certificate(credentials.caPem);
    expect(certificate.verify(authority.publicKey)).toBe(true);
    expect(certificate.checkIssued(authority)).toBe(true);
    expect(certificate.ca).toBe(false);
    expect(certificate.subjectAltName).toBe('URI:tidemark://agent/m1');
    expect(identityOf(certificate, Date.now())).toMatchObject({ role: 'agent', name: 'm1' });
    expect(Date.parse(certificate.validTo) - Date.now()).toBeLessThanOrEqual(365 * 24 * 3600 * 1000);
    expect(authority.fingerprint256.replaceAll(':', '').toLowerCase()).toBe(site.control.caFingerprint);

    const operator = await site.operator();
    await operator.call('putMachine', { name: 'm1', body: machine });
    expect((await client.call('getAgentConfig')).value).toEqual({
      machine: 'm1',
      paused: false,
      processServers: [],
      definition: null,
      disks: [{ name: 'root' }],
      policyName: 'default',
      policy: policySchema.parse({}),
    });
  });

  it('accepts a key once', async () => {
    const key = await site.registrationKey('agent');
    await site.enroll(key, 'agent', 'm1');
    await expect(site.enroll(key, 'agent', 'm1')).rejects.toEqual(code('bad-registration-key'));
    await site.restart();
    await expect(site.enroll(key, 'agent', 'm2')).rejects.toEqual(code('bad-registration-key'));
  });

  it('lets exactly one of many who hold a key win', async () => {
    const key = await site.registrationKey('agent');
    const tries = await Promise.allSettled(
      Array.from({ length: 12 }, (_, index) => site.enroll(key, 'agent', `m${index}`)),
    );
    expect(tries.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const one of tries) if (one.status === 'rejected') expect(one.reason).toEqual(code('bad-registration-key'));
  });

  it('refuses a key that expired, is for another role or name, or was never made', async () => {
    const expired = await site.registrationKey('agent', undefined, 60);
    site.aheadMs = 61_000;
    await expect(site.enroll(expired, 'agent', 'm1')).rejects.toEqual(code('bad-registration-key'));
    site.aheadMs = 0;
    await expect(site.enroll(await site.registrationKey('agent'), 'target', 'm1')).rejects.toMatchObject({
      code: 'bad-registration-key',
      remedy: expect.stringContaining('--role') as string,
    });
    await expect(site.enroll(await site.registrationKey('agent', 'm1'), 'agent', 'm2')).rejects.toEqual(
      code('bad-registration-key'),
    );
    const unknown = `tmk1.${'A'.repeat(43)}.${site.control.caFingerprint}`;
    await expect(site.enroll(unknown, 'agent', 'm1')).rejects.toEqual(code('bad-registration-key'));
    const operator = await site.operator();
    const tooLong = operator.call('createRegistrationKey', { body: { role: 'agent', ttlSeconds: 5 * 24 * 3600 + 1 } });
    await expect(tooLong).rejects.toEqual(code('bad-argument'));
  });

  it('does not use the key up for a request that can not be signed', async () => {
    const key = await site.registrationKey('agent');
    const body = JSON.stringify({ registrationKey: key, role: 'agent', name: 'm1', csrPem: 'nonsense' });
    expect((await site.raw('POST', '/v1/enroll', { body })).json['code']).toBe('bad-argument');
    await site.enroll(key, 'agent', 'm1');
  });

  it('gives the same answer again when the answer was lost', async () => {
    const registrationKey = await site.registrationKey('agent');
    const csrPem = await makeRequest(posixFiles, path.join(site.directory, 'lost'), 'm1');
    const body = { registrationKey, role: 'agent', name: 'm1', csrPem } as const;
    const client = site.client({ kind: 'registration-key', registrationKey });
    const first = await client.call('enroll', { body, idempotencyKey: 'one' });
    expect(await client.call('enroll', { body, idempotencyKey: 'one' })).toEqual(first);
    await expect(client.call('enroll', { body: { ...body, name: 'm2' }, idempotencyKey: 'one' })).rejects.toEqual(
      code('idempotency-mismatch'),
    );
    await expect(client.call('enroll', { body, idempotencyKey: 'two' })).rejects.toEqual(code('bad-registration-key'));
  });

  it('sends nothing to a server that is not of the site the key is for', async () => {
    const other = await Site.start();
    const registrationKey = await other.registrationKey('agent');
    await other.end();
    const requests = site.logLines.length;
    await expect(site.enroll(registrationKey, 'agent', 'm1')).rejects.toEqual(code('bad-certificate'));
    expect(site.logLines.length).toBe(requests);
  });
});

describe('machines and policies', () => {
  it('replaces only what the caller has seen', async () => {
    const operator = await site.operator();
    const made = await operator.call('putMachine', { name: 'm1', body: machine });
    const again = operator.call('putMachine', { name: 'm1', body: machine });
    await expect(again).rejects.toEqual(code('precondition-required'));
    const body = { disks: [{ name: 'root' }, { name: 'data' }] };
    const changed = await operator.call('putMachine', { name: 'm1', body, ifMatch: made.version ?? 0 });
    expect(changed.version).toBeGreaterThan(made.version ?? 0);
    await expect(operator.call('putMachine', { name: 'm1', body, ifMatch: made.version ?? 0 })).rejects.toEqual(
      code('version-conflict'),
    );
    await expect(operator.call('putMachine', { name: 'm2', body, ifMatch: 1 })).rejects.toEqual(
      code('version-conflict'),
    );
    expect(await operator.call('getMachine', { name: 'm1' })).toEqual(changed);
  });

  it('lets one of two concurrent updates win', async () => {
    const operator = await site.operator();
    const { version = 0 } = await operator.call('putPolicy', { name: 'gold', body: {} });
    const updates = [1, 2, 3, 4].map((intervalSeconds) =>
      operator.call('putPolicy', { name: 'gold', body: { intervalSeconds }, ifMatch: version }),
    );
    const results = await Promise.allSettled(updates);
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  });

  it('forgets a machine, and its points, when protection is disabled', async () => {
    const operator = await site.operator();
    const { client } = await site.role('target', 't1');
    await operator.call('putMachine', { name: 'm1', body: machine });
    await client.call('report', { body: targetReport(Date.now(), 'm1', [1, 2]) });
    await operator.call('deleteMachine', { name: 'm1' });
    await expect(operator.call('getMachine', { name: 'm1' })).rejects.toEqual(code('not-found'));
    await operator.call('putMachine', { name: 'm1', body: machine });
    expect((await operator.call('listPoints', { name: 'm1' })).value.points).toEqual([]);
  });

  it('names what is wrong with a request', async () => {
    const authorization = `Bearer ${await site.token()}`;
    const put = async (name: string, body: string) =>
      (await site.raw('PUT', `/v1/machines/${name}`, { headers: { authorization }, body })).json;
    expect(await put('m1', '{"disks":[{"name":"root"}],"polcy":"x"}')).toMatchObject({
      code: 'bad-argument',
      detail: expect.stringContaining('polcy') as unknown,
    });
    expect(await put('m1', '{"disks":[]}')).toMatchObject({
      code: 'bad-argument',
      detail: expect.stringContaining('body.disks') as unknown,
    });
    expect(await put('m1', '{"disks":[{"name":"a"},{"name":"a"}]}')).toMatchObject({ code: 'bad-argument' });
    expect(await put('m1', '{"disks":[{"name":"a"}],"policy":"none"}')).toMatchObject({ code: 'not-found' });
    expect(await put('UPPER', JSON.stringify(machine))).toMatchObject({ code: 'bad-argument' });
    expect(await put('m1', '{"disks":')).toMatchObject({ code: 'bad-argument' });
    const policy = await site.raw('PUT', '/v1/policies/p', { headers: { authorization }, body: '{"blockSize":65535}' });
    expect(policy.json).toMatchObject({
      code: 'bad-argument',
      detail: expect.stringContaining('power of two') as unknown,
    });
    const refused = async (policyText: string): Promise<unknown> =>
      (await site.raw('PUT', '/v1/policies/p', { headers: { authorization }, body: policyText })).json['detail'];
    expect(await refused('{"resyncWindow":"22-6"}')).toMatch(/^body\.resyncWindow: "22-6" is not .*"22:00-06:00"\?$/);
    expect(await refused('{"resyncTimeZone":"Europe/Berln"}')).toMatch(
      /^body\.resyncTimeZone: "Europe\/Berln" is not .*Europe\/Berlin/,
    );
    expect(await refused('{"resyncAtDirtyPercent":0}')).toContain('body.resyncAtDirtyPercent: ');
    expect(await refused('{"appConsistentHours":13}')).toContain('body.appConsistentHours: ');
  });

  it('answers with problems as RFC 9457 has them', async () => {
    const reply = await site.raw('GET', '/v1/nothing');
    expect(reply.headers['content-type']).toContain('application/problem+json');
    expect(reply.json).toEqual({
      type: 'urn:tidemark:problem:not-found',
      title: 'not found',
      status: 404,
      detail: expect.any(String) as unknown,
      code: 'not-found',
      remedy: expect.any(String) as unknown,
      retryable: false,
    });
    expect((await site.raw('GET', '/v1/status')).headers['www-authenticate']).toBe('Bearer');
  });
});

const retention = { hours: 24, thinning: null };

describe('reports and points', () => {
  it('pages through points, newest first, while more come', async () => {
    const operator = await site.operator();
    const { client } = await site.role('target', 't1');
    await operator.call('putMachine', { name: 'm1', body: machine });
    const numbers = Array.from({ length: 12 }, (_, index) => index + 1);
    const { value } = await client.call('report', { body: targetReport(Date.now(), 'm1', numbers) });
    expect(value.machines).toEqual([{ name: 'm1', newestPoint: 12, retention }]);
    const seen: number[] = [];
    let cursor: string | null = null;
    do {
      const query = cursor === null ? { limit: 5 } : { limit: 5, cursor };
      const page: { points: { point: number }[]; next: string | null } = (
        await operator.call('listPoints', { name: 'm1', query })
      ).value;
      seen.push(...page.points.map(({ point }) => point));
      cursor = page.next;
      if (seen.length === 5) await client.call('report', { body: targetReport(Date.now(), 'm1', [13]) });
    } while (cursor !== null);
    expect(seen).toEqual(numbers.toReversed());
  });

  it('drops points the target no longer keeps, and takes corrections', async () => {
    const operator = await site.operator();
    const { client } = await site.role('target', 't1');
    await operator.call('putMachine', { name: 'm1', body: machine });
    await client.call('report', { body: targetReport(1000, 'm1', [1, 2, 3]) });
    const report = targetReport(2000, 'm1', [3], { oldestPoint: 2 });
    await client.call('report', { body: report });
    const { points } = (await operator.call('listPoints', { name: 'm1' })).value;
    expect(points.map(({ point, cutTimeMs }) => [point, cutTimeMs])).toEqual([
      [3, 2000],
      [2, 1000],
    ]);
  });

  it('takes no points of machines that are not protected, and tells the target what it knows', async () => {
    const { client } = await site.role('target', 't1');
    expect((await client.call('report', { body: targetReport(1, 'm9', [1]) })).value.machines).toEqual([]);
    await (await site.operator()).call('putMachine', { name: 'm9', body: machine });
    const empty = await client.call('report', { body: targetReport(1, 'm9', []) });
    expect(empty.value.machines).toEqual([{ name: 'm9', newestPoint: null, retention }]);
  });

  it('lets nobody report as someone else', async () => {
    const { client } = await site.role('agent', 'm1');
    await expect(client.call('report', { body: targetReport(1, 'm1', [1]) })).rejects.toEqual(code('not-authorised'));
  });

  it('refuses a report that is too large or has too many points, and goes on', async () => {
    const { client } = await site.role('target', 't1');
    const tooMany = Array.from({ length: limits.control.pointsPerReportMax + 1 }, (_, index) => index + 1);
    await expect(client.call('report', { body: targetReport(1, 'm1', tooMany) })).rejects.toEqual(code('bad-argument'));
    const big = { ...targetReport(1, 'm1', []), padding: 'x'.repeat(limits.control.bodyBytesMax) };
    await expect(client.call('report', { body: big })).rejects.toEqual(code('too-large'));
    await client.call('report', { body: targetReport(1, 'm1', [1]) });
  });

  it('shows one status: lag, newest points, roles, and what is missing', async () => {
    const operator = await site.operator();
    await operator.call('putMachine', { name: 'm1', body: machine });
    const target = await site.role('target', 't1');
    const agent = await site.role('agent', 'm1');
    const atMs = Date.now();
    await target.client.call('report', { body: targetReport(atMs, 'm1', [1]) });
    await agent.client.call('report', { body: agentReport(atMs, 4096) });
    const { value } = await operator.call('getStatus');
    expect(value).toMatchObject({ health: 'ok', reasons: [] });
    expect(value.machines[0]).toMatchObject({
      name: 'm1',
      health: 'ok',
      lagBytes: 4096,
      newestCommittedMs: atMs,
      newestProvenMs: atMs,
      rpoIntervalSeconds: 5,
    });
    expect(value.roles.map(({ role, silent }) => [role, silent])).toEqual([
      ['agent', false],
      ['target', false],
    ]);

    await target.client.call('report', { body: { ...targetReport(atMs, 'm1', [1]), recoveryFileWritten: false } });
    expect((await operator.call('getStatus')).value.reasons.map((reason) => reason.code)).toEqual(['no-recovery-file']);
  });
});

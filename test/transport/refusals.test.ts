/** Everyone who must not get in, told why where that is safe. Real TLS on loopback. */
import { X509Certificate } from 'node:crypto';
import * as net from 'node:net';
import * as tls from 'node:tls';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Credentials } from '../../src/transport/credentials.ts';
import { identityOf } from '../../src/transport/identity.ts';
import type { Deadlines } from '../../src/transport/server.ts';
import { tlsOptions } from '../../src/transport/tls-options.ts';
import { clockShifted, dayMs, dial, makeSite, refusalOf, startServer } from './site.ts';
import type { TestServer, TestSite } from './site.ts';

const upgradeRequest =
  'GET /v1/replicate HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n' +
  'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: tidemark.v1\r\n';

let site: TestSite;
let foreign: TestSite;
let serverCredentials: Credentials;
let agent: Credentials;
let server: TestServer;
const sockets: net.Socket[] = [];

beforeAll(async () => {
  site = await makeSite();
  foreign = await makeSite();
  serverCredentials = await site.credentials('process-server', 'ps-1');
  agent = await site.credentials('agent', 'vm-1');
  server = await startServer(serverCredentials);
});

afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
  server.refusals.length = 0;
});

afterAll(async () => {
  await server.listener.close();
  site.remove();
  foreign.remove();
});

/** TLS by hand; resolves with everything the server said until it closed, or with the error's code. */
function talk(port: number, options: tls.ConnectionOptions, say = ''): Promise<string> {
  return new Promise((resolve) => {
    let heard = '';
    const socket = tls.connect({ host: '127.0.0.1', port, rejectUnauthorized: false, ...options }, () =>
      socket.write(say),
    );
    sockets.push(socket);
    socket.on('data', (chunk: Buffer) => (heard += chunk.toString('latin1')));
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(heard || (error.code ?? error.message)));
    socket.on('close', () => resolve(heard));
  });
}

describe('a client is refused', () => {
  it('with a certificate of another authority', async () => {
    const stranger = await foreign.credentials('agent', 'vm-1');
    // It trusts our server, so that the refusal is the server's.
    const attempt = dial(server.listener.port, { ...stranger, caPem: site.authority.caPem });
    expect(await refusalOf(attempt)).toMatchObject({ code: 'bad-certificate', retryable: false });
    await expect.poll(() => server.refusals).toMatchObject([{ code: 'bad-certificate' }]);
  });

  it('with an expired certificate, and is told so', async () => {
    const old = await site.credentials('agent', 'vm-old', { days: 1, clock: clockShifted(0) });
    const late = await startServer(serverCredentials, { clock: clockShifted(2 * dayMs) });
    const failure = await refusalOf(dial(late.listener.port, old));
    expect(failure).toMatchObject({ code: 'bad-certificate', message: expect.stringContaining('ended on') as string });
    expect(late.refusals[0]?.code).toBe('bad-certificate');
    await late.listener.close();
  });

  it('with a certificate that OpenSSL itself finds expired', async () => {
    const past = await makeSite(-100 * dayMs);
    const expired = await past.credentials('agent', 'vm-old', { days: 1 });
    const fresh = await past.credentials('process-server', 'ps-1', { days: 200 });
    const own = await startServer(fresh);
    const failure = await refusalOf(dial(own.listener.port, expired));
    expect(failure).toMatchObject({
      code: 'bad-certificate',
      message: expect.stringContaining('CERT_HAS_EXPIRED') as string,
    });
    await own.listener.close();
    past.remove();
  });

  it('without a certificate', async () => {
    const { caPem } = site.authority;
    expect(await talk(server.listener.port, { ca: caPem }, `${upgradeRequest}\r\n`)).toContain('403 Forbidden');
    expect(server.refusals).toMatchObject([{ code: 'bad-certificate', message: 'no certificate was shown' }]);
  });

  it('with a role that may not connect here', async () => {
    const control = await site.credentials('control', 'control');
    const failure = await refusalOf(dial(server.listener.port, control));
    expect(failure).toMatchObject({ code: 'refused', message: expect.stringContaining('role control') as string });
    expect(server.refusals).toMatchObject([{ code: 'wrong-role' }]);
  });

  it('with a certificate whose name was changed after it was signed', async () => {
    const der = new X509Certificate(agent.certPem).raw;
    const at = der.indexOf('tidemark://agent/vm-1');
    expect(at).toBeGreaterThan(0);
    Buffer.from('vm-2').copy(der, at + 'tidemark://agent/'.length);
    const certPem = `-----BEGIN CERTIFICATE-----\n${der.toString('base64')}\n-----END CERTIFICATE-----\n`;
    expect(identityOf(new X509Certificate(certPem), Date.now()).name).toBe('vm-2');
    const failure = await refusalOf(dial(server.listener.port, { ...agent, certPem }));
    expect(failure).toMatchObject({
      code: 'bad-certificate',
      message: expect.stringContaining('CERT_SIGNATURE_FAILURE') as string,
    });
  });

  it('that speaks only TLS 1.2', async () => {
    const said = await talk(server.listener.port, {
      ...tlsOptions(agent),
      minVersion: 'TLSv1.2',
      maxVersion: 'TLSv1.2',
      ciphers: 'DEFAULT',
    });
    expect(said).toContain('PROTOCOL_VERSION');
    await expect.poll(() => server.refusals).toMatchObject([{ code: 'tls' }]);
  });

  it('that does not speak TLS at all', async () => {
    const socket = net.connect(server.listener.port, '127.0.0.1', () => socket.write('GET / HTTP/1.0\r\n\r\n'));
    sockets.push(socket);
    socket.on('error', () => undefined);
    await new Promise((resolve) => socket.on('close', resolve));
    await expect.poll(() => server.refusals).toMatchObject([{ code: 'tls' }]);
  });

  it.each([
    ['for another path', upgradeRequest.replace('/v1/replicate', '/v1/other')],
    ['without the sub-protocol', upgradeRequest.replace('tidemark.v1', 'tidemark.v9')],
    ['with a body', `${upgradeRequest}content-length: 3\r\n`],
    ['for a plain page', 'GET /v1/replicate HTTP/1.1\r\nhost: x\r\n'],
  ])('when it asks %s', async (_what, request) => {
    expect(await talk(server.listener.port, tlsOptions(agent), `${request}\r\n`)).toContain('400 Bad Request');
    await expect.poll(() => server.refusals).toMatchObject([{ code: 'bad-request' }]);
  });

  it('with a broken WebSocket handshake, or with headers without end', async () => {
    const bad = upgradeRequest.replace('dGhlIHNhbXBsZSBub25jZQ==', 'x');
    expect(await talk(server.listener.port, tlsOptions(agent), `${bad}\r\n`)).toContain('400');
    await talk(server.listener.port, tlsOptions(agent), `${upgradeRequest}x: ${'y'.repeat(20_000)}\r\n\r\n`);
    await expect.poll(() => server.refusals.length).toBe(2);
  });
});

describe('a silent peer is closed at its deadline', () => {
  const short: Deadlines = { handshakeMs: 200, upgradeMs: 200, firstFrameMs: 200 };

  async function closedAfterMs(act: (port: number) => net.Socket): Promise<{ ms: number; code: string | undefined }> {
    const quick = await startServer(serverCredentials, { deadlines: short });
    const started = performance.now();
    const socket = act(quick.listener.port);
    sockets.push(socket);
    socket.on('error', () => undefined);
    socket.resume();
    await new Promise((resolve) => socket.on('close', resolve));
    const ms = performance.now() - started;
    await expect.poll(() => quick.refusals.length).toBe(1);
    await quick.listener.close();
    return { ms, code: quick.refusals[0]?.code };
  }

  it('before TLS', async () => {
    const { ms, code } = await closedAfterMs((port) => net.connect(port, '127.0.0.1'));
    expect(ms).toBeGreaterThan(150);
    expect(ms).toBeLessThan(1_500);
    expect(['timeout', 'tls']).toContain(code);
  });

  it('after TLS, also while it dribbles its request', async () => {
    const open = (port: number) =>
      tls.connect({ host: '127.0.0.1', port, ...tlsOptions(agent), checkServerIdentity: () => undefined });
    expect((await closedAfterMs(open)).code).toBe('timeout');
    const dribbled = await closedAfterMs((port) => {
      const socket = open(port);
      const timer = setInterval(() => socket.write('GET'), 20);
      socket.on('close', () => clearInterval(timer));
      return socket;
    });
    expect(dribbled.ms).toBeLessThan(1_500);
  });

  it('after the upgrade, although it answers closes', async () => {
    const quick = await startServer(serverCredentials, { deadlines: short });
    const client = await dial(quick.listener.port, agent);
    client.onFrame(() => undefined);
    expect(await client.closed).toMatchObject({ by: 'peer', code: 4009 });
    expect(await (await quick.accepted()).closed).toMatchObject({ by: 'deadline', code: 4009 });
    const lively = await dial(quick.listener.port, agent);
    lively.onFrame(() => undefined);
    await lively.send(Buffer.alloc(8));
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(quick.listener.connections).toBe(1);
    await quick.listener.close();
  });
});

it('refuses 1,000 times without growing, while an honest connection goes on', async () => {
  const honest = await dial(server.listener.port, agent);
  const far = await server.accepted();
  let echoed = 0;
  honest.onFrame(() => undefined);
  const control = await site.credentials('control', 'control');
  const strangers = [tlsOptions(control), { ca: site.authority.caPem }];
  const batch = async (count: number): Promise<void> => {
    for (let done = 0; done < count; done += 20) {
      await Promise.all(
        Array.from({ length: 20 }, (_none, index) =>
          talk(server.listener.port, strangers[index % 2] ?? {}, upgradeRequest),
        ),
      );
      await honest.send(Buffer.alloc(8));
      echoed += 1;
    }
  };
  await batch(100); // Warm: lazily made things are not growth.
  const before = process.memoryUsage().rss;
  await batch(1_000);
  const grown = (process.memoryUsage().rss - before) / 2 ** 20;
  expect(server.refusals.length).toBe(1_100);
  expect(grown).toBeLessThan(64);
  await expect.poll(() => far.bytesIn).toBeGreaterThanOrEqual(echoed * 8);
  expect(await Promise.race([honest.closed, Promise.resolve('open')])).toBe('open');
  honest.close(1000, '');
  await honest.closed;
});

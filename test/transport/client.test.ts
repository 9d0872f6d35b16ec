/** The client's side of trust, and every way an attempt can end without a connection. */
import * as net from 'node:net';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { limits } from '../../src/limits.ts';
import { formatAddress, parseAddress } from '../../src/transport/address.ts';
import type { Credentials } from '../../src/transport/credentials.ts';
import { mustRecycle } from '../../src/transport/heartbeat.ts';
import { memoryPair } from './memory-connection.ts';
import { clockShifted, dayMs, dial, makeSite, refusalOf, startServer } from './site.ts';
import type { TestServer, TestSite } from './site.ts';

let site: TestSite;
let agent: Credentials;
let server: TestServer;

beforeAll(async () => {
  site = await makeSite();
  agent = await site.credentials('agent', 'vm-1');
  server = await startServer(await site.credentials('process-server', 'ps-1'));
});

afterAll(async () => {
  await server.listener.close();
  site.remove();
});

/** A TCP server that treats its sockets as told. */
async function tcpServer(onSocket: (socket: net.Socket) => void): Promise<{ port: number; close: () => void }> {
  const sockets: net.Socket[] = [];
  const listener = net.createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    onSocket(socket);
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  return {
    port: (listener.address() as net.AddressInfo).port,
    close: () => {
      for (const socket of sockets) socket.destroy();
      listener.close();
    },
  };
}

describe('a client knows its server', () => {
  it('and says who both ends are', async () => {
    const client = await dial(server.listener.port, agent, { expectName: 'ps-1' });
    const far = await server.accepted();
    expect(client.peer).toMatchObject({ role: 'process-server', name: 'ps-1' });
    expect(far.peer).toEqual(agent.identity);
    expect(client.remote).toBe(`127.0.0.1:${server.listener.port}`);
    client.onFrame(() => undefined);
    client.close(1000, '');
    await client.closed;
  });

  it.each([
    ['role', { expectRole: 'target' } as const],
    ['name', { expectName: 'ps-2' }],
  ])('by its %s', async (_what, options) => {
    const failure = await refusalOf(dial(server.listener.port, agent, options));
    expect(failure).toMatchObject({
      code: 'bad-certificate',
      message: expect.stringContaining('is process-server ps-1') as string,
    });
  });

  it('by the authority that signed it', async () => {
    const foreign = await makeSite();
    const impostor = await startServer(await foreign.credentials('process-server', 'ps-1'));
    expect(await refusalOf(dial(impostor.listener.port, agent))).toMatchObject({
      code: 'bad-certificate',
      retryable: false,
    });
    await impostor.listener.close();
    foreign.remove();
  });

  it('by its dates', async () => {
    const failure = await refusalOf(dial(server.listener.port, agent, { clock: clockShifted(31 * dayMs) }));
    expect(failure).toMatchObject({ code: 'bad-certificate' });
  });

  it("and not by an agent's certificate, which is not one for servers", async () => {
    const impostor = await startServer(agent);
    const failure = await refusalOf(dial(impostor.listener.port, agent, { expectRole: 'agent' }));
    expect(failure).toMatchObject({ code: 'bad-certificate', message: expect.stringContaining('purpose') as string });
    await impostor.listener.close();
  });
});

describe('an attempt ends', () => {
  it('as unreachable when nobody listens, or the peer hangs up', async () => {
    const rude = await tcpServer((socket) => socket.resetAndDestroy());
    for (const port of [rude.port, 1]) {
      expect(await refusalOf(dial(port, agent))).toMatchObject({ code: 'unreachable', retryable: true });
    }
    rude.close();
  });

  it('as refused when something else answers', async () => {
    const other = await tcpServer((socket) => socket.end('SSH-2.0-OpenSSH_9.2\r\n'));
    expect(await refusalOf(dial(other.port, agent))).toMatchObject({ code: 'refused', retryable: false });
    other.close();
  });

  it('as timeout, naming the step, when nothing answers', async () => {
    const mute = await tcpServer(() => undefined);
    const failure = await refusalOf(dial(mute.port, agent, { deadlineMs: 200 }));
    expect(failure).toMatchObject({
      code: 'timeout',
      retryable: true,
      message: expect.stringContaining('(TLS)') as string,
    });
    mute.close();
  });

  it('with the reason of its signal, before and during', async () => {
    let seen = 0;
    const mute = await tcpServer((socket) => {
      seen += 1;
      socket.resume();
      socket.on('close', () => (seen -= 1));
    });
    const stop = new AbortController();
    const attempt = refusalOf(dial(mute.port, agent, { signal: stop.signal }));
    await expect.poll(() => seen).toBe(1);
    stop.abort(new Error('not needed any more'));
    expect(await attempt).toMatchObject({ message: 'not needed any more' });
    await expect.poll(() => seen).toBe(0);
    expect(await refusalOf(dial(mute.port, agent, { signal: stop.signal }))).toMatchObject({
      message: 'not needed any more',
    });
    mute.close();
  });

  it('as a bad argument for a host that is none', async () => {
    expect(await refusalOf(dial(1, agent, { host: 'a b' }))).toMatchObject({ code: 'bad-argument' });
  });
});

describe('a listener', () => {
  it('gives one agent no more than its share: the newest connections stay', async () => {
    const many = await startServer(await site.credentials('process-server', 'ps-3'));
    const clients = [];
    for (let index = 0; index <= limits.wire.connectionsPerAgentMax; index += 1) {
      const client = await dial(many.listener.port, agent);
      client.onFrame(() => undefined);
      clients.push(client);
    }
    expect(await clients[0]?.closed).toMatchObject({ by: 'peer', code: 4004 });
    await expect.poll(() => many.listener.connections).toBe(limits.wire.connectionsPerAgentMax);
    await many.listener.close();
  });

  it('says good-bye when it closes, twice over, and refuses its port only while it runs', async () => {
    const credentials = await site.credentials('process-server', 'ps-4');
    const first = await startServer(credentials);
    const { port } = first.listener;
    const client = await dial(port, agent);
    client.onFrame(() => undefined);
    expect(await refusalOf(startServer(credentials, { port }))).toMatchObject({ code: 'bad-config' });
    await Promise.all([first.listener.close(), first.listener.close()]);
    expect(await client.closed).toMatchObject({ by: 'peer', code: 4013 });
    expect(await refusalOf(dial(port, agent))).toMatchObject({ code: 'unreachable' });
    const second = await startServer(credentials, { port });
    await second.listener.close();
  });

  it('drops arrivals above its bound before TLS, and takes new ones when there is room', async () => {
    const crowded = await startServer(await site.credentials('process-server', 'ps-5'));
    const idle = await Promise.all(
      Array.from({ length: limits.wire.handshakesMax + 20 }, async () => {
        const socket = net.connect(crowded.listener.port, '127.0.0.1');
        socket.on('error', () => undefined);
        await new Promise((resolve) => socket.once('connect', resolve));
        return socket;
      }),
    );
    await expect.poll(() => crowded.refusals.length).toBe(20);
    expect(crowded.refusals.every(({ code }) => code === 'overloaded')).toBe(true);
    for (const socket of idle) socket.destroy();
    await expect.poll(() => crowded.refusals.length).toBe(idle.length);
    const client = await dial(crowded.listener.port, agent);
    client.onFrame(() => undefined);
    await crowded.listener.close();
    await client.closed;
  });
});

it('is due for a new connection after 256 GiB in one direction', () => {
  const { client } = memoryPair();
  expect(mustRecycle(client)).toBe(false);
  client.bytesIn = limits.wire.connectionBytesMax - 1;
  expect(mustRecycle(client)).toBe(false);
  client.bytesIn += 1;
  expect(mustRecycle(client)).toBe(true);
});

describe('addresses', () => {
  it.each([
    ['host', 'host', 9443],
    ['host:1', 'host', 1],
    ['192.0.2.1:65535', '192.0.2.1', 65_535],
    ['[::1]:80', '::1', 80],
    ['[::1]', '::1', 9443],
    ['fd00::1', 'fd00::1', 9443],
    ['wss://dr.example.com:9444/', 'dr.example.com', 9444],
  ])('%s', (text, host, port) => {
    expect(parseAddress(text, 9443)).toEqual({ host, port });
  });

  it.each(['', ':1', 'a:0', 'a:65536', 'a:b', 'a b', 'a/b', 'http://a', '[a]:1', '[::1', 'a@b', 'wss://a/b', 'a:1:2'])(
    'not %s',
    (text) => {
      expect(() => parseAddress(text, 9443)).toThrow(expect.objectContaining({ code: 'bad-argument' }) as Error);
    },
  );

  it('are the same after being written and read', () => {
    const hosts = fc.oneof(fc.domain(), fc.ipV4(), fc.ipV6());
    fc.assert(
      fc.property(hosts, fc.integer({ min: 1, max: 65_535 }), (host, port) => {
        expect(parseAddress(formatAddress({ host, port }), 1)).toEqual({ host, port });
      }),
    );
  });
});

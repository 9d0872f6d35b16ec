/** Peers that are not ours, or broken: a plain `ws` client, hand-made WebSocket frames, a peer that died without a word. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import * as net from 'node:net';
import * as tls from 'node:tls';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { systemClock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import type { Connection } from '../../src/transport/connection.ts';
import type { Credentials } from '../../src/transport/credentials.ts';
import { Heartbeat } from '../../src/transport/heartbeat.ts';
import { tlsOptions } from '../../src/transport/tls-options.ts';
import { decodeFrame, frameType } from '../../src/wire/frame.ts';
import { encodePing } from '../../src/wire/ping.ts';
import { memoryPair } from './memory-connection.ts';
import { dial, makeSite, startServer } from './site.ts';
import type { TestServer, TestSite } from './site.ts';

let site: TestSite;
let agent: Credentials;
let server: TestServer;
let frames: Buffer[] = [];

beforeAll(async () => {
  site = await makeSite();
  agent = await site.credentials('agent', 'vm-1');
  server = await startServer(await site.credentials('process-server', 'ps-1'), {
    onConnection: (connection) => connection.onFrame((frame) => frames.push(frame)),
  });
});

beforeEach(() => {
  frames = [];
});

afterAll(async () => {
  await server.listener.close();
  site.remove();
});

/** `ws` as it comes: random masks, permessage-deflate offered. */
async function plainClient(): Promise<{ ws: WebSocket; far: Connection; extensions: string }> {
  const ws = new WebSocket(
    `wss://127.0.0.1:${server.listener.port}/v1/replicate`,
    ['other.v1', 'tidemark.v1'],
    tlsOptions(agent),
  );
  ws.on('error', () => undefined);
  await once(ws, 'open');
  return { ws, far: await server.accepted(), extensions: ws.extensions };
}

const ended = async (ws: WebSocket): Promise<number> => Number((await once(ws, 'close'))[0]);

describe('a plain ws client', () => {
  it('is understood although it masks, gets no compression, and the sub-protocol is ours', async () => {
    const { ws, far, extensions } = await plainClient();
    expect(ws.protocol).toBe('tidemark.v1');
    expect(extensions).toBe('');
    const payload = Buffer.from(Array.from({ length: 100_000 }, (_none, index) => index % 251));
    ws.send(payload);
    await expect.poll(() => frames.length).toBe(1);
    expect(frames[0]?.equals(payload)).toBe(true);
    expect(far.bytesIn).toBeGreaterThan(payload.length); // Not compressed.
    ws.close(1000, 'done');
    expect(await far.closed).toEqual({ by: 'peer', code: 1000, reason: 'done' });
  });

  it('is closed with 1009 for a frame that is too large, before it is received', async () => {
    const { ws, far } = await plainClient();
    ws.send(Buffer.alloc(limits.wire.frameBytesMax + 1));
    expect(await ended(ws)).toBe(1009);
    expect(await far.closed).toMatchObject({ by: 'error', code: 1009 });
    expect(frames).toEqual([]);
  });

  it('is closed with 1008 for a frame in too many fragments', async () => {
    const { ws, far } = await plainClient();
    for (let part = 0; part < limits.wire.fragmentsMax; part += 1)
      ws.send(Buffer.alloc(1), { fin: part === limits.wire.fragmentsMax - 1 });
    await expect.poll(() => frames.length).toBe(1);
    for (let part = 0; part <= limits.wire.fragmentsMax; part += 1) ws.send(Buffer.alloc(1), { fin: false });
    expect(await ended(ws)).toBe(1008);
    expect(await far.closed).toMatchObject({ by: 'error', code: 1008 });
  });

  it('is closed with 1003 for text', async () => {
    const { ws, far } = await plainClient();
    ws.send('{"hello": 1}');
    expect(await ended(ws)).toBe(1003);
    expect(await far.closed).toMatchObject({ by: 'us', code: 1003 });
    expect(frames).toEqual([]);
  });

  it('is closed with 1002 for compressed data nobody agreed on', async () => {
    const { ws, far } = await plainClient();
    // RSV1 set, 1 byte, masked by 0.
    (Reflect.get(ws, '_socket') as tls.TLSSocket).write(Buffer.from([0xc2, 0x81, 0, 0, 0, 0, 7]));
    expect(await far.closed).toMatchObject({ by: 'error', code: 1002 });
  });
});

it('masks with zero: what our client sends lies in clear inside TLS', async () => {
  const seen: Buffer[] = [];
  const listener = tls.createServer({ ...tlsOptions(await site.credentials('process-server', 'ps-2')) }, (socket) => {
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      const key = /sec-websocket-key: (.+)\r\n/i.exec(chunk.toString('latin1'))?.[1];
      if (key === undefined) {
        seen.push(chunk);
        return;
      }
      expect(chunk.toString('latin1')).not.toMatch(/extensions/i);
      const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n' +
          `sec-websocket-protocol: tidemark.v1\r\nsec-websocket-accept: ${accept}\r\n\r\n`,
      );
    });
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const client = await dial((listener.address() as net.AddressInfo).port, agent);
  await client.send(Buffer.from('in clear'));
  await expect
    .poll(() => Buffer.concat(seen).toString('hex'))
    .toBe(`828800000000${Buffer.from('in clear').toString('hex')}`);
  client.close(1000, '');
  // That peer never answers the close: the connection ends by itself (half-open peers can not keep it).
  expect(await client.closed).toMatchObject({ by: 'us', code: 1000 });
  listener.close();
});

describe('heartbeat', () => {
  const quick = { everyMs: 50, idleMs: 200 };

  /** A TCP relay that can go silent in both directions without closing: what a pulled cable looks like. */
  async function relay(): Promise<{ port: number; goSilent: () => void; close: () => void }> {
    const sockets: net.Socket[] = [];
    let silent = false;
    const listener = net.createServer((near) => {
      const far = net.connect(server.listener.port, '127.0.0.1');
      sockets.push(near, far);
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        from.on('data', (chunk) => (silent ? undefined : to.write(chunk)));
        from.on('error', () => undefined);
      }
    });
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    return {
      port: (listener.address() as net.AddressInfo).port,
      goSilent: () => (silent = true),
      close: () => {
        for (const socket of sockets) socket.destroy();
        listener.close();
      },
    };
  }

  it('notices a half-open peer and closes, while a live one is kept', async () => {
    const cable = await relay();
    const client = await dial(cable.port, agent);
    const far = await server.accepted();
    const here = new Heartbeat(client, systemClock, quick);
    const there = new Heartbeat(far, systemClock, quick);
    const farFrames = setInterval(() => {
      for (const frame of frames.splice(0)) there.take(decodeFrame(frame));
    }, 5);
    client.onFrame((frame) => here.take(decodeFrame(frame)));
    await new Promise((resolve) => setTimeout(resolve, 600));
    expect(await Promise.race([client.closed, far.closed, Promise.resolve('open')])).toBe('open');
    expect(here.roundTripMs).toBeLessThan(100);
    cable.goSilent();
    const started = performance.now();
    const [ours, theirs] = await Promise.all([client.closed, far.closed]);
    expect(ours).toMatchObject({ by: 'deadline', code: 4009 });
    expect(theirs).toMatchObject({ by: 'deadline', code: 4009 });
    // 200 ms of silence, then at most `closeMs` for a close frame that never comes.
    expect(performance.now() - started).toBeLessThan(limits.wire.closeMs + 1_000);
    clearInterval(farFrames);
    cable.close();
  });

  it('blames nobody for silence while we do not listen, and does once we do', async () => {
    const { client } = memoryPair();
    client.onFrame(() => undefined);
    client.pause();
    const heart = new Heartbeat(client, systemClock, quick);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(client.isClosed).toBe(false);
    client.resume();
    expect(await client.closed).toMatchObject({ by: 'deadline', code: 4009 });
    expect(heart.roundTripMs).toBeUndefined();
  });

  it('keeps one PING and one PONG waiting at most', async () => {
    const { client, server: far } = memoryPair();
    client.onFrame(() => undefined);
    client.bufferBytes = 0;
    client.hold();
    const heart = new Heartbeat(client, systemClock, { everyMs: 10, idleMs: 10_000 });
    for (let token = 1; token <= 50; token += 1) expect(heart.take(decodeFrame(encodePing('ping', token)))).toBe(true);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(client.sent.map((frame) => decodeFrame(frame).type).sort()).toEqual([frameType.ping, frameType.pong]);
    client.cut();
    expect(await far.closed).toMatchObject({ by: 'error', code: 1006 });
  });
});

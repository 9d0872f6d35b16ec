/** Real `ws` at the other end, over TLS, on either side: what we write it reads, what it writes we read, however the bytes are cut. */
import { once } from 'node:events';
import * as http from 'node:http';
import type { AddressInfo } from 'node:net';
import { Duplex } from 'node:stream';
import * as tls from 'node:tls';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import type { Connection } from '../../src/transport/connection.ts';
import type { Credentials } from '../../src/transport/credentials.ts';
import { tlsOptions } from '../../src/transport/tls-options.ts';
import { frameRoomBytes } from '../../src/wire/frame.ts';
import { dial, makeSite, startServer } from './site.ts';
import type { TestServer, TestSite } from './site.ts';

let site: TestSite;
let agent: Credentials;
let server: TestServer;
let plainServer: tls.Server;
const accepted: WebSocket[] = [];
/** Sizes of the writes `ws` makes from now on, over and over: each becomes a TLS record and comes to us as a read of its own. */
let cuts: readonly number[] = [MiB];

/** What `ws` takes for its socket: cuts what it writes. */
function cutting(socket: tls.TLSSocket): Duplex {
  const cut = new Duplex({
    read: () => void socket.resume(),
    write: (bytes: Buffer, _encoding, done) => {
      let at = 0;
      for (let turn = 0; at < bytes.byteLength; turn += 1) {
        const size = cuts[turn % cuts.length] ?? 1;
        // A frame of a megabyte byte by byte would take minutes: only its beginning is cut so finely.
        const to = turn < 300 ? at + size : at + size + 30_000;
        socket.write(bytes.subarray(at, to));
        at = to;
      }
      done();
    },
    final: (done) => void socket.end(done),
    destroy: (error, done) => {
      socket.destroy();
      done(error);
    },
  });
  socket.on('data', (bytes: Buffer) => cut.push(bytes) || socket.pause());
  socket.on('end', () => cut.push(null));
  socket.on('error', () => cut.destroy());
  socket.on('close', () => cut.destroy());
  return cut;
}

beforeAll(async () => {
  site = await makeSite();
  agent = await site.credentials('agent', 'vm-1');
  const credentials = await site.credentials('process-server', 'ps-1');
  server = await startServer(credentials, { onConnection: () => undefined });
  const plain = http.createServer();
  new WebSocketServer({ server: plain }).on('connection', (ws) => accepted.push(ws.on('error', () => undefined)));
  plainServer = tls.createServer(tlsOptions(credentials), (socket) => void plain.emit('connection', cutting(socket)));
  plainServer.listen(0, '127.0.0.1');
  await once(plainServer, 'listening');
});

afterAll(async () => {
  await server.listener.close();
  plainServer.close();
  site.remove();
});

interface Ends {
  readonly ours: Connection;
  readonly ws: WebSocket;
}

async function ourServer(): Promise<Ends> {
  const socket = tls.connect({
    ...tlsOptions(agent),
    port: server.listener.port,
    checkServerIdentity: () => undefined,
  });
  await once(socket, 'secureConnect');
  const ws = new WebSocket('ws://127.0.0.1/v1/replicate', 'tidemark.v1', { createConnection: () => cutting(socket) });
  await once(
    ws.on('error', () => undefined),
    'open',
  );
  return { ours: await server.accepted(), ws };
}

async function ourClient(): Promise<Ends> {
  const ours = await dial((plainServer.address() as AddressInfo).port, agent);
  await expect.poll(() => accepted.length).toBe(1);
  const [ws] = accepted.splice(0);
  if (!ws) throw new Error('nobody came');
  return { ours, ws };
}

const message = fc.record({
  bytes: fc.oneof(
    fc.uint8Array({ minLength: 1, maxLength: 300 }),
    fc
      .uint8Array({ minLength: 1, maxLength: 30 })
      .chain((seed) =>
        fc.integer({ min: 1, max: 200_000 }).map((length) => new Uint8Array(Buffer.alloc(length, seed))),
      ),
  ),
  parts: fc.integer({ min: 1, max: 5 }),
  room: fc.boolean(),
});
const anyCuts = fc.array(fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 60_000 })), {
  minLength: 1,
  maxLength: 20,
});

describe.each([
  ['a client', ourServer],
  ['a server', ourClient],
])('ws as %s', (_name, open) => {
  it('and we understand each other, however the bytes are cut', async () => {
    const { ours, ws } = await open();
    const here: Buffer[] = [];
    const there: Buffer[] = [];
    ours.onFrame((frame) => here.push(frame));
    ws.on('message', (data: Buffer) => there.push(data));
    await fc.assert(
      fc.asyncProperty(fc.array(message, { minLength: 1, maxLength: 6 }), anyCuts, async (messages, sizes) => {
        cuts = sizes;
        for (const frames of [here, there]) frames.splice(0);
        for (const { bytes, parts, room } of messages) {
          const step = Math.ceil(bytes.byteLength / parts);
          for (let at = 0; at < bytes.byteLength; at += step) {
            ws.send(bytes.subarray(at, at + step), { fin: at + step >= bytes.byteLength });
            ws.ping('x');
          }
          const own = Buffer.alloc(frameRoomBytes + bytes.byteLength);
          own.set(bytes, frameRoomBytes);
          await ours.send(own.subarray(frameRoomBytes), { room });
        }
        const expected = messages.map(({ bytes }) => Buffer.from(bytes).toString('hex'));
        const done = (): boolean => here.length === expected.length && there.length === expected.length;
        await expect.poll(done, { timeout: 5_000, interval: 2 }).toBe(true);
        expect(here.map((frame) => frame.toString('hex'))).toEqual(expected);
        expect(there.map((frame) => frame.toString('hex'))).toEqual(expected);
      }),
      { numRuns: 30 },
    );
    cuts = [MiB];
    ws.terminate();
    expect(await ours.closed).toMatchObject({ by: 'error', code: 1006 });
  });

  it('hears our close and its reason, after what we sent, and answers it', async () => {
    const { ours, ws } = await open();
    ours.onFrame(() => undefined);
    const frames: number[] = [];
    ws.on('message', (data: Buffer) => frames.push(data.byteLength));
    const heard = once(ws, 'close');
    const started = performance.now();
    void ours.send(Buffer.alloc(MiB));
    ours.close(4013, 'that is all');
    expect(await ours.closed).toEqual({ by: 'us', code: 4013, reason: 'that is all' });
    const [code, reason] = (await heard) as [number, Buffer];
    expect([code, reason.toString(), frames]).toEqual([4013, 'that is all', [MiB]]);
    expect(performance.now() - started).toBeLessThan(limits.wire.closeMs / 2);
  });

  it.each([
    [4001, 'enough'],
    [1000, ''],
    [1005, ''],
  ])('is heard when it closes with %i, and answered', async (code, reason) => {
    const { ours, ws } = await open();
    const frames: string[] = [];
    ours.onFrame((frame) => frames.push(String(frame)));
    const heard = once(ws, 'close');
    const started = performance.now();
    ws.send(Buffer.from('last words'));
    if (code === 1005) ws.close();
    else ws.close(code, reason);
    expect(await ours.closed).toEqual({ by: 'peer', code, reason });
    expect((await heard)[0]).toBe(code);
    expect(frames).toEqual(['last words']);
    expect(performance.now() - started).toBeLessThan(limits.wire.closeMs / 2);
  });

  it('is answered when it pings', async () => {
    const { ours, ws } = await open();
    ours.onFrame(() => undefined);
    const pong = once(ws, 'pong');
    ws.ping('still there?');
    expect(String((await pong)[0])).toBe('still there?');
    ours.close(1000, '');
    await ours.closed;
  });
});

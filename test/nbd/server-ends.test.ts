import { createServer } from 'node:net';
import { existsSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { connectNbd } from '../../src/nbd/client.ts';
import { command } from '../../src/nbd/constants.ts';
import { patchyContent } from './backend-contract.ts';
import { MemoryBackend } from './memory-backend.ts';
import { Place } from './serve.ts';
import { codeOf, enterOldStyle, gate, request, until } from './talk.ts';

let place: Place;
beforeEach(async () => {
  place = await Place.make();
});
afterEach(() => place.end());

describe('ends', () => {
  test('a client that vanishes mid-write leaves the disk as it was, and no connection behind', async () => {
    const memory = new MemoryBackend(Buffer.alloc(65_536, 7));
    const server = await place.serve(memory);
    const raw = place.raw(server);
    await enterOldStyle(raw);
    raw.say(request({ command: command.write, length: 4096 }), Buffer.alloc(4000, 1));
    await systemClock.sleep(20);
    raw.socket.destroy();
    await until(() => server.connections === 0, 'the connection is gone');
    expect(memory.calls.write).toBe(0);
    expect(memory.content.every((byte) => byte === 7)).toBe(true);
  });

  test('a client that vanishes while the disk works: the work ends, the next client is served', async () => {
    const slow = gate();
    const before = (call: string): Promise<void> | undefined => (call === 'read' ? slow.passed : undefined);
    const memory = new MemoryBackend(Buffer.alloc(65_536), { before });
    const server = await place.serve(memory);
    const client = await place.client(server);
    const reads = Array.from({ length: 20 }, () => codeOf(client.read(0, 65_536)));
    await until(() => memory.calls.read === 20, 'the reads have begun');
    client.destroy();
    expect(new Set(await Promise.all(reads))).toEqual(new Set(['closed']));
    const next = await place.client(server);
    slow.open();
    expect(await next.read(0, 10)).toEqual(Buffer.alloc(10));
    await until(() => server.connections === 1, 'the old connection is gone');
  });

  test.each(['DISC', 'end of stream'])('after %s, what is in flight is still answered', async (way) => {
    const slow = gate();
    const memory = new MemoryBackend(patchyContent(65_536), { before: () => slow.passed });
    const server = await place.serve(memory);
    const raw = place.raw(server);
    raw.socket.allowHalfOpen = way !== 'DISC';
    await enterOldStyle(raw);
    raw.say(request({ length: 65_536 }), request({ command: command.write, length: 4 }), Buffer.from('last'));
    if (way === 'DISC') raw.say(request({ command: command.disconnect, length: 0 }));
    else raw.socket.end();
    await until(() => memory.calls.write === 1, 'the write has begun');
    slow.open();
    expect(await raw.closed()).toHaveLength(16 + 65_536 + 16);
    expect(memory.content.toString('latin1', 0, 4)).toBe('last');
    await until(() => server.connections === 0, 'the connection is gone');
  });

  test('close answers what is in flight, takes nothing more, leaves no socket file', async () => {
    const slow = gate();
    const memory = new MemoryBackend(Buffer.alloc(4096), { before: () => slow.passed });
    const server = await place.serve(memory);
    const client = await place.client(server);
    const idle = await place.client(server);
    const write = client.write(Buffer.alloc(512, 1), 0);
    await until(() => memory.calls.write === 1, 'the write has begun');
    const closed = server.close();
    expect(await codeOf(idle.read(0, 1))).toBe('closed');
    slow.open();
    await write;
    await closed;
    await server.close();
    expect(server.connections).toBe(0);
    expect('unixPath' in server.address && existsSync(server.address.unixPath)).toBe(false);
    expect(await codeOf(place.client(server))).toBe('unreachable');
  });

  test('close does not wait for ever for a client that takes nothing', async () => {
    const quick: Clock = { ...systemClock, after: (ms, run) => systemClock.after(ms / 50, run) };
    const server = await place.serve(new MemoryBackend(Buffer.alloc(16 * MiB)), { clock: quick });
    const raw = place.raw(server);
    await enterOldStyle(raw);
    raw.socket.pause();
    raw.say(request({ length: 16 * MiB }));
    await systemClock.sleep(50);
    await server.close();
    expect(server.connections).toBe(0);
  });

  test('the client says good-bye after its last answer', async () => {
    const server = await place.serve(new MemoryBackend(Buffer.alloc(4096)));
    const client = await place.client(server);
    const write = client.write(Buffer.alloc(512, 1), 0);
    await client.close();
    await write;
    expect(await codeOf(client.read(0, 1))).toBe('closed');
    await until(() => server.connections === 0, 'the connection is gone');
  });
});

describe('listening', () => {
  const disk = (): MemoryBackend => new MemoryBackend(Buffer.alloc(4096));

  test('the socket file is private from its first moment', async () => {
    const server = await place.serve(disk(), { listen: { unixPath: place.file('private') } });
    expect(statSync(place.file('private')).mode & 0o777).toBe(0o600);
    expect(server.uri('a b/ü')).toBe(`nbd+unix:///a%20b%2F%C3%BC?socket=${place.file('private')}`);
  });

  test('a stale socket file is replaced; one that answers, and a file that is no socket, are not', async () => {
    const gone = createServer();
    await new Promise<void>((resolve) => gone.listen(place.file('before'), resolve));
    renameSync(place.file('before'), place.file('stale'));
    await new Promise((resolve) => gone.close(resolve));
    expect(existsSync(place.file('stale'))).toBe(true);
    const server = await place.serve(disk(), { listen: { unixPath: place.file('stale') } });
    expect((await place.client(server)).size).toBe(4096);
    expect(await codeOf(place.serve(disk(), { listen: { unixPath: place.file('stale') } }))).toBe('locked');
    expect((await place.client(server)).size).toBe(4096);
    writeFileSync(place.file('letter'), 'dear all');
    expect(await codeOf(place.serve(disk(), { listen: { unixPath: place.file('letter') } }))).toBe('bad-argument');
    expect(statSync(place.file('letter')).size).toBe(8);
  });

  test('a path too long, and an address others can reach, are refused', async () => {
    const unixPath = place.file('x'.repeat(120));
    expect(await codeOf(place.serve(disk(), { listen: { unixPath } }))).toBe('bad-argument');
    for (const host of ['0.0.0.0', '::', '192.0.2.1', 'example.org']) {
      expect(await codeOf(place.serve(disk(), { listen: { host, port: 0 } })), host).toBe('bad-argument');
    }
  });

  test('loopback TCP gets a real port and a URI; a port in use is refused', async () => {
    const server = await place.serve(disk(), { listen: { host: '127.0.0.1', port: 0 } });
    const { address } = server;
    expect('port' in address && address.port).toBeGreaterThan(0);
    if (!('port' in address)) return;
    expect(server.uri('disk')).toBe(`nbd://127.0.0.1:${address.port}/disk`);
    expect(await codeOf(place.serve(disk(), { listen: address }))).toBe('locked');
  });

  test('the client tells an absent server and one that speaks something else apart', async () => {
    const clock = systemClock;
    expect(await codeOf(connectNbd({ unixPath: place.file('nobody') }, { clock }))).toBe('unreachable');
    const other = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
    });
    await new Promise<void>((resolve) => other.listen(place.file('http'), resolve));
    expect(await codeOf(connectNbd({ unixPath: place.file('http') }, { clock }))).toBe('protocol-error');
    await new Promise((resolve) => other.close(resolve));
  });
});

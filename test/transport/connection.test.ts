import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import type { Connection } from '../../src/transport/connection.ts';
import type { Credentials } from '../../src/transport/credentials.ts';
import { frameRoomBytes } from '../../src/wire/frame.ts';
import { memoryPair } from './memory-connection.ts';
import { dial, makeSite, refusalOf, startServer } from './site.ts';
import type { TestServer, TestSite } from './site.ts';

let site: TestSite;
let agent: Credentials;
let server: TestServer;

beforeAll(async () => {
  site = await makeSite();
  agent = await site.credentials('agent', 'vm-1');
  server = await startServer(await site.credentials('process-server', 'ps-1'), { onConnection: () => undefined });
});

afterAll(async () => {
  await server.listener.close();
  site.remove();
});

interface Ends {
  client: Connection;
  far: Connection;
}

async function overTls(): Promise<Ends> {
  const client = await dial(server.listener.port, agent);
  return { client, far: await server.accepted() };
}

async function inMemory(): Promise<Ends> {
  const { client, server: far } = memoryPair();
  return { client, far };
}

function collect(connection: Connection): Buffer[] {
  const frames: Buffer[] = [];
  connection.onFrame((frame) => frames.push(frame));
  return frames;
}

const settled = (promise: Promise<unknown>): Promise<'settled' | 'waits'> =>
  Promise.race([
    promise.then(
      () => 'settled' as const,
      () => 'settled' as const,
    ),
    new Promise<'waits'>((resolve) => setTimeout(resolve, 150, 'waits')),
  ]);

describe.each([
  ['TLS', overTls],
  ['memory', inMemory],
])('the connection contract over %s', (_name, open) => {
  it('carries frames whole and in order, both ways, and what was sent before a close arrives before it', async () => {
    const { client, far } = await open();
    const [atServer, atClient] = [collect(far), collect(client)];
    const sizes = [8, 125, 126, 65_535, 65_536, 1 * MiB, limits.wire.frameBytesMax];
    for (const [index, size] of sizes.entries()) {
      await client.send(Buffer.alloc(size, index + 1));
      await far.send(Buffer.alloc(size, 255 - index));
    }
    void client.send(Buffer.from('last words'));
    client.close(4013, 'bye');
    expect(await far.closed).toEqual({ by: 'peer', code: 4013, reason: 'bye' });
    expect(await client.closed).toEqual({ by: 'us', code: 4013, reason: 'bye' });
    expect(atServer.map((frame) => frame.length)).toEqual([...sizes, 10]);
    expect(atClient.length).toBeLessThanOrEqual(sizes.length);
    expect(atServer[6]?.equals(Buffer.alloc(limits.wire.frameBytesMax, 7))).toBe(true);
    expect(client.bytesOut).toBeGreaterThan(5 * MiB);
    expect(far.bytesIn).toBeGreaterThan(5 * MiB);
  });

  it('keeps frames that come before the handler is set', async () => {
    const { client, far } = await open();
    await client.send(Buffer.from('early'));
    await new Promise((resolve) => setTimeout(resolve, 50));
    const frames = collect(far);
    await expect.poll(() => frames.map(String)).toEqual(['early']);
    client.close(1000, '');
    await client.closed;
  });

  it('does not resolve send while the peer is paused and the buffers are full, and goes on when it resumes', async () => {
    const { client, far } = await open();
    const frames = collect(far);
    far.pause();
    let sent = 0;
    let last = Promise.resolve();
    // The kernel's loopback buffers take some megabytes before it tells.
    for (; sent < 64; sent += 1) {
      last = client.send(Buffer.alloc(1 * MiB, sent));
      if ((await settled(last)) === 'waits') break;
    }
    expect(sent).toBeLessThan(64);
    expect(frames.length).toBeLessThanOrEqual(1);
    far.resume();
    await last;
    await expect.poll(() => frames.length).toBe(sent + 1);
    expect(frames.every((frame, index) => frame[0] === index && frame.length === MiB)).toBe(true);
    client.close(1000, '');
    await client.closed;
  });

  it('puts frames into memory the receiver gives, touching nothing around, and into no other', async () => {
    const { client, far } = await open();
    const taken: Buffer[] = [];
    const frames: Buffer[] = [];
    far.onFrame(
      (frame) => frames.push(frame),
      (bytes) => {
        const memory = Buffer.from(new ArrayBuffer(bytes + 100), 60, bytes);
        new Uint8Array(memory.buffer).fill(0xaa);
        taken.push(memory);
        return memory;
      },
    );
    const sizes = [1, 125, 126, 65_536, MiB];
    for (const [index, size] of sizes.entries()) await client.send(Buffer.alloc(size, index));
    await expect.poll(() => frames.length).toBe(sizes.length);
    for (const [index, size] of sizes.entries()) {
      expect(frames[index]).toBe(taken[index]);
      const whole = Buffer.from(taken[index]?.buffer ?? new ArrayBuffer(0));
      expect(
        whole.equals(Buffer.concat([Buffer.alloc(60, 0xaa), Buffer.alloc(size, index), Buffer.alloc(40, 0xaa)])),
      ).toBe(true);
    }
    expect(taken).toHaveLength(sizes.length);
    client.close(1000, '');
    await client.closed;
  });

  it('sends a frame with room before it as it is, whatever stood there', async () => {
    const { client, far } = await open();
    const [atServer, atClient] = [collect(far), collect(client)];
    const sizes = [1, 125, 126, 65_535, 65_536, MiB];
    for (const [index, size] of sizes.entries()) {
      for (const end of [client, far]) {
        const memory = Buffer.alloc(frameRoomBytes + 3 + size + 5, 0xaa);
        memory.fill(index, frameRoomBytes + 3, frameRoomBytes + 3 + size);
        await end.send(memory.subarray(frameRoomBytes + 3, frameRoomBytes + 3 + size), { room: true });
        expect(memory.subarray(0, 3).equals(Buffer.alloc(3, 0xaa))).toBe(true);
        expect(memory.subarray(frameRoomBytes + 3 + size).equals(Buffer.alloc(5, 0xaa))).toBe(true);
      }
    }
    for (const frames of [atServer, atClient]) {
      await expect.poll(() => frames.length).toBe(sizes.length);
      expect(frames.every((frame, index) => frame.equals(Buffer.alloc(sizes[index] ?? 0, index)))).toBe(true);
    }
    client.close(1000, '');
    await client.closed;
  });

  it('rejects a waiting send and every later one when it ends, and close counts once', async () => {
    const { client, far } = await open();
    collect(far);
    far.pause();
    let last = client.send(Buffer.alloc(MiB));
    while ((await settled(last)) === 'settled') last = client.send(Buffer.alloc(MiB));
    const failure = refusalOf(last);
    client.close(4016, 'first');
    client.close(4001, 'second');
    expect(await refusalOf(client.send(Buffer.alloc(8)))).toMatchObject({ code: 'closed', retryable: true });
    expect(await client.closed).toEqual({ by: 'us', code: 4016, reason: 'first' });
    expect(await failure).toMatchObject({ code: 'closed' });
  });
});

it('names a close with the code of timeout a deadline', async () => {
  const { client, far } = await overTls();
  collect(far);
  client.close(4009, 'nothing heard');
  expect(await client.closed).toEqual({ by: 'deadline', code: 4009, reason: 'nothing heard' });
  expect(await far.closed).toMatchObject({ by: 'peer', code: 4009 });
});

it('clips a long reason between characters', async () => {
  const { client, far } = await overTls();
  collect(far);
  client.close(4001, 'ü'.repeat(200));
  expect((await far.closed).reason).toBe('ü'.repeat(61));
});

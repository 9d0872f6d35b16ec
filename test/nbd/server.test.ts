import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { command, nbdError, option, optionReply } from '../../src/nbd/constants.ts';
import { encodeMetaData, encodeOption } from '../../src/nbd/options.ts';
import { patchyContent } from './backend-contract.ts';
import { MemoryBackend } from './memory-backend.ts';
import { Place } from './serve.ts';
import { codeOf, enterOldStyle, gate, hearSimple, request, until } from './talk.ts';

let place: Place;
beforeEach(async () => {
  place = await Place.make();
});
afterEach(() => place.end());

describe('serving', () => {
  test('flags of requests reach the backend', async () => {
    const memory = new MemoryBackend(Buffer.alloc(65_536, 1));
    const client = await place.client(await place.serve(memory));
    await client.write(Buffer.alloc(10, 2), 5, { fua: true });
    await client.zero(0, 4096, { fua: true });
    await client.zero(4096, 4096, { noHole: true });
    await client.trim(8192, 4096, { fua: true });
    await client.flush();
    expect(memory.fuaCalls).toBe(3);
    expect(memory.keptAllocated).toBe(1);
    expect(memory.calls).toEqual({ read: 0, write: 1, flush: 1, zero: 3, extents: 0 });
  });

  test('block status: extents, and one when one was asked for', async () => {
    const memory = new MemoryBackend(Buffer.concat([Buffer.alloc(8192), Buffer.alloc(4096, 1), Buffer.alloc(4096)]));
    const client = await place.client(await place.serve(memory));
    const hole = { zero: true, hole: true };
    const data = { zero: false, hole: false };
    expect(await client.blockStatus(100, 16_284)).toEqual([
      { length: 8092, ...hole },
      { length: 4096, ...data },
      { length: 4096, ...hole },
    ]);
    expect(await client.blockStatus(100, 50, { one: true })).toEqual([{ length: 50, ...hole }]);
    expect(await client.blockStatus(0, 16_384, { one: true })).toEqual([{ length: 8192, ...hole }]);
  });

  test('replies come in the order the disk finishes, not the order of asking', async () => {
    const slow = gate();
    const before = (_call: string, offset: number): Promise<void> | undefined =>
      offset === 0 ? slow.passed : undefined;
    const client = await place.client(await place.serve(new MemoryBackend(Buffer.alloc(8192, 3), { before })));
    const order: string[] = [];
    const first = client.read(0, 512).then(() => order.push('first'));
    const second = client.write(Buffer.alloc(512), 512).then(() => order.push('second'));
    await second;
    slow.open();
    await first;
    expect(order).toEqual(['second', 'first']);
  });

  test("the backend's errors keep their names, others are EIO and are logged; the connection goes on", async () => {
    let error: Error = new Problem('ENOSPC', 'no space left for the change log');
    const before = (call: string): void => {
      if (call === 'write') throw error;
    };
    const warned: string[] = [];
    const logger = { info: () => undefined, warn: (_fields: object, text: string) => warned.push(text) };
    const server = await place.serve(new MemoryBackend(Buffer.alloc(8192), { before }), { logger });
    const client = await place.client(server);
    const failure = await client.write(Buffer.alloc(512), 0).catch((reason: unknown) => reason);
    expect(failure).toMatchObject({ code: 'ENOSPC', message: 'no space left for the change log' });
    for (const code of ['EIO', 'EINVAL', 'EPERM', 'ESHUTDOWN']) {
      error = new Problem(code, 'as told');
      expect(await codeOf(client.write(Buffer.alloc(512), 0))).toBe(code);
    }
    expect(warned).toEqual([]);
    error = new Error('a bug');
    expect(await codeOf(client.write(Buffer.alloc(512), 0))).toBe('EIO');
    error = new Problem('bad-image', 'no NBD error');
    expect(await codeOf(client.write(Buffer.alloc(512), 0))).toBe('EIO');
    expect(warned).toHaveLength(2);
    expect(await client.read(0, 512)).toEqual(Buffer.alloc(512));
  });

  test('exports: by name, by default, none of that name', async () => {
    const disks = new Map([
      ['a', new MemoryBackend(Buffer.alloc(512))],
      ['b', new MemoryBackend(Buffer.alloc(1024), { multiConnection: false })],
    ]);
    const server = await place.serve(disks, { defaultExport: 'b' });
    expect((await place.client(server, 'a')).size).toBe(512);
    expect((await place.client(server)).size).toBe(1024);
    expect((await place.client(server, 'a')).flags & 256).toBe(256);
    expect((await place.client(server, 'b')).flags & 256).toBe(0);
    expect(await codeOf(place.client(server, 'c'))).toBe('not-found');
    disks.delete('a');
    expect(await codeOf(place.client(server, 'a'))).toBe('not-found');
  });

  test('the oldest clients: EXPORT_NAME and simple replies', async () => {
    const content = patchyContent(4096);
    const raw = place.raw(await place.serve(new MemoryBackend(content)));
    // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN; no DF without structured replies.
    expect(await enterOldStyle(raw)).toEqual({ size: 4096, flags: 1 | 4 | 8 | 32 | 64 | 256 });
    raw.say(request({ offset: 100, length: 50 }));
    expect(await hearSimple(raw)).toEqual({ error: 0, cookie: 7n });
    expect((await raw.hear(50)).equals(content.subarray(100, 150))).toBe(true);
    raw.say(request({ command: command.blockStatus }));
    expect((await hearSimple(raw)).error).toBe(nbdError.EINVAL);
  });

  test('a read-only export refuses every change with EPERM and goes on serving', async () => {
    const memory = new MemoryBackend(patchyContent(65_536), { readOnly: true });
    const client = await place.client(await place.serve(memory));
    expect(client.readOnly).toBe(true);
    expect(await codeOf(client.write(Buffer.alloc(4096), 0))).toBe('EPERM');
    expect(await codeOf(client.zero(0, 4096))).toBe('EPERM');
    expect(await codeOf(client.trim(0, 4096))).toBe('EPERM');
    expect(memory.calls.write + memory.calls.zero).toBe(0);
    expect((await client.read(0, 65_536)).equals(memory.content)).toBe(true);
  });
});

describe('bounds', () => {
  test('a client that does not read stops being read from: data in flight stays below its bound', async () => {
    const memory = new MemoryBackend(patchyContent(2 * MiB));
    const raw = place.raw(await place.serve(memory));
    await enterOldStyle(raw);
    raw.socket.pause();
    const asked = 120;
    for (let index = 0; index < asked; index += 1) raw.say(request({ cookie: BigInt(index), length: MiB }));
    const most = limits.nbd.inFlightBytesMax / MiB;
    await until(() => memory.calls.read >= most, 'reads up to the bound');
    await systemClock.sleep(100);
    // The kernel's socket buffer may have swallowed one or two replies.
    expect(memory.calls.read).toBeLessThanOrEqual(most + 2);
    raw.socket.resume();
    await raw.hear(asked * (16 + MiB));
    expect(memory.calls.read).toBe(asked);
  });

  test('a slow disk stops the socket: requests in flight stay below their bound, none is lost', async () => {
    const slow = gate();
    const memory = new MemoryBackend(Buffer.alloc(65_536), { before: () => slow.passed });
    const client = await place.client(await place.serve(memory));
    const writes = Array.from({ length: 700 }, (_, index) => client.write(Buffer.alloc(64, index), index * 64));
    await until(() => memory.calls.write === limits.nbd.inFlightRequestsMax, 'requests up to the bound');
    await systemClock.sleep(50);
    expect(memory.calls.write).toBe(limits.nbd.inFlightRequestsMax);
    slow.open();
    await Promise.all(writes);
    writes.forEach((_, index) => expect(memory.content[index * 64]).toBe(index % 256));
  });

  test('forged lengths and offsets are refused, take no memory, and the connection goes on', async () => {
    const memory = new MemoryBackend(Buffer.alloc(65_536));
    const raw = place.raw(await place.serve(memory));
    await enterOldStyle(raw);
    const before = process.memoryUsage().arrayBuffers;
    const longest = 0xffff_ffff;
    for (const [parts, error] of [
      [{ length: longest }, nbdError.EINVAL],
      [{ offset: 2 ** 63 }, nbdError.EINVAL],
      [{ command: command.trim, length: longest }, nbdError.EINVAL],
      [{ command: command.writeZeroes, length: longest }, nbdError.ENOSPC],
      [{ command: 99 }, nbdError.EINVAL],
      [{ flags: 0xffff }, nbdError.EINVAL],
    ] as const) {
      raw.say(request(parts));
      expect(await hearSimple(raw)).toEqual({ error, cookie: 7n });
    }
    // The payload of a refused write passes by before the answer comes.
    raw.say(request({ command: command.write, offset: 65_000, length: 1000, cookie: 8n }), Buffer.alloc(999, 1));
    await systemClock.sleep(20);
    raw.say(Buffer.alloc(1), request({ cookie: 9n }));
    expect(await hearSimple(raw)).toEqual({ error: nbdError.ENOSPC, cookie: 8n });
    expect(await hearSimple(raw)).toEqual({ error: 0, cookie: 9n });
    await raw.hear(512);
    const long = limits.nbd.requestBytesMax + 1;
    raw.say(request({ command: command.write, length: long, cookie: 10n }));
    for (let left = long; left > 0; left -= MiB) raw.say(Buffer.alloc(Math.min(left, MiB), 1));
    expect(await hearSimple(raw)).toEqual({ error: nbdError.EINVAL, cookie: 10n });
    raw.say(request({ command: command.write, length: longest }), Buffer.alloc(1000));
    await systemClock.sleep(20);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(96 * MiB);
    expect(memory.content.every((byte) => byte === 0)).toBe(true);
    expect(memory.calls).toEqual({ read: 1, write: 0, flush: 0, zero: 0, extents: 0 });
  });

  test('a request without its magic number ends the connection', async () => {
    const server = await place.serve(new MemoryBackend(Buffer.alloc(4096)));
    const raw = place.raw(server);
    await enterOldStyle(raw);
    raw.say(Buffer.alloc(28, 0x41));
    expect(await raw.closed()).toHaveLength(0);
    await until(() => server.connections === 0, 'the connection is gone');
  });

  test('a client that only haggles is shown out; a long option is skipped and refused', async () => {
    const raw = place.raw(await place.serve(new MemoryBackend(Buffer.alloc(4096))));
    await raw.hear(18);
    raw.say(Buffer.from([0, 0, 0, 3]), encodeOption(option.info, Buffer.alloc(limits.nbd.optionBytesMax + 1)));
    const refusal = await raw.hear(20);
    expect(refusal.readUInt32BE(12)).toBe(optionReply.tooBig);
    await raw.hear(refusal.readUInt32BE(16));
    for (const code of [option.startTls, 4, 11, 4711]) {
      raw.say(encodeOption(code, Buffer.alloc(0)));
      const reply = await raw.hear(20);
      expect(reply.readUInt32BE(8)).toBe(code);
      expect(reply.readUInt32BE(12)).toBe(optionReply.unsupported);
      await raw.hear(reply.readUInt32BE(16));
    }
    raw.say(encodeOption(option.setMetaContext, encodeMetaData('disk', ['base:allocation'])));
    expect((await raw.hear(20)).readUInt32BE(12), 'contexts need structured replies').toBe(optionReply.invalid);
    for (let index = 0; index < limits.nbd.optionsMax; index += 1) raw.say(encodeOption(option.list, Buffer.alloc(0)));
    await raw.closed();
  });

  test('a silent client is shown out after the deadline', async () => {
    const quick: Clock = { ...systemClock, after: (ms, run) => systemClock.after(ms / 200, run) };
    const server = await place.serve(new MemoryBackend(Buffer.alloc(4096)), { clock: quick });
    const raw = place.raw(server);
    await raw.closed();
    await until(() => server.connections === 0, 'the connection is gone');
  });

  test('a hundred garbage connections do not disturb an honest one', async () => {
    const memory = new MemoryBackend(Buffer.alloc(MiB));
    const server = await place.serve(memory);
    const client = await place.client(server);
    let state = 12345;
    const garbage = Array.from({ length: 100 }, async (_, index) => {
      const raw = place.raw(server);
      const noise = Buffer.alloc(200 + index * 50, 0).map(
        () => (state = (state * 1103515245 + 12345) & 0xffff_ffff) >>> 16,
      );
      if (index % 3 === 0) raw.say(noise);
      else if (index % 3 === 1) raw.say(Buffer.from([0, 0, 0, 3]), noise);
      else {
        await enterOldStyle(raw);
        raw.say(noise);
      }
      await raw.closed();
    });
    for (let index = 0; index < 200; index += 1) {
      await client.write(Buffer.alloc(4096, index), index * 4096);
      expect((await client.read(index * 4096, 4096))[17]).toBe(index);
    }
    await Promise.all(garbage);
    await until(() => server.connections === 1, 'only the honest one is left');
    await client.flush();
  });
});

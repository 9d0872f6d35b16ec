/** A connection against a peer of which every byte is ours, over plain TCP: closes, pauses, pings, memory. */
import { once } from 'node:events';
import * as net from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { WsConnection } from '../../src/transport/ws-connection.ts';
import { frameRoomBytes } from '../../src/wire/frame.ts';
import { testPeer } from './memory-connection.ts';
import { rawFrame } from './raw-frame.ts';
import { refusalOf } from './site.ts';

const open: net.Socket[] = [];

afterEach(() => {
  for (const socket of open.splice(0)) socket.destroy();
});

/** A server's connection, the socket under it, and a raw client. */
async function ends(): Promise<{ far: WsConnection; socket: net.Socket; raw: net.Socket; heard: () => Buffer }> {
  const listener = net.createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const raw = net.connect({ port: (listener.address() as net.AddressInfo).port, allowHalfOpen: true });
  const [socket] = (await once(listener, 'connection')) as [net.Socket];
  listener.close();
  open.push(raw, socket);
  raw.on('error', () => undefined);
  const heard: Buffer[] = [];
  raw.on('data', (bytes: Buffer) => heard.push(bytes));
  const far = new WsConnection({ socket, side: 'server', peer: testPeer('agent', 'vm-1'), clock: systemClock });
  return { far, socket, raw, heard: () => Buffer.concat(heard) };
}

function collect(connection: WsConnection): Buffer[] {
  const frames: Buffer[] = [];
  connection.onFrame((frame) => frames.push(frame));
  return frames;
}

const text = (value: string): Buffer => Buffer.from(value);
const quiet = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const closeFrame = (code: number, reason = ''): Buffer =>
  rawFrame({ opcode: 8, payload: Buffer.concat([Uint8Array.of(code >> 8, code & 255), text(reason)]) });
/** What a server sends: not masked. */
const answer = (opcode: number, payload: Uint8Array): Buffer => rawFrame({ opcode, payload, mask: null });

describe('a close', () => {
  it('of ours waits for the one of the peer, takes no frame meanwhile, and ends by itself', async () => {
    const { far, raw, heard } = await ends();
    const frames = collect(far);
    far.close(4016, 'enough');
    await expect
      .poll(() => heard().toString('hex'))
      .toBe(answer(8, Buffer.concat([Uint8Array.of(0x0f, 0xb0), text('enough')])).toString('hex'));
    raw.write(Buffer.concat([rawFrame({ payload: text('late') }), rawFrame({ opcode: 9 })]));
    await quiet(50);
    const started = performance.now();
    raw.end(closeFrame(4016));
    expect(await far.closed).toEqual({ by: 'us', code: 4016, reason: 'enough' });
    expect(performance.now() - started).toBeLessThan(limits.wire.closeMs / 2);
    expect(frames).toEqual([]);
    expect(heard()).toHaveLength(10); // No pong behind a close.
  });

  it('of ours while paused sees the one of the peer, behind all it drops', async () => {
    const { far, raw } = await ends();
    const frames = collect(far);
    far.pause();
    raw.write(rawFrame({ payload: Buffer.alloc(4 * MiB) }));
    await quiet(50);
    const started = performance.now();
    far.close(1000, '');
    raw.end(closeFrame(1000));
    expect(await far.closed).toMatchObject({ by: 'us' });
    expect(performance.now() - started).toBeLessThan(limits.wire.closeMs / 2);
    expect(frames).toEqual([]);
  });

  it('of the peer is answered with its code after the frames before it, and nothing behind it counts', async () => {
    const { far, raw, heard } = await ends();
    const frames = collect(far);
    const all = [rawFrame({ payload: text('a') }), closeFrame(4001, 'bye'), rawFrame({ payload: text('b') })];
    const started = performance.now();
    raw.write(Buffer.concat(all));
    await once(raw, 'end');
    expect(performance.now() - started).toBeLessThan(limits.wire.closeMs / 2);
    expect(heard().toString('hex')).toBe(answer(8, Uint8Array.of(0x0f, 0xa1)).toString('hex'));
    raw.end();
    expect(await far.closed).toEqual({ by: 'peer', code: 4001, reason: 'bye' });
    expect(frames.map(String)).toEqual(['a']);
    expect(await refusalOf(far.send(text('x')))).toMatchObject({ code: 'closed', retryable: true });
  });

  it('of the peer without a code is answered without one', async () => {
    const { far, raw, heard } = await ends();
    collect(far);
    raw.end(rawFrame({ opcode: 8 }));
    expect(await far.closed).toEqual({ by: 'peer', code: 1005, reason: '' });
    expect(heard().toString('hex')).toBe('8800');
  });

  it.each([
    ['with a rule broken', rawFrame({ reserved: 4 }), 1002, 'error'],
    ['with text', rawFrame({ opcode: 1, payload: text('{}') }), 1003, 'us'],
    ['with a message too long', rawFrame({ length: BigInt(limits.wire.frameBytesMax) + 1n }), 1009, 'error'],
  ])('%s says why, drops what still comes, and needs no close frame back', async (_how, bad, code, by) => {
    const { far, raw, heard } = await ends();
    const frames = collect(far);
    const started = performance.now();
    raw.write(Buffer.concat([bad, rawFrame({ payload: Buffer.alloc(MiB) })]));
    await once(raw, 'end');
    expect(performance.now() - started).toBeLessThan(limits.wire.closeMs / 2);
    expect(heard().readUInt16BE(2)).toBe(code);
    raw.end();
    expect(await far.closed).toMatchObject({ by, code });
    expect(frames).toEqual([]);
  });

  it('without a close frame is the loss of the connection, at once', async () => {
    const { far, raw } = await ends();
    collect(far);
    const started = performance.now();
    raw.end(rawFrame({ length: 100n, payload: text('half of it') }));
    expect(await far.closed).toMatchObject({ by: 'error', code: 1006 });
    expect(performance.now() - started).toBeLessThan(limits.wire.closeMs / 2);
  });

  it.each([
    ['that closes', (raw: net.Socket) => void raw.write(closeFrame(1000)), { by: 'peer', code: 1000 }],
    ['that ends', (raw: net.Socket) => void raw.end(), { by: 'error', code: 1006 }],
  ])('of a peer %s and does not read is over at the deadline, sends with it', async (_how, leave, expected) => {
    const { far, raw } = await ends();
    collect(far);
    raw.pause();
    const failures = Promise.all(
      Array.from({ length: 16 }, () => far.send(Buffer.alloc(MiB)).catch((error: unknown) => error)),
    );
    leave(raw);
    const started = performance.now();
    expect(await far.closed).toMatchObject(expected);
    expect(performance.now() - started).toBeGreaterThan(limits.wire.closeMs - 100);
    expect(performance.now() - started).toBeLessThan(limits.wire.closeMs + 1500);
    expect((await failures).at(-1)).toMatchObject({ code: 'closed' });
  });

  it('ends a send though the socket never says what became of it', async () => {
    const { far, socket } = await ends();
    socket.write = () => true;
    const failure = refusalOf(far.send(text('lost')));
    socket.destroy();
    expect(await far.closed).toMatchObject({ by: 'error', code: 1006 });
    expect(await failure).toMatchObject({ code: 'closed' });
  });

  it('may come from the handler of a frame, and the frames behind it in the same read are dropped', async () => {
    const { far, raw } = await ends();
    const frames: string[] = [];
    far.onFrame((frame) => {
      frames.push(String(frame));
      far.close(4000, '');
    });
    raw.end(Buffer.concat([rawFrame({ payload: text('a') }), rawFrame({ payload: text('b') }), closeFrame(4000)]));
    expect(await far.closed).toMatchObject({ by: 'us', code: 4000 });
    expect(frames).toEqual(['a']);
  });
});

describe('a pause', () => {
  it('in the middle of a frame keeps what came of it', async () => {
    const { far, raw } = await ends();
    const frames = collect(far);
    const whole = rawFrame({ payload: Buffer.alloc(MiB, 7) });
    raw.write(whole.subarray(0, 500_000));
    await expect.poll(() => far.bytesIn).toBe(500_000);
    far.pause();
    raw.write(whole.subarray(500_000));
    await quiet(50);
    expect(frames).toEqual([]);
    far.resume();
    await expect.poll(() => frames.length).toBe(1);
    expect(frames[0]?.equals(Buffer.alloc(MiB, 7))).toBe(true);
  });

  it('lets through what one read brought, no more', async () => {
    const { far, raw } = await ends();
    let frames = 0;
    far.onFrame(() => {
      frames += 1;
      far.pause();
    });
    const payload = Buffer.alloc(10_000);
    for (let sent = 0; sent < 400; sent += 1) raw.write(rawFrame({ payload }));
    await quiet(100);
    expect(frames).toBeGreaterThan(0);
    expect(frames).toBeLessThanOrEqual(Math.ceil(65_536 / 10_000));
    while (frames < 400) {
      far.resume();
      await quiet(1);
    }
  });
});

describe('pings', () => {
  it('are answered, in the middle of a message too', async () => {
    const { far, raw, heard } = await ends();
    const frames = collect(far);
    raw.write(rawFrame({ final: false, payload: text('a') }));
    raw.write(rawFrame({ opcode: 9, payload: text('there?') }));
    await expect.poll(() => heard().toString('hex')).toBe(answer(10, text('there?')).toString('hex'));
    raw.write(rawFrame({ opcode: 0, payload: text('b') }));
    await expect.poll(() => frames.map(String)).toEqual(['ab']);
  });

  it('that come faster than they are read have one answer waiting, for the newest', async () => {
    const { far, raw, heard } = await ends();
    collect(far);
    raw.pause();
    const stuck = [far.send(Buffer.alloc(4 * MiB)), far.send(Buffer.alloc(4 * MiB))];
    for (let turn = 0; turn < 10; turn += 1) {
      const many = Array.from({ length: 500 }, (_none, at) => rawFrame({ opcode: 9, payload: text(`${turn}.${at}`) }));
      raw.write(Buffer.concat(many));
    }
    await expect.poll(() => far.bytesIn).toBe(raw.bytesWritten);
    raw.resume();
    await Promise.all(stuck);
    const pongs = Buffer.concat([answer(10, text('0.0')), answer(10, text('9.499'))]);
    await expect
      .poll(
        () =>
          heard()
            .subarray(2 * (4 * MiB + 10))
            .toString(),
        { timeout: 5_000 },
      )
      .toBe(pongs.toString());
  });
});

describe('memory', () => {
  it.each([1, 125, 126, 65_535, 65_536, MiB])(
    'before a frame of %i bytes is written to where it may be, only',
    async (size) => {
      const { far, heard } = await ends();
      const payload = Buffer.alloc(size, 1);
      const around = Buffer.alloc(frameRoomBytes + size, 0xaa);
      around.set(payload, frameRoomBytes);
      const expected = answer(2, payload);
      const untouched = Buffer.from(around);
      await far.send(around.subarray(frameRoomBytes));
      expect(around.equals(untouched)).toBe(true);
      await far.send(around.subarray(frameRoomBytes), { room: true });
      const header = expected.byteLength - size;
      expect(around.subarray(frameRoomBytes - header).equals(expected)).toBe(true);
      await expect.poll(() => heard().equals(Buffer.concat([expected, expected]))).toBe(true);
    },
  );

  it('of a peer that sends a header and then nothing is that of one frame', async () => {
    const { far, raw } = await ends();
    const taken: number[] = [];
    far.onFrame(
      () => undefined,
      (bytes) => {
        taken.push(bytes);
        return Buffer.alloc(bytes);
      },
    );
    raw.write(rawFrame({ length: BigInt(limits.wire.frameBytesMax), payload: text('x') }));
    await quiet(100);
    expect(taken).toEqual([limits.wire.frameBytesMax]);
    raw.destroy();
    expect(await far.closed).toMatchObject({ by: 'error' });
  });

  it('of a frame longer than its receiver takes now is not taken, and the connection ends', async () => {
    const { far, raw } = await ends();
    const taken: number[] = [];
    far.onFrame(
      () => undefined,
      (bytes) => {
        taken.push(bytes);
        return Buffer.alloc(bytes);
      },
      () => 100,
    );
    raw.write(Buffer.concat([rawFrame({ payload: Buffer.alloc(100) }), rawFrame({ length: 101n })]));
    await expect.poll(() => taken).toEqual([100]);
    raw.end(closeFrame(1009));
    expect(await far.closed).toMatchObject({ by: 'error', code: 1009 });
    expect(taken).toEqual([100]);
  });

  it('of what was read goes back at once, unless somebody else has a part in it', async () => {
    const { far, socket, raw } = await ends();
    const chunks: Buffer[] = [];
    socket.prependListener('data', (chunk: Buffer) => chunks.push(chunk));
    socket.pause();
    const frames = collect(far);
    raw.write(rawFrame({ payload: Buffer.alloc(100_000, 1) }));
    await expect.poll(() => frames.length).toBe(1);
    expect(chunks.length).toBeGreaterThan(0);
    expect(chunks.filter((chunk) => chunk.byteLength > 0)).toEqual([]);
    // A read that lies between others, as what came with the handshake does.
    const shared = Buffer.alloc(1000, 5);
    const part = rawFrame({ payload: text('part') });
    part.copy(shared, 100);
    socket.emit('data', shared.subarray(100, 100 + part.byteLength));
    expect(frames[1]?.toString()).toBe('part');
    expect(shared.byteLength).toBe(1000);
    expect(frames[0]?.equals(Buffer.alloc(100_000, 1))).toBe(true);
  });

  it('of a frame given away takes no other with it', async () => {
    const { far, raw } = await ends();
    const frames = collect(far);
    const sizes = [10, 5_000, 100, 200_000, 1, 3_000, MiB, 7];
    raw.write(Buffer.concat(sizes.map((size, at) => rawFrame({ payload: Buffer.alloc(size, at) }))));
    await expect.poll(() => frames.length).toBe(sizes.length);
    for (const frame of [frames[3], frames[6]]) {
      expect(frame?.byteLength).toBe(frame?.buffer.byteLength);
      if (frame) structuredClone(frame.buffer, { transfer: [frame.buffer as ArrayBuffer] });
    }
    for (const at of [0, 1, 2, 4, 5, 7]) expect(frames[at]?.equals(Buffer.alloc(sizes[at] ?? 0, at))).toBe(true);
  });
});

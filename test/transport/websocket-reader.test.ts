/** The reader of RFC 6455 frames: against what `ws` writes, cut anywhere, and against hand-made frames that break every rule. */
import * as http from 'node:http';
import { once } from 'node:events';
import { duplexPair } from 'node:stream';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { limits } from '../../src/limits.ts';
import { WebSocketReader } from '../../src/transport/websocket-reader.ts';
import { rawFrame as frame } from './raw-frame.ts';

const { frameBytesMax, fragmentsMax } = limits.wire;

/** Everything a reader gave out, in order; bytes in hex. */
class Recorded {
  readonly events: string[] = [];
  readonly taken: number[] = [];
  readonly reader: WebSocketReader;
  bytesMax = Infinity;
  onMessage: () => void = () => undefined;

  constructor(masked: boolean) {
    this.reader = new WebSocketReader(masked, {
      take: (bytes) => {
        this.taken.push(bytes);
        return Buffer.from(new ArrayBuffer(bytes + 20), 9, bytes);
      },
      bytesMax: () => this.bytesMax,
      message: (message) => {
        this.events.push(`message ${message.toString('hex')}`);
        this.onMessage();
      },
      ping: (payload) => this.events.push(`ping ${payload.toString('hex')}`),
      close: (code, reason) => this.events.push(`close ${code} ${reason}`),
      refused: (code) => this.events.push(`refused ${code}`),
    });
  }

  /** In chunks of these sizes, over and over. Each is wiped when it was taken: nothing given out may be a view of one. */
  feed(bytes: Uint8Array, sizes: readonly number[] = [bytes.byteLength]): this {
    let at = 0;
    for (let turn = 0; at < bytes.byteLength; turn += 1) {
      const chunk = Uint8Array.from(bytes.subarray(at, (at += sizes[turn % sizes.length] ?? 1)));
      this.reader.push(chunk);
      chunk.fill(0xee);
      chunk.buffer.transfer(0);
    }
    return this;
  }
}

const text = (value: string): Buffer => Buffer.from(value);
const client = (bytes: Uint8Array): string[] => new Recorded(true).feed(bytes).events;

/** Two `ws` ends joined in memory, and a copy (they unmask in place) of all that crossed since they were open. */
async function wsPair(): Promise<{ ends: Record<Side, WebSocket>; wrote: Record<Side, Buffer[]> }> {
  const [clientEnd, clientTap] = duplexPair();
  const [serverEnd, serverTap] = duplexPair();
  const wrote = { client: [] as Buffer[], server: [] as Buffer[] };
  clientTap.on('data', (bytes: Buffer) => (wrote.client.push(Buffer.from(bytes)), serverTap.write(bytes)));
  serverTap.on('data', (bytes: Buffer) => (wrote.server.push(Buffer.from(bytes)), clientTap.write(bytes)));
  clientTap.on('end', () => serverTap.end());
  serverTap.on('end', () => clientTap.end());
  const server = http.createServer();
  const listener = new WebSocketServer({ server, perMessageDeflate: false });
  const accepted = once(listener, 'connection');
  const ws = new WebSocket('ws://memory', { createConnection: () => clientEnd, perMessageDeflate: false });
  server.emit('connection', serverEnd);
  await once(ws, 'open');
  const [far] = (await accepted) as [WebSocket];
  wrote.client.length = 0;
  wrote.server.length = 0;
  return { ends: { client: ws, server: far }, wrote };
}

type Side = 'client' | 'server';

const bytes = (maxLength: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ maxLength });
/** A message in parts, with pings and pongs of others between. */
const message = fc.record({
  parts: fc.array(fc.oneof(bytes(200), bytes(70_000)), { minLength: 1, maxLength: 4, size: 'max' }),
  between: fc.array(fc.tuple(fc.constantFrom('ping' as const, 'pong' as const), bytes(125)), { maxLength: 3 }),
});
const cuts = fc.oneof(
  fc.constant([1]),
  fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 30 }),
  fc.array(fc.integer({ min: 1, max: 40_000 }), { minLength: 1, maxLength: 30 }),
);

describe('what ws writes', () => {
  it.each(['client', 'server'] as const)('as a %s is read the same, cut anywhere', async (side) => {
    await fc.assert(
      fc.asyncProperty(fc.array(message, { maxLength: 5 }), cuts, async (messages, sizes) => {
        const { ends, wrote } = await wsPair();
        const sender = ends[side];
        const expected: string[] = [];
        for (const { parts, between } of messages) {
          for (const [at, part] of parts.entries()) {
            sender.send(part, { binary: true, fin: at === parts.length - 1 });
            const control = between[at];
            if (!control || at === parts.length - 1) continue;
            sender[control[0]](control[1]);
            if (control[0] === 'ping') expected.push(`ping ${Buffer.from(control[1]).toString('hex')}`);
          }
          expected.push(`message ${Buffer.concat(parts).toString('hex')}`);
        }
        sender.close(4001, 'enough');
        expected.push('close 4001 enough');
        await Promise.all([once(ends.client, 'close'), once(ends.server, 'close')]);
        const read = new Recorded(side === 'client').feed(Buffer.concat(wrote[side]), sizes);
        expect(read.events).toEqual(expected);
        const whole = messages.map(({ parts }) => Buffer.concat(parts).byteLength);
        expect(read.taken).toEqual(whole.filter((length) => length > 0));
      }),
      { numRuns: 40 },
    );
  });

  it('is a close without a code, too', async () => {
    const { ends, wrote } = await wsPair();
    ends.server.close();
    await once(ends.client, 'close');
    expect(new Recorded(false).feed(Buffer.concat(wrote.server)).events).toEqual(['close 1005 ']);
  });
});

it('unmasks with any mask, wherever the chunks end', () => {
  const mask = fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255));
  fc.assert(
    fc.property(mask, bytes(300), cuts, (key, payload, sizes) => {
      const { events } = new Recorded(true).feed(frame({ mask: key, payload }), sizes);
      expect(events).toEqual([`message ${Buffer.from(payload).toString('hex')}`]);
    }),
  );
});

describe('a peer that breaks a rule is refused', () => {
  const part = frame({ final: false, payload: text('a') });
  const rest = frame({ opcode: 0, payload: text('b') });
  it.each<[string, number, Buffer]>([
    ['reserved bit 1', 1002, frame({ reserved: 4, payload: text('a') })],
    ['reserved bit 2', 1002, frame({ reserved: 2 })],
    ['reserved bit 3', 1002, frame({ reserved: 1 })],
    ['reserved bits of a control frame', 1002, frame({ reserved: 4, opcode: 9 })],
    ['a client that does not mask', 1002, frame({ mask: null, payload: text('a') })],
    ['a client that does not mask a ping', 1002, frame({ mask: null, opcode: 9 })],
    ...[3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map((opcode): [string, number, Buffer] => [
      `opcode ${opcode}`,
      1002,
      frame({ opcode }),
    ]),
    ['text', 1003, frame({ opcode: 1, payload: text('{}') })],
    ['text in fragments', 1003, frame({ opcode: 1, final: false, payload: text('{}') })],
    ['a message within another', 1002, Buffer.concat([part, frame({ payload: text('c') })])],
    ['text within a message', 1002, Buffer.concat([part, frame({ opcode: 1, payload: text('c') })])],
    ['the rest of no message', 1002, rest],
    ['a ping in fragments', 1002, frame({ opcode: 9, final: false })],
    ['a ping of 126 bytes', 1002, frame({ opcode: 9, payload: Buffer.alloc(126) })],
    ['a close of 70,000 bytes', 1002, frame({ opcode: 8, payload: Buffer.alloc(70_000) })],
    ['a close of one byte', 1002, frame({ opcode: 8, payload: Uint8Array.of(3) })],
    ...[0, 999, 1004, 1005, 1006, 1015, 2999, 5000].map((code): [string, number, Buffer] => [
      `a close with code ${code}`,
      1002,
      frame({ opcode: 8, payload: Uint8Array.of(code >> 8, code & 255) }),
    ]),
    ['a message one byte too long', 1009, frame({ length: BigInt(frameBytesMax) + 1n })],
    ['a length of 2^63', 1009, frame({ length: 2n ** 63n })],
    ['a length whose lower half would do', 1009, frame({ length: 2n ** 32n + 1n })],
  ])('%s', (_what, code, bad) => {
    // Nothing before is lost, nothing behind is looked at, however the bytes come.
    const good = frame({ payload: text('good') });
    const all = Buffer.concat([good, bad, good]);
    const expected = [`message ${text('good').toString('hex')}`, `refused ${code}`];
    expect(client(all)).toEqual(expected);
    expect(new Recorded(true).feed(all, [1]).events).toEqual(expected);
  });

  it('a server that masks, though it be with 0', () => {
    expect(new Recorded(false).feed(frame({ mask: [0, 0, 0, 0], payload: text('a') })).events).toEqual([
      'refused 1002',
    ]);
  });

  it('fragments that are too many, or together too long', () => {
    const first = frame({ final: false });
    const more = frame({ final: false, opcode: 0 });
    const last = frame({ opcode: 0, payload: text('z') });
    const many = Array.from({ length: fragmentsMax - 2 }, () => more);
    expect(client(Buffer.concat([first, ...many, last]))).toEqual(['message 7a']);
    expect(client(Buffer.concat([first, ...many, more, last]))).toEqual(['refused 1008']);
    const half = Buffer.alloc(frameBytesMax / 2);
    const halves = [frame({ final: false, payload: half }), frame({ final: false, opcode: 0, payload: half })];
    expect(client(Buffer.concat([...halves, last]))).toEqual(['refused 1009']);
    expect(client(Buffer.concat([...halves, frame({ opcode: 0 })]))[0]).toHaveLength(
      'message '.length + frameBytesMax * 2,
    );
  });
});

describe('memory', () => {
  it('is taken for one message at a time, of a length that was checked, and not before its header is whole', () => {
    const read = new Recorded(true);
    const large = frame({ length: BigInt(frameBytesMax) });
    read.feed(large.subarray(0, -1));
    expect(read.taken).toEqual([]);
    read.feed(large.subarray(-1));
    expect(read.taken).toEqual([frameBytesMax]);
    read.feed(Buffer.alloc(frameBytesMax - 1));
    expect(read.taken).toEqual([frameBytesMax]);
    expect(read.events).toEqual([]);
    expect(read.feed(Buffer.alloc(1)).events).toHaveLength(1);
    const over = new Recorded(true).feed(frame({ length: BigInt(frameBytesMax) + 1n }));
    expect(over.feed(Buffer.alloc(1000)).taken).toEqual([]);
  });

  it('is not taken for a message that is longer than its receiver takes when it begins', () => {
    const message = frame({ payload: Buffer.alloc(1000) });
    const first = frame({ final: false, payload: Buffer.alloc(990) });
    for (const fragments of [[message], [first, frame({ opcode: 0, payload: Buffer.alloc(10) })]]) {
      const read = new Recorded(true);
      read.bytesMax = 1000;
      read.feed(Buffer.concat(fragments));
      read.bytesMax = 999;
      expect(read.feed(Buffer.concat(fragments)).taken).toEqual([1000]);
      expect(read.events.slice(1)).toEqual(['refused 1009']);
    }
  });

  it('is not taken for a message in fragments before the last one came', () => {
    const read = new Recorded(true).feed(frame({ final: false, payload: Buffer.alloc(1000) }));
    expect(read.taken).toEqual([]);
    expect(read.feed(frame({ opcode: 0, payload: Buffer.alloc(10) })).taken).toEqual([1010]);
  });

  it('is not taken after discard, in a message or between, and control frames are seen all the same', () => {
    const all = Buffer.concat([
      frame({ payload: text('one') }),
      frame({ payload: Buffer.alloc(500) }),
      frame({ opcode: 9, payload: text('p') }),
      frame({ opcode: 1, payload: text('text') }),
      frame({ final: false, payload: text('x') }),
      frame({ opcode: 8, payload: Uint8Array.of(0x03, 0xe8) }),
      frame({ payload: text('late') }),
    ]);
    fc.assert(
      fc.property(fc.nat(frame({ payload: text('one') }).byteLength + 100), cuts, (at, sizes) => {
        const read = new Recorded(true);
        read.feed(all.subarray(0, at), sizes);
        const [taken, seen] = [read.taken.length, read.events.length];
        read.reader.discard();
        read.feed(all.subarray(at), sizes);
        expect(read.taken).toHaveLength(taken);
        expect(read.events.slice(seen)).toEqual(['ping 70', 'close 1000 ']);
      }),
    );
  });

  it('of a message that says so itself is the last that is taken', () => {
    const read = new Recorded(true);
    read.onMessage = () => read.reader.discard();
    read.feed(Buffer.concat([frame({ payload: text('a') }), frame({ payload: text('b') }), frame({ opcode: 9 })]));
    expect(read.events).toEqual(['message 61', 'ping ']);
    expect(read.taken).toEqual([1]);
  });
});

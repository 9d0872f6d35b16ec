import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { limits } from '../../src/limits.ts';
import { command, nbdError, option } from '../../src/nbd/constants.ts';
import {
  decodeInfoData,
  decodeMetaData,
  encodeInfoData,
  encodeMetaData,
  encodeOption,
  HandshakeReader,
} from '../../src/nbd/options.ts';
import {
  decodeBlockStatusBody,
  decodeErrorBody,
  encodeBlockStatus,
  encodeDataHeader,
  encodeErrorChunk,
  encodeSimpleReply,
  ReplyReader,
} from '../../src/nbd/replies.ts';
import { encodeRequest, refusalOf, RequestReader, type Request } from '../../src/nbd/requests.ts';

/** What a reader makes of a stream, in a form that compares; payload bytes included. */
type Read = (chunks: readonly Buffer[]) => readonly unknown[];

const readHandshake: Read = (chunks) => {
  const reader = new HandshakeReader();
  const seen: unknown[] = [];
  for (const chunk of chunks) {
    for (let at = 0; ;) {
      const step = reader.next(chunk, at);
      at = step.at;
      if (!step.event) break;
      seen.push(step.event.kind === 'option' ? { ...step.event, data: step.event.data.toString('hex') } : step.event);
    }
  }
  return seen;
};

/** Takes payloads up to 1 MiB, discards longer ones. */
const readRequests: Read = (chunks) => {
  const reader = new RequestReader();
  const seen: unknown[] = [];
  let payload = Buffer.alloc(0);
  for (const chunk of chunks) {
    for (let at = 0; ;) {
      const step = reader.next(chunk, at);
      at = step.at;
      if (!step.event) break;
      if (step.event.kind === 'request') {
        payload = Buffer.alloc(0);
        if (step.event.request.command === command.write) {
          if (step.event.request.length > 1024 * 1024) reader.discardPayload();
          else reader.payloadInto((payload = Buffer.alloc(step.event.request.length)));
        }
      }
      seen.push(step.event.kind === 'payload' ? { kind: 'payload', bytes: payload.toString('hex') } : step.event);
    }
  }
  return seen;
};

const readReplies: Read = (chunks) => {
  const reader = new ReplyReader();
  const seen: unknown[] = [];
  let data = Buffer.alloc(0);
  for (const chunk of chunks) {
    for (let at = 0; ;) {
      const step = reader.next(chunk, at);
      at = step.at;
      const { event } = step;
      if (!event) break;
      if (event.kind === 'data') {
        if (event.length > 1024 * 1024) return seen;
        reader.dataInto((data = Buffer.alloc(event.length)));
      }
      if (event.kind === 'chunk') seen.push({ ...event, body: event.body.toString('hex') });
      else seen.push(event.kind === 'data-complete' ? { ...event, bytes: data.toString('hex') } : event);
    }
  }
  return seen;
};

const flagBytes = Buffer.from([0, 0, 0, 3]);
const handshake = Buffer.concat([
  flagBytes,
  encodeOption(option.structuredReply, Buffer.alloc(0)),
  encodeOption(option.setMetaContext, encodeMetaData('disk', ['base:allocation'])),
  encodeOption(option.go, encodeInfoData('disk', [3])),
]);
const request = (parts: Partial<Request>): Buffer =>
  encodeRequest({ flags: 0, command: command.read, cookie: 7n, offset: 0, length: 512, ...parts });
const requests = Buffer.concat([
  request({ offset: 2 ** 40 + 512 }),
  request({ command: command.write, cookie: 8n, length: 5 }),
  Buffer.from('hello'),
  request({ command: command.flush, length: 0 }),
  request({ command: command.disconnect, length: 0 }),
]);
const replies = Buffer.concat([
  encodeSimpleReply(1n, 0),
  encodeDataHeader(2n, 2 ** 41, 5),
  Buffer.from('world'),
  encodeErrorChunk(3n, nbdError.ENOSPC, 'full'),
  encodeBlockStatus(4n, [{ length: 4096, zero: true, hole: true }]),
  encodeSimpleReply(5n, nbdError.EIO),
]);

describe.each([
  ['handshake', readHandshake, handshake, 4],
  ['requests', readRequests, requests, 5],
  ['replies', readReplies, replies, 6],
] as const)('%s', (_name, read, stream, events) => {
  test('cut at every point, the stream means the same', () => {
    const whole = read([stream]);
    expect(whole).toHaveLength(events);
    for (let cut = 0; cut <= stream.byteLength; cut += 1) {
      expect(read([stream.subarray(0, cut), stream.subarray(cut)]), `cut at ${cut}`).toEqual(whole);
    }
    expect(read(Array.from(stream, (byte) => Buffer.from([byte])))).toEqual(whole);
  });

  test('damaged streams end in a value, never in an exception, however they are cut', () => {
    const flips = fc.array(fc.tuple(fc.nat(stream.byteLength - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(flips, fc.nat(stream.byteLength), (changes, cut) => {
        const damaged = Buffer.from(stream);
        for (const [at, byte] of changes) damaged[at] = byte;
        expect(read([damaged.subarray(0, cut), damaged.subarray(cut)])).toEqual(read([damaged]));
      }),
      { numRuns: 500 },
    );
  });

  test('noise ends in a value, and grows no memory', () => {
    const before = process.memoryUsage().arrayBuffers;
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (noise) => {
        read([Buffer.from(noise)]);
        read([stream.subarray(0, 20), Buffer.from(noise)]);
      }),
      { numRuns: 1000 },
    );
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 1024 * 1024);
  });
});

describe('golden bytes of the protocol document', () => {
  test('a request', () => {
    const bytes = encodeRequest({ flags: 1, command: 6, cookie: 0x0102030405060708n, offset: 2 ** 33, length: 0x1000 });
    expect(bytes.toString('hex')).toBe('25609513000100060102030405060708000000020000000000001000');
  });

  test('replies', () => {
    expect(encodeSimpleReply(9n, 28).toString('hex')).toBe('674466980000001c0000000000000009');
    expect(encodeDataHeader(9n, 2 ** 32, 16).toString('hex')).toBe(
      '668e33ef0001000100000000000000090000001800000001' + '00000000',
    );
    expect(encodeErrorChunk(9n, 1, 'no').toString('hex')).toBe(
      '668e33ef000180010000000000000009' + '00000008' + '00000001' + '0002' + '6e6f',
    );
    expect(encodeBlockStatus(9n, [{ length: 512, zero: true, hole: false }]).toString('hex')).toBe(
      '668e33ef000100050000000000000009' + '0000000c' + '00000001' + '00000200' + '00000002',
    );
  });

  test('an option', () => {
    expect(encodeOption(7, encodeInfoData('a', [3])).toString('hex')).toBe(
      '49484156454f5054' + '00000007' + '00000009' + '00000001' + '61' + '0001' + '0003',
    );
  });
});

describe('options', () => {
  test('what is encoded decodes again, for any names', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.array(fc.string(), { maxLength: 5 }), (name, queries) => {
        expect(decodeMetaData(encodeMetaData(name, queries))).toEqual({ name, queries });
        expect(decodeInfoData(encodeInfoData(name, [0, 3]))).toEqual({ name, kinds: [0, 3] });
      }),
    );
  });

  test('data that claims more than is there is refused without making room', () => {
    const forged = Buffer.from('ffffffff61', 'hex');
    expect(decodeInfoData(forged)).toBeUndefined();
    expect(decodeMetaData(forged)).toBeUndefined();
    expect(decodeMetaData(Buffer.from('0000000161ffffffff', 'hex'))).toBeUndefined();
    expect(decodeInfoData(Buffer.from('000000016100010003ff', 'hex'))).toBeUndefined();
  });

  test('an option longer than the limit passes by and is reported once', () => {
    const length = limits.nbd.optionBytesMax + 1;
    const stream = [
      flagBytes,
      encodeOption(option.info, Buffer.alloc(length)),
      encodeOption(option.list, Buffer.alloc(0)),
    ];
    expect(readHandshake(stream).slice(1)).toEqual([
      { kind: 'oversized', option: option.info, length },
      { kind: 'option', option: option.list, data: '' },
    ]);
  });
});

describe('replies', () => {
  test('bodies that do not add up are told apart', () => {
    expect(decodeErrorBody(Buffer.from('000000010009', 'hex'))).toBeUndefined();
    expect(decodeErrorBody(Buffer.from('0000', 'hex'))).toBeUndefined();
    expect(decodeBlockStatusBody(Buffer.alloc(4))).toBeUndefined();
    expect(decodeBlockStatusBody(Buffer.alloc(13))).toBeUndefined();
  });

  test('a body of 4 GiB is refused before it gets room', () => {
    const forged = encodeErrorChunk(1n, 1, 'no').subarray(0, 20);
    forged.writeUInt32BE(0xffff_ffff, 16);
    expect(readReplies([forged])).toEqual([{ kind: 'malformed', reason: 'a chunk claims 4294967295 bytes' }]);
  });
});

describe('the gate of requests', () => {
  const bounds = { size: 1_000_448, readOnly: false, allocation: true, structured: true };
  const all: Request = { flags: 0, command: command.read, cookie: 1n, offset: 0, length: 512 };
  const most = limits.nbd.requestBytesMax;
  test.each([
    ['a read', {}, undefined],
    ['a read up to the end', { offset: 1_000_000, length: 448 }, undefined],
    ['a read past the end', { offset: 1_000_000, length: 449 }, 'EINVAL'],
    ['a read far past the end', { offset: 2 ** 64, length: 1 }, 'EINVAL'],
    ['an empty read', { length: 0 }, 'EINVAL'],
    ['a read of 4 GiB', { length: 0xffff_ffff }, 'EINVAL'],
    ['a write past the end', { command: command.write, offset: 1_000_447, length: 2 }, 'ENOSPC'],
    ['a write longer than the limit', { command: command.write, length: most + 1 }, 'EINVAL'],
    ['zeroes past the end', { command: command.writeZeroes, offset: 1_000_000, length: 512 }, 'ENOSPC'],
    ['zeroes with NO_HOLE and FUA', { command: command.writeZeroes, flags: 3 }, undefined],
    ['zeroes with FAST_ZERO, not offered', { command: command.writeZeroes, flags: 16 }, 'EINVAL'],
    ['a trim past the end', { command: command.trim, offset: 1_000_000, length: 512 }, 'EINVAL'],
    ['a flush with a strange range', { command: command.flush, offset: 2 ** 40, length: 0 }, undefined],
    ['a flush with FUA', { command: command.flush, flags: 1, length: 0 }, undefined],
    ['a block status of one', { command: command.blockStatus, flags: 8 }, undefined],
    ['a read with NO_HOLE', { flags: 2 }, 'EINVAL'],
    ['CACHE, not offered', { command: 5 }, 'EINVAL'],
    ['an unknown command', { command: 999 }, 'EINVAL'],
  ] as const)('%s', (_name, parts, error) => {
    expect(refusalOf({ ...all, ...parts }, bounds)?.error).toBe(error);
  });

  test('read-only: EPERM before anything else, reads go on', () => {
    const readOnly = { ...bounds, readOnly: true };
    for (const code of [command.write, command.trim, command.writeZeroes]) {
      expect(refusalOf({ ...all, command: code, offset: 2 ** 40 }, readOnly)?.error).toBe('EPERM');
    }
    expect(refusalOf(all, readOnly)).toBeUndefined();
  });

  test('block status without its context', () => {
    const without = { ...bounds, allocation: false };
    expect(refusalOf({ ...all, command: command.blockStatus }, without)?.error).toBe('EINVAL');
  });
});

import { describe, expect, it } from 'vitest';
import { isProblem } from '../../src/kit/problem.ts';
import { isWireCode, wireCodeOf, wireCodes } from '../../src/wire/codes.ts';
import { decodeCommitted, encodeCommitted } from '../../src/wire/committed.ts';
import { decodeCycle, encodeCycle } from '../../src/wire/cycle.ts';
import { decodeErrorMessage, encodeErrorMessage } from '../../src/wire/error.ts';
import { decodeFrame } from '../../src/wire/frame.ts';
import { decodeGap, encodeGap } from '../../src/wire/gap.ts';
import { common, features } from '../../src/wire/features.ts';
import { decodeHello, encodeHello } from '../../src/wire/hello.ts';
import { decodeOpenDisk, encodeOpenDisk } from '../../src/wire/open-disk.ts';
import { decodeOpened, encodeOpened } from '../../src/wire/opened.ts';
import { decodePointMessage, encodePointMessage } from '../../src/wire/point.ts';
import { decodeRejected, encodeRejected } from '../../src/wire/rejected.ts';
import { counterOf, epochOf, seqOf } from '../../src/wire/seq.ts';
import { decodeWelcome, encodeWelcome } from '../../src/wire/welcome.ts';

const root = 'ab'.repeat(32);

/** One example of each control message, with its codec. */
const messages = {
  HELLO: [
    encodeHello,
    decodeHello,
    {
      protocol: [2],
      role: 'agent',
      machine: 'db-1',
      version: '0.1.0',
      features: [],
      instance: '00'.repeat(16),
    },
  ],
  WELCOME: [encodeWelcome, decodeWelcome, { protocol: 2, version: '0.1.0', features: [], session: 's' }],
  OPEN_DISK: [
    encodeOpenDisk,
    decodeOpenDisk,
    { disk: 0, name: 'root', size: 4096, blockSize: 65536, compression: 'lz4', knownPoint: null },
  ],
  OPENED: [
    encodeOpened,
    decodeOpened,
    {
      disk: 1,
      diskId: '11'.repeat(16),
      epoch: 1,
      nextCounter: 1,
      committed: { point: 3, cutTimeMs: 5, size: 4096, root },
      layers: { first: 9, last: 12, count: 3, chain: root },
      leaves: 'since',
      leafKey: root,
    },
  ],
  CYCLE: [encodeCycle, decodeCycle, { disk: 0, seq: 2 ** 32 + 1, kind: 'delta', base: 2 }],
  POINT: [
    encodePointMessage,
    decodePointMessage,
    {
      cutTimeMs: 1,
      consistency: 'crash',
      disks: [{ disk: 0, size: 4096, root, layers: null, kind: 'initial', records: 1, payloadBytes: 2, writes: 3 }],
    },
  ],
  COMMITTED: [encodeCommitted, decodeCommitted, { point: 1, cutTimeMs: 1, disks: [{ disk: 0, root }] }],
  REJECTED: [encodeRejected, decodeRejected, { reason: 'root-mismatch', disk: 0, detail: 'd', retryable: true }],
  GAP: [encodeGap, decodeGap, { atMs: 1, points: 2, reason: 'drain', detail: 'd' }],
  ERROR: [encodeErrorMessage, decodeErrorMessage, { code: 'full', message: 'm', retryable: true }],
} as const;

function refused(decode: () => unknown): boolean {
  try {
    decode();
    return false;
  } catch (error) {
    return isProblem(error) && error.code === 'protocol-error';
  }
}

describe.each(Object.entries(messages))('%s', (_name, [encode, decode, example]) => {
  const write = encode as (message: unknown) => Uint8Array;

  it('comes back as it was sent', () => {
    expect(decode(decodeFrame(write(example)).body)).toEqual(example);
  });

  it('is refused when a field is missing, and at every split point', () => {
    for (const field of Object.keys(example)) {
      const without = Object.fromEntries(Object.entries(example).filter(([name]) => name !== field));
      expect(
        refused(() => decode(Buffer.from(JSON.stringify(without)))),
        field,
      ).toBe(true);
    }
    const body = decodeFrame(write(example)).body;
    for (let length = 0; length < body.byteLength; length += 1)
      expect(refused(() => decode(body.subarray(0, length)))).toBe(true);
  });
});

describe('control bodies', () => {
  it('a machine name that is a path is refused', () => {
    const hello = { ...messages.HELLO[2], machine: '../etc' };
    expect(refused(() => decodeHello(Buffer.from(JSON.stringify(hello))))).toBe(true);
  });

  it('leaves that are neither "since" nor "compare" are refused', () => {
    const opened = { ...messages.OPENED[2], leaves: 'full' };
    expect(refused(() => decodeOpened(Buffer.from(JSON.stringify(opened))))).toBe(true);
  });

  it('a body above the bound is refused before it is parsed', () => {
    expect(refused(() => decodeHello(Buffer.alloc(256 * 1024 + 1, 0x20)))).toBe(true);
  });
});

describe('codes', () => {
  it('have close numbers of their own, between 4001 and 4999', () => {
    const numbers = Object.values(wireCodes).map((each) => each.close);
    expect(new Set(numbers).size).toBe(numbers.length);
    for (const number of numbers) expect(number).toBeGreaterThan(4000);
    expect(isWireCode('toString')).toBe(false);
    expect(wireCodeOf(new Error('a bug'))).toBe('internal');
  });
});

describe('seq', () => {
  it('is epoch and counter', () => {
    expect([epochOf(seqOf(7, 9)), counterOf(seqOf(7, 9))]).toEqual([7, 9]);
    expect(() => seqOf(2 ** 21, 1)).toThrow('invariant');
  });
});

it('what both sides can is what one offers and the other knows', () => {
  const { pointsInFlight, continueLayers } = features;
  expect(common([pointsInFlight, 'of-tomorrow'], [continueLayers, pointsInFlight])).toEqual([pointsInFlight]);
});

it('a lease goes with HELLO, and the newest epoch with the refusal of a stale one', () => {
  const [, , hello] = messages.HELLO;
  const [, , error] = messages.ERROR;
  const leased = { ...hello, protocol: [...hello.protocol], features: [], lease: { epoch: 7 } };
  expect(decodeHello(decodeFrame(encodeHello(leased)).body)).toEqual(leased);
  const stale = { ...error, code: 'stale-epoch', epoch: 8 };
  expect(decodeErrorMessage(decodeFrame(encodeErrorMessage(stale)).body)).toEqual(stale);
});

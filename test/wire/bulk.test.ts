import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { geometryOf } from '../../src/disk/geometry.ts';
import { fullMask, gatherPages, pageCount, scatterPages } from '../../src/disk/page-mask.ts';
import { isProblem } from '../../src/kit/problem.ts';
import { BatchBuilder, batchRecords, decodeBatch } from '../../src/wire/batch.ts';
import {
  decodeAsk,
  decodeChecksums,
  decodeDifference,
  encodeAsk,
  encodeChecksums,
  encodeDifference,
} from '../../src/wire/checksums.ts';
import { decodeCredit, encodeCredit } from '../../src/wire/credit.ts';
import { decodeDurable, encodeDurable } from '../../src/wire/durable.ts';
import { decodeFrame, encodeFrame, frameType } from '../../src/wire/frame.ts';
import { decodeLeaves, encodeLeaves } from '../../src/wire/leaves.ts';
import { decodePing, encodePing } from '../../src/wire/ping.ts';
import { decodeRepair, encodeRepair } from '../../src/wire/repair.ts';
import {
  codec,
  decodeSealedHeader,
  decodeSealedRows,
  sealedHeaderBytes,
  sealedRowBytes,
  writeSealedHeader,
  writeSealedRow,
} from '../../src/wire/sealed.ts';

const geometry = geometryOf(64 * 4096, 4096);
const bounds = { blockCount: geometry.blockCount, pageSize: geometry.pageSize };

function leafFor(block: number): Uint8Array {
  return new Uint8Array(32).fill((block % 255) + 1);
}

function buildBatch(records: readonly (readonly [block: number, mask: number, zero: boolean])[]): Uint8Array {
  const builder = new BatchBuilder();
  for (const [block, mask, zero] of records) {
    const length = zero ? 0 : pageCount(mask) * geometry.pageSize;
    builder.add(block, zero ? fullMask : mask, zero ? new Uint8Array(32) : leafFor(block), length, (into, at) => {
      into.fill(block % 256, at, at + length);
      return length;
    });
  }
  return builder.finish(3, 2 ** 32 + 7, 5);
}

function buildSealed(): Uint8Array {
  const body = new Uint8Array(sealedHeaderBytes + 2 * sealedRowBytes + 100);
  writeSealedHeader(body, 0, {
    seq: 2 ** 32 + 1,
    batch: 2,
    count: 2,
    plainBytes: 512,
    digest: new Uint8Array(32).fill(9),
  });
  const tag = new Uint8Array(16).fill(4);
  writeSealedRow(body, sealedHeaderBytes, {
    block: 1,
    pageMask: 0b11,
    codec: codec.lz4,
    storedLength: 100,
    rawLength: 512,
    nonce: 8,
    leaf: leafFor(1),
    tag,
  });
  const zero = {
    block: 9,
    pageMask: fullMask,
    codec: codec.zero,
    storedLength: 0,
    rawLength: 0,
    nonce: 9,
    leaf: new Uint8Array(32),
    tag,
  };
  writeSealedRow(body, sealedHeaderBytes + sealedRowBytes, zero);
  return body;
}

const ofDisk = { leaves: 64, nodes: 1 };
function comparing<T>(decode: (body: Uint8Array, bounds: typeof ofDisk) => T): (body: Uint8Array) => T {
  return (body) => decode(body, ofDisk);
}

/** Every way a decoder may end: a value or Problem `protocol-error`; anything else is a bug. */
function refusesOrDecodes(decode: () => unknown): 'refused' | 'decoded' {
  try {
    decode();
    return 'decoded';
  } catch (error) {
    if (isProblem(error) && error.code === 'protocol-error') return 'refused';
    throw error;
  }
}

describe('golden bytes', () => {
  it('of a DURABLE frame', () => {
    expect(Buffer.from(encodeDurable(2, { seq: 2 ** 32 + 5, batches: 3 })).toString('hex')).toBe(
      '08000200100000000500000001000000' + '0300000000000000',
    );
  });
  it('of a CREDIT frame', () => {
    expect(Buffer.from(encodeCredit(1 << 20)).toString('hex')).toBe('0900ffff080000000000100000000000');
  });
  it('of PING and PONG', () => {
    expect(Buffer.from(encodePing('ping', 1)).toString('hex')).toBe('1100ffff080000000100000000000000');
    expect(Buffer.from(encodePing('pong', 1)).toString('hex')).toBe('1200ffff080000000100000000000000');
  });
  it('of a BATCH with one zero record', () => {
    const frame = Buffer.from(buildBatch([[7, 1, true]])).toString('hex');
    expect(frame).toBe(
      '060003004000000007000000010000000500000001000000' + '07000000ffff00000000000000000000' + '00'.repeat(32),
    );
  });
  it('of a SEALED header', () => {
    const head = Buffer.from(buildSealed().subarray(0, 64)).toString('hex');
    expect(head).toBe('0100000001000000020000000200000000020000' + '00000000' + '09'.repeat(32) + '00'.repeat(8));
  });
  it('of a LEAVES frame', () => {
    const frame = Buffer.from(encodeLeaves(1, { last: true, pairs: [[5, leafFor(5)]] })).toString('hex');
    expect(frame).toBe('0d0001002c0000000100000001000000' + '05000000' + '06'.repeat(32));
  });
  it('of a REPAIR frame', () => {
    expect(Buffer.from(encodeRepair(0, [1, 258])).toString('hex')).toBe('0f0000000c000000020000000100000002010000');
  });
});

describe('golden bytes of a comparison', () => {
  it('of an ASK for nodes', () => {
    const frame = Buffer.from(encodeAsk(1, { level: 'nodes', first: 2, count: 3 })).toString('hex');
    expect(frame).toBe('1300010010000000' + '01000000020000000300000000000000');
  });
  it('of CHECKSUMS of one leaf', () => {
    const message = { level: 'leaves', first: 5, count: 1, hashes: leafFor(5) } as const;
    expect(Buffer.from(encodeChecksums(1, message)).toString('hex')).toBe(
      '0e00010030000000' + '00000000050000000100000000000000' + '06'.repeat(32),
    );
  });
  it('of a DIFFERENT with the second of nine leaves', () => {
    const message = { level: 'leaves', first: 8, count: 9, differing: [9], hashes: leafFor(9) } as const;
    expect(Buffer.from(encodeDifference(0, message)).toString('hex')).toBe(
      '1400000032000000' + '00000000080000000900000000000000' + '0200' + '0a'.repeat(32),
    );
  });
});

describe('checksums', () => {
  it('come back as they were sent', () => {
    const sent = { level: 'leaves', first: 0, count: 64, differing: [0, 7, 8, 63] } as const;
    const hashes = Buffer.concat(sent.differing.map((block) => leafFor(block)));
    const got = decodeDifference(encodeDifference(0, { ...sent, hashes }).subarray(8), ofDisk);
    expect({ ...got, hashes: Buffer.from(got.hashes) }).toEqual({ ...sent, hashes });
    const nodes = { level: 'nodes', first: 0, count: 1, differing: [0], hashes: new Uint8Array(0) } as const;
    expect(decodeDifference(encodeDifference(0, nodes).subarray(8), ofDisk)).toEqual(nodes);
  });
  it('past the end of the disk, of nothing, or with a bit too many are refused', () => {
    const ask = (range: Parameters<typeof encodeAsk>[1]) => (): unknown =>
      decodeAsk(encodeAsk(0, range).subarray(8), ofDisk);
    expect(refusesOrDecodes(ask({ level: 'leaves', first: 60, count: 5 }))).toBe('refused');
    expect(refusesOrDecodes(ask({ level: 'nodes', first: 1, count: 1 }))).toBe('refused');
    expect(refusesOrDecodes(ask({ level: 'leaves', first: 0, count: 0 }))).toBe('refused');
    expect(refusesOrDecodes(ask({ level: 'leaves', first: 63, count: 1 }))).toBe('decoded');
    const body = encodeDifference(0, {
      level: 'nodes',
      first: 0,
      count: 1,
      differing: [0],
      hashes: new Uint8Array(0),
    }).slice(8);
    body[16] = 3;
    expect(refusesOrDecodes(() => decodeDifference(body, ofDisk))).toBe('refused');
  });
});

describe('every split point is refused, the whole is taken', () => {
  const whole: Record<string, { bytes: Uint8Array; decode: (bytes: Uint8Array) => unknown }> = {
    batch: {
      bytes: buildBatch([
        [1, 0b101, false],
        [2, 1, true],
        [9, fullMask, false],
      ]).subarray(8),
      decode: (bytes) => decodeBatch(bytes, geometry),
    },
    sealed: { bytes: buildSealed(), decode: (bytes) => decodeSealedRows(bytes, bounds) },
    durable: { bytes: encodeDurable(0, { seq: 9, batches: 1 }).subarray(8), decode: decodeDurable },
    credit: { bytes: encodeCredit(9).subarray(8), decode: decodeCredit },
    ping: { bytes: encodePing('ping', 9).subarray(8), decode: decodePing },
    leaves: {
      bytes: encodeLeaves(0, {
        last: false,
        pairs: [
          [1, leafFor(1)],
          [2, leafFor(2)],
        ],
      }).subarray(8),
      decode: (bytes) => decodeLeaves(bytes, 64),
    },
    repair: { bytes: encodeRepair(0, [1, 2, 3]).subarray(8), decode: (bytes) => decodeRepair(bytes, 64) },
    ask: { bytes: encodeAsk(0, { level: 'leaves', first: 1, count: 2 }).subarray(8), decode: comparing(decodeAsk) },
    checksums: {
      bytes: encodeChecksums(0, { level: 'leaves', first: 1, count: 1, hashes: leafFor(1) }).subarray(8),
      decode: comparing(decodeChecksums),
    },
    different: {
      bytes: encodeDifference(0, {
        level: 'leaves',
        first: 0,
        count: 10,
        differing: [9],
        hashes: leafFor(9),
      }).subarray(8),
      decode: comparing(decodeDifference),
    },
    frame: { bytes: encodeFrame(frameType.batch, 0, new Uint8Array(40)), decode: decodeFrame },
  };
  for (const [name, { bytes, decode }] of Object.entries(whole)) {
    it(name, () => {
      expect(refusesOrDecodes(() => decode(bytes))).toBe('decoded');
      for (let length = 0; length < bytes.byteLength; length += 1) {
        expect(
          refusesOrDecodes(() => decode(bytes.slice(0, length))),
          `${name} cut at ${length}`,
        ).toBe('refused');
      }
    });
  }
});

describe('fuzz', () => {
  it('decoders answer any bytes with a value or a protocol error, in bounded memory', () => {
    const seeds = [
      buildBatch([[1, 3, false]]).subarray(8),
      buildSealed(),
      encodeLeaves(0, { last: true, pairs: [[1, leafFor(1)]] }).subarray(8),
      encodeDifference(0, { level: 'leaves', first: 0, count: 9, differing: [3], hashes: leafFor(3) }).subarray(8),
    ];
    const before = process.memoryUsage().rss;
    const mutated = fc
      .tuple(fc.constantFrom(...seeds), fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 8 }))
      .map(([seed, edits]) => {
        const bytes = seed.slice();
        for (const [at, value] of edits) if (bytes.byteLength > 0) bytes[at % bytes.byteLength] = value;
        return bytes;
      });
    fc.assert(
      fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 300 })), (bytes) => {
        refusesOrDecodes(() => decodeFrame(bytes));
        refusesOrDecodes(() => decodeBatch(bytes, geometry));
        refusesOrDecodes(() => decodeSealedHeader(bytes));
        refusesOrDecodes(() => decodeSealedRows(bytes, bounds));
        refusesOrDecodes(() => decodeLeaves(bytes, 64));
        refusesOrDecodes(() => decodeRepair(bytes, 64));
        for (const decode of [decodeAsk, decodeChecksums, decodeDifference])
          refusesOrDecodes(() => decode(bytes, ofDisk));
        refusesOrDecodes(() => decodeDurable(bytes));
      }),
      { numRuns: 5000 },
    );
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
  });

  it('a frame that claims 4 GiB is refused before anything is allocated', () => {
    const frame = encodeFrame(frameType.batch, 0, new Uint8Array(16));
    new DataView(frame.buffer).setUint32(4, 0xffffffff, true);
    expect(refusesOrDecodes(() => decodeFrame(frame))).toBe('refused');
    const body = new Uint8Array(16);
    new DataView(body.buffer).setUint32(12, 0xffffffff, true);
    expect(refusesOrDecodes(() => decodeBatch(body, geometry))).toBe('refused');
  });
});

describe('records', () => {
  it('come out of a BATCH as they went in', () => {
    const record = fc.record({
      gap: fc.integer({ min: 1, max: 4 }),
      mask: fc.integer({ min: 1, max: fullMask }),
      zero: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(record, { minLength: 1, maxLength: 15 }), (specs) => {
        let block = -1;
        const records = specs.map((spec) => {
          block += spec.gap;
          return [block, spec.mask, spec.zero] as const;
        });
        const body = buildBatch(records).subarray(8);
        expect(decodeBatch(body, geometry)).toMatchObject({
          seq: 2 ** 32 + 7,
          batch: 5,
          count: records.length,
          lastBlock: block,
        });
        const out = [...batchRecords(body)];
        expect(out.map((each) => each.block)).toEqual(records.map(([each]) => each));
        for (const [index, each] of out.entries()) {
          const spec = records[index];
          expect(each.payload.byteLength).toBe(spec?.[2] === true ? 0 : pageCount(spec?.[1] ?? 0) * geometry.pageSize);
          expect(each.payload.every((byte) => byte === each.block % 256)).toBe(true);
        }
      }),
      { numRuns: 200 },
    );
  });

  it.each([
    [
      'descending blocks',
      [
        [5, 1, false],
        [4, 1, false],
      ],
    ],
    [
      'a block twice',
      [
        [5, 1, false],
        [5, 2, false],
      ],
    ],
    ['a block past the end', [[64, 1, false]]],
  ] as const)('%s are refused', (_name, records) => {
    expect(refusesOrDecodes(() => decodeBatch(buildBatch(records).subarray(8), geometry))).toBe('refused');
  });

  it('a row with something in its reserved byte is refused', () => {
    const body = buildSealed();
    body[sealedHeaderBytes + 7] = 1;
    expect(refusesOrDecodes(() => decodeSealedRows(body, bounds))).toBe('refused');
  });

  it('a sealed payload longer than its pages is refused', () => {
    const body = buildSealed();
    new DataView(body.buffer).setUint32(sealedHeaderBytes + 8, 513, true);
    expect(refusesOrDecodes(() => decodeSealedRows(body, bounds))).toBe('refused');
  });
});

describe('pages', () => {
  it('gathered and scattered are the same block', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: fullMask }),
        fc.uint8Array({ minLength: 4096, maxLength: 4096 }),
        (mask, block) => {
          const packed = new Uint8Array(pageCount(mask) * 256);
          expect(gatherPages(block, mask, 256, packed, 0)).toBe(packed.byteLength);
          const back = new Uint8Array(4096);
          scatterPages(packed, mask, 256, back);
          for (let page = 0; page < 16; page += 1) {
            const expected =
              (mask & (1 << page)) === 0 ? new Uint8Array(256) : block.subarray(page * 256, (page + 1) * 256);
            expect(Buffer.compare(back.subarray(page * 256, (page + 1) * 256), expected)).toBe(0);
          }
        },
      ),
      { numRuns: 100 },
    );
  });
});

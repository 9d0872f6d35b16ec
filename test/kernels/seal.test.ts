import { createCipheriv, randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import fc from 'fast-check';
import { zeroLeaf } from '../../src/disk/merkle.ts';
import { fullMask, pageCount } from '../../src/disk/page-mask.ts';
import { isProblem } from '../../src/kit/problem.ts';
import { encrypt } from '../../src/kernels/cipher.ts';
import { codecs, withCompressed, type Compression } from '../../src/kernels/compress.ts';
import { layerKeyOf } from '../../src/kernels/keys.ts';
import { leafOf } from '../../src/kernels/hash.ts';
import { providers } from '../../src/kernels/providers.ts';
import { sealRecord } from '../../src/kernels/seal.ts';
import { unsealRecord, type RecordToUnseal } from '../../src/kernels/unseal.ts';
import { codec as wireCodec } from '../../src/wire/sealed.ts';

const layerKey = layerKeyOf(Buffer.alloc(32, 7));
const diskId = Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex');
const leafKey = Buffer.alloc(32, 9);
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Pages that compress (text-like) or not. */
function pagesOf(bytes: number, kind: 'text' | 'noise' | 'ones'): Uint8Array {
  if (kind === 'noise') return new Uint8Array(randomBytes(bytes));
  if (kind === 'ones') return new Uint8Array(bytes).fill(1);
  return Uint8Array.from({ length: bytes }, (_, index) =>
    'the quick brown fox '.charCodeAt((index + (index >> 8)) % 20),
  );
}

interface Sealed extends RecordToUnseal {
  readonly pages: Uint8Array;
}

function seal(options: {
  pages: Uint8Array;
  pageMask?: number;
  pageSize?: number;
  compression?: Compression;
  leaf?: Uint8Array;
}): Sealed {
  const { pages, pageMask = fullMask, pageSize = 4096, compression = 'lz4' } = options;
  const leaf = options.leaf ?? (pages.byteLength === 0 ? zeroLeaf : leafOf(leafKey, pages));
  const record = { layerKey, diskId, seq: 2 ** 32 + 3, block: 77, pageMask, nonce: 5, leaf };
  const into = new Uint8Array(pages.byteLength + 10);
  const sealed = sealRecord({ ...record, pages, compression }, into, 10);
  const { codec, rawLength, tag, storedLength } = sealed;
  return { ...record, codec, rawLength, tag, payload: into.slice(10, 10 + storedLength), pageSize, pages };
}

function refusal(record: RecordToUnseal): string {
  try {
    unsealRecord(record);
  } catch (error) {
    return isProblem(error) ? error.code : `threw ${String(error)}`;
  }
  return 'accepted';
}

describe('seal and unseal', () => {
  it('seals to fixed bytes: a change here makes stored records unreadable', () => {
    const pages = pagesOf(16 * 256, 'text');
    const raw = seal({ pages, pageSize: 256, compression: 'off' });
    expect(hex(raw.tag)).toMatchInlineSnapshot(`"133e9873858527dc57cf6af7894b195a"`);
    expect(hex(raw.payload.subarray(0, 32))).toMatchInlineSnapshot(
      `"2777fd2f13a43fa6a4c4c3d03c8f4535c68d09d50125e09ccae9063259263259"`,
    );
    const zero = seal({ pages: new Uint8Array(0) });
    expect(zero).toMatchObject({ codec: codecs.zero, rawLength: 0 });
    expect(hex(zero.tag)).toMatchInlineSnapshot(`"584df7f129ac8e9fc3ecbd8dc642b4fa"`);
  });

  it('is the AES-256-GCM of FORMAT.md, written out by hand', () => {
    const pages = pagesOf(16 * 256, 'noise');
    const sealed = seal({ pages, pageSize: 256, compression: 'off' });
    const u = (value: number, bytes: number): Buffer =>
      Buffer.from(Array.from({ length: bytes }, (_, index) => Math.floor(value / 256 ** index) % 256));
    const parts = [
      'TMR1',
      diskId,
      u(2 ** 32 + 3, 8),
      u(77, 4),
      u(fullMask, 2),
      u(0, 1),
      u(0, 1),
      u(4096, 4),
      sealed.leaf,
    ];
    const cipher = createCipheriv('aes-256-gcm', Buffer.alloc(32, 7), Buffer.concat([u(0, 4), u(5, 8)]));
    cipher.setAAD(Buffer.concat(parts.map((part) => Buffer.from(part))));
    const expected = Buffer.concat([cipher.update(pages), cipher.final()]);
    expect(hex(sealed.payload)).toBe(hex(expected));
    expect(hex(sealed.tag)).toBe(hex(cipher.getAuthTag()));
  });

  it('stores LZ4 without a length prefix, and every codec number is the wire’s', () => {
    const pages = pagesOf(65_536, 'ones');
    const { payload } = seal({ pages });
    expect(payload.byteLength).toBeLessThan(300);
    expect(codecs).toEqual(wireCodec);
  });

  it('gives back what it took, for every mask, codec, content and page size', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: fullMask }),
        fc.constantFrom<Compression>('off', 'lz4', 'zstd'),
        fc.constantFrom('text' as const, 'noise' as const, 'ones' as const),
        fc.constantFrom(256, 512, 4096, 65_536),
        (pageMask, compression, kind, pageSize) => {
          const pages = pagesOf(pageCount(pageMask) * pageSize, kind);
          const before = hex(pages);
          const sealed = seal({ pages, pageMask, pageSize, compression, leaf: Buffer.alloc(32, 3) });
          if (kind === 'noise') expect(sealed.codec).toBe(codecs.raw);
          expect(sealed.payload.byteLength).toBeLessThanOrEqual(pages.byteLength);
          expect(hex(unsealRecord(sealed)) === before).toBe(true);
          expect(hex(pages) === before).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('gives back an all-zero block as zeros', () => {
    const pages = unsealRecord(seal({ pages: new Uint8Array(0) }));
    expect(pages.byteLength).toBe(65_536);
    expect(pages.every((byte) => byte === 0)).toBe(true);
  });

  it('stores a record raw that shrinks by less than a sixteenth', () => {
    const pages = pagesOf(65_536, 'noise');
    pages.fill(0, 0, 2000);
    expect(seal({ pages }).codec).toBe(codecs.raw);
    pages.fill(0, 0, 20_000);
    expect(seal({ pages }).codec).toBe(codecs.lz4);
    expect(seal({ pages, compression: 'zstd' }).codec).toBe(codecs.zstd);
  });
});

describe('tampering', () => {
  const sealed = seal({ pages: pagesOf(16 * 256, 'text'), pageSize: 256 });

  it('is refused for every single byte of payload, tag, leaf and disk id', () => {
    for (const field of ['payload', 'tag', 'leaf', 'diskId'] as const) {
      for (let at = 0; at < sealed[field].byteLength; at += 1) {
        const bytes = Uint8Array.from(sealed[field]);
        bytes[at] = (bytes[at] ?? 0) ^ (1 << (at % 8));
        expect(`${field} ${at} ${refusal({ ...sealed, [field]: bytes })}`).toBe(`${field} ${at} damaged`);
      }
    }
    expect(refusal(sealed)).toBe('accepted');
  });

  it('is refused for every number of the row', () => {
    const forged: Partial<RecordToUnseal>[] = [
      { seq: sealed.seq + 1 },
      { seq: sealed.seq % 2 ** 32 },
      { block: 78 },
      { pageMask: 0xfffe },
      { pageMask: 0 },
      { codec: codecs.raw },
      { codec: codecs.zstd },
      { codec: codecs.zero },
      { codec: 9 },
      { rawLength: sealed.rawLength - 256 },
      { rawLength: 2 ** 32 - 1 },
      { nonce: 6 },
      { nonce: 5 + 2 ** 32 },
      { nonce: 2 ** 60 },
      { tag: sealed.tag.subarray(0, 12) },
      { payload: sealed.payload.subarray(1) },
      { payload: new Uint8Array(0) },
      { layerKey: layerKeyOf(Buffer.alloc(32, 8)) },
    ];
    expect(forged.map((change) => refusal({ ...sealed, ...change }))).toEqual(forged.map(() => 'damaged'));
    const half = seal({ pages: pagesOf(8 * 256, 'text'), pageMask: 0x00ff, pageSize: 256, leaf: Buffer.alloc(32, 1) });
    expect(refusal({ ...half, pageMask: 0xff00 })).toBe('damaged');
    const zero = seal({ pages: new Uint8Array(0) });
    expect(refusal({ ...zero, block: 78 })).toBe('damaged');
    expect(refusal({ ...zero, leaf: Buffer.alloc(32, 1) })).toBe('damaged');
  });

  it('by whoever holds the key is still bounded: records that decode to more than their raw length', () => {
    const bomb = new Uint8Array(1_048_576).fill(1);
    const before = process.memoryUsage().rss;
    for (const compression of ['lz4', 'zstd'] as const) {
      withCompressed(bomb, compression, (codec, plain) => {
        for (const rawLength of [16 * 512, 65_536, 524_288]) {
          const row = {
            layerKey,
            diskId,
            seq: 9,
            block: 1,
            pageMask: fullMask,
            codec,
            rawLength,
            leaf: Buffer.alloc(32, 1),
          };
          const payload = new Uint8Array(plain.byteLength);
          const tag = encrypt(layerKey, row, 1, plain, payload, 0);
          expect(refusal({ ...row, nonce: 1, tag, payload, pageSize: rawLength / 16 })).toBe('damaged');
        }
      });
    }
    expect(process.memoryUsage().rss - before).toBeLessThan(32 * 1024 * 1024);
  });

  it('by whoever holds the key can not make the reader allocate: a raw length no page mask has', () => {
    const plain = new Uint8Array(4096);
    for (const codec of [codecs.lz4, codecs.zstd]) {
      const row = {
        layerKey,
        diskId,
        seq: 9,
        block: 1,
        pageMask: fullMask,
        codec,
        rawLength: 2 ** 32 - 1,
        leaf: Buffer.alloc(32, 1),
      };
      const payload = new Uint8Array(plain.byteLength);
      const tag = encrypt(layerKey, row, 1, plain, payload, 0);
      expect(() => unsealRecord({ ...row, nonce: 1, tag, payload, pageSize: 4096 })).toThrow(/raw length/);
    }
  });
});

describe('providers', () => {
  it('names one provider for each kernel, and why', () => {
    expect(providers().map(({ kernel }) => kernel)).toEqual(['blake3', 'lz4', 'zstd', 'aes-256-gcm']);
    for (const { provider, reason } of providers()) expect(provider.length * reason.length).toBeGreaterThan(0);
  });
});

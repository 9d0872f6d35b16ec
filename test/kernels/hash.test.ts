import { describe, expect, it } from 'vitest';
import fc from 'fast-check';
import { geometryOf } from '../../src/disk/geometry.ts';
import { MerkleNodes, zeroLeaf } from '../../src/disk/merkle.ts';
import { blake3Candidates } from '../../src/kernels/blake3.ts';
import { choose } from '../../src/kernels/choose.ts';
import { digest, isZero, leafOf, merkleHashes } from '../../src/kernels/hash.ts';
import { deriveLayerKey, deriveLayerKeyBytes } from '../../src/kernels/keys.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
/** Input of the BLAKE3 reference test vectors: 0, 1, …, 250, 0, 1, … */
const vector = (length: number): Uint8Array => Uint8Array.from({ length }, (_, index) => index % 251);
const vectorKey = Buffer.from('whats the Elvish word for friend', 'ascii');

describe('digest', () => {
  it('gives the known answers of the BLAKE3 reference vectors', () => {
    expect(hex(digest())).toBe('af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262');
    expect(hex(digest(vector(1)))).toBe('2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213');
    expect(hex(digest(vector(1024)))).toBe('42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7');
  });

  it('does not depend on how the bytes are split or where they lie', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 5000 }), fc.nat(), (bytes, cut) => {
        const at = bytes.length === 0 ? 0 : cut % bytes.length;
        const elsewhere = new Uint8Array(bytes.length + 7);
        elsewhere.set(bytes, 7);
        const whole = hex(digest(bytes));
        return (
          hex(digest(bytes.subarray(0, at), bytes.subarray(at))) === whole &&
          hex(digest(elsewhere.subarray(7))) === whole
        );
      }),
    );
  });
});

describe('leafOf', () => {
  it('gives the known answer of the keyed reference vector', () => {
    expect(hex(leafOf(vectorKey, vector(1024)))).toBe(
      '75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4',
    );
  });

  it('is 32 zero bytes for an all-zero block under every key', () => {
    expect(hex(leafOf(vectorKey, new Uint8Array(65_536)))).toBe('00'.repeat(32));
    expect(hex(leafOf(new Uint8Array(32), new Uint8Array(4096)))).toBe('00'.repeat(32));
  });

  it('differs between keys and forgets old keys without forgetting how to hash', () => {
    const block = vector(4096);
    const first = hex(leafOf(vectorKey, block));
    const seen = new Set<string>([first]);
    for (let index = 0; index < 600; index += 1) {
      const key = new Uint8Array(32);
      new DataView(key.buffer).setUint32(0, index);
      seen.add(hex(leafOf(key, block)));
    }
    expect(seen.size).toBe(601);
    expect(hex(leafOf(vectorKey, block))).toBe(first);
  });

  it('refuses a key of the wrong length instead of letting the native module abort the process', () => {
    expect(() => leafOf(new Uint8Array(31), vector(4096))).toThrow(/32 bytes/);
  });
});

describe('isZero', () => {
  it('sees a single set bit anywhere', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 3 * 1024 * 1024 }),
        fc.nat(),
        fc.integer({ min: 0, max: 7 }),
        (length, where, bit) => {
          const bytes = new Uint8Array(length);
          if (!isZero(bytes)) return false;
          bytes[where % length] = 1 << bit;
          return !isZero(bytes);
        },
      ),
      { numRuns: 50 },
    );
    expect(isZero(new Uint8Array(0))).toBe(true);
  });
});

describe('merkleHashes', () => {
  it('keeps leaf, node and root apart', () => {
    const bytes = vector(64);
    const all = new Set([
      hex(merkleHashes.node(bytes)),
      hex(merkleHashes.root(new Uint8Array(0), bytes)),
      hex(digest(bytes)),
    ]);
    expect(all.size).toBe(3);
  });

  it('gives fixed bytes: a change here breaks every stored root', () => {
    const nodes = new MerkleNodes(geometryOf(2048 * 65_536 + 512, 65_536), merkleHashes);
    const zeroRoot = hex(nodes.root());
    const leaves = new Uint8Array(1024 * 32);
    leaves.set(leafOf(vectorKey, vector(65_536)), 32 * 5);
    nodes.set(1, leaves);
    expect([zeroRoot, hex(nodes.root())]).toMatchInlineSnapshot(`
      [
        "e2a0e61de2b24b9ea22f47cca2272d03c475c195e0a0956a4ab2cc4d48e10d1c",
        "c01c3222ff6f388f25629a02d44b4a5218c476f7dad6f2ddbfb23dcc8f85c3c2",
      ]
    `);
    expect(zeroLeaf.every((byte) => byte === 0)).toBe(true);
  });
});

describe('providers of BLAKE3', () => {
  const loaded = blake3Candidates.map(({ load }) => load());

  it('agree with one another on every length, key and split', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 3000 }), { maxLength: 4 }),
        fc.uint8Array({ minLength: 32, maxLength: 32 }),
        (parts, key) => {
          const answers = loaded.flatMap((blake3) => [
            `h${hex(blake3.hash(parts))}`,
            `k${hex(blake3.keyed(key)(parts))}`,
          ]);
          return new Set(answers).size === 2;
        },
      ),
      { numRuns: 50 },
    );
  });

  it('fall back to the portable one when the native one does not load, and say so', () => {
    const broken = {
      name: 'native',
      load: () => {
        throw new Error('no binary for this platform');
      },
    };
    const choice = choose('blake3', [broken, ...blake3Candidates.slice(1)]);
    expect(choice).toMatchObject({
      provider: 'blake3-wasm',
      fallback: true,
      reason: 'native: no binary for this platform',
    });
    expect(hex(choice.implementation.hash([vector(1)]))).toBe(hex(digest(vector(1))));
    expect(() => choose('blake3', [broken])).toThrow(/no binary for this platform/);
  });
});

describe('layer keys', () => {
  const diskKey = vector(32);
  const salt = vector(64).subarray(32);
  const diskId = vector(16);

  it('are HKDF-SHA-256 as FORMAT.md says (fixed bytes)', () => {
    expect(hex(deriveLayerKeyBytes(diskKey, salt, diskId, 2 ** 32 * 3 + 7))).toMatchInlineSnapshot(
      `"e171ba2e090d77c5b4999388a2890782c73c51ae7496f7defefa7e72f11f68fb"`,
    );
    expect(deriveLayerKey(diskKey, salt, diskId, 1).export()).toEqual(
      Buffer.from(deriveLayerKeyBytes(diskKey, salt, diskId, 1)),
    );
  });

  it('differ with every input', () => {
    const other = (bytes: Uint8Array): Uint8Array => Uint8Array.from(bytes, (byte) => byte ^ 1);
    const keys = [
      deriveLayerKeyBytes(diskKey, salt, diskId, 1),
      deriveLayerKeyBytes(diskKey, salt, diskId, 2),
      deriveLayerKeyBytes(other(diskKey), salt, diskId, 1),
      deriveLayerKeyBytes(diskKey, other(salt), diskId, 1),
      deriveLayerKeyBytes(diskKey, salt, other(diskId), 1),
    ];
    expect(new Set(keys.map(hex)).size).toBe(keys.length);
  });
});

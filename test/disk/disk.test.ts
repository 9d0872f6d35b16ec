import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { blockBytesOnDisk, geometryOf } from '../../src/disk/geometry.ts';
import { MerkleNodes, leavesInNode, nodeCountOf } from '../../src/disk/merkle.ts';
import { fullMask, maskOfRange, pageCount } from '../../src/disk/page-mask.ts';
import { merkleHashes } from '../../src/kernels/hash.ts';

describe('geometry', () => {
  it.each([
    [0, 65536],
    [511, 65536],
    [1000, 65536],
    [-512, 65536],
    [1024, 65535],
    [1024, 2048],
    [1024, 2097152],
    [2 ** 53, 4096],
  ])('refuses size %d with blocks of %d', (size, blockSize) => {
    expect(() => geometryOf(size, blockSize)).toThrow(expect.objectContaining({ code: 'bad-geometry' }));
  });

  it('counts a last block that reaches past the end', () => {
    const geometry = geometryOf(65536 * 2 + 512, 65536);
    expect(geometry).toMatchObject({ blockCount: 3, pageSize: 4096 });
    expect(blockBytesOnDisk(geometry, 2)).toBe(512);
    expect(blockBytesOnDisk(geometry, 1)).toBe(65536);
  });
});

describe('page masks', () => {
  it('of a range are the pages the range touches', () => {
    const geometry = geometryOf(4096 * 8, 4096);
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: geometry.size - 1 }),
        fc.integer({ min: 1, max: 9000 }),
        (offset, length) => {
          const end = Math.min(geometry.size, offset + length);
          for (let block = 0; block < geometry.blockCount; block += 1) {
            let expected = 0;
            for (let page = 0; page < 16; page += 1) {
              const start = block * 4096 + page * 256;
              if (start < end && start + 256 > offset) expected |= 1 << page;
            }
            expect(maskOfRange(geometry, block, offset, end - offset)).toBe(expected);
          }
        },
      ),
    );
  });

  it('are counted', () => {
    for (let mask = 0; mask <= fullMask; mask += 1) {
      let bits = 0;
      for (let rest = mask; rest > 0; rest >>>= 1) bits += rest & 1;
      if (pageCount(mask) !== bits) expect(pageCount(mask), `mask ${mask}`).toBe(bits);
    }
  });
});

describe('Merkle nodes', () => {
  const geometry = geometryOf(4096 * 2500, 4096);

  it('start as the tree of an all-zero disk', () => {
    const fresh = new MerkleNodes(geometry, merkleHashes);
    const computed = new MerkleNodes(geometry, merkleHashes);
    for (let index = 0; index < nodeCountOf(geometry); index += 1)
      computed.set(index, new Uint8Array(leavesInNode(geometry, index) * 32));
    expect(Buffer.compare(fresh.root(), computed.root())).toBe(0);
  });

  it('give another root for another leaf, size or block size', () => {
    const roots = new Set<string>();
    const rootOf = (nodes: MerkleNodes): string => Buffer.from(nodes.root()).toString('hex');
    const changed = new MerkleNodes(geometry, merkleHashes);
    const leaves = new Uint8Array(leavesInNode(geometry, 1) * 32);
    leaves[32 * 7] = 1;
    changed.set(1, leaves);
    roots.add(rootOf(changed));
    roots.add(rootOf(new MerkleNodes(geometry, merkleHashes)));
    roots.add(rootOf(new MerkleNodes(geometryOf(geometry.size - 512, 4096), merkleHashes)));
    roots.add(rootOf(new MerkleNodes(geometryOf(geometry.size, 8192), merkleHashes)));
    expect(roots.size).toBe(4);
    const copy = changed.clone();
    expect(rootOf(copy)).toBe(rootOf(changed));
  });
});

import fc from 'fast-check';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isProblem, Problem } from '../../src/kit/problem.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { IndexEntry } from '../../src/store/index-codec.ts';
import type { RecordLookup } from '../../src/store/index-reader.ts';
import { PointReader, type PointDisk } from '../../src/store/point-reader.ts';
import { RecordIndex } from '../../src/store/record-index.ts';
import {
  blockSize,
  diskId,
  keys,
  MemorySegments,
  sealLayer,
  type Image,
  type LayerPlan,
  type SealedLayer,
} from './sealed-layers.ts';

const blocks = 8;
let directory = '';
beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'tidemark-reader-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

const open = (): Promise<RecordIndex> => RecordIndex.open({ files: posixFiles, directory, bootId: 'boot' });

function diskAt(maxSeq: number, no = 0): PointDisk {
  return { no, id: diskId, name: 'vda', blockSize, maxSeq, keys: new Map([[1, keys]]) };
}

function readerAt(index: RecordLookup, segments: MemorySegments, maxSeq: number): PointReader {
  return new PointReader({ machine: 'db1', disks: [diskAt(maxSeq)], index, readAt: segments.readAt });
}

async function apply(index: RecordIndex, layer: SealedLayer): Promise<void> {
  const end = { segment: 1, offset: layer.seq % 2 ** 32 };
  index.applyLayer(layer.diskNo, layer.seq, layer.body, end);
  for (const batch of layer.batches) index.applyBatch(layer.diskNo, layer.seq, batch.batch, batch.applied, end);
  if (layer.dropped) await index.dropLayer(layer.diskNo, layer.seq, end);
}

const planArb: fc.Arbitrary<LayerPlan> = fc.record({
  diskNo: fc.constant(0),
  dropped: fc.nat(4).map((value) => value === 0),
  perBatch: fc.integer({ min: 1, max: 4 }),
  changes: fc
    .uniqueArray(
      fc.record({
        block: fc.nat(blocks - 1),
        mask: fc.oneof(
          fc.constant(0xffff),
          fc.integer({ min: 1, max: 0xffff }),
          fc.nat(15).map((page) => 1 << page),
        ),
        zero: fc.nat(5).map((value) => value === 0),
        fill: fc.nat(9),
      }),
      { selector: (change) => change.block, minLength: 1, maxLength: blocks },
    )
    .map((changes) =>
      changes.map((change) => (change.zero ? { ...change, mask: 0xffff } : change)).sort((a, b) => a.block - b.block),
    ),
});

async function expectImage(reader: PointReader, image: Image): Promise<void> {
  const read = Array.from({ length: blocks }, async (_, block) => {
    const into = Buffer.alloc(blockSize, 0xee);
    await reader.readBlock(0, block, into);
    expect(into.equals(image.get(block) ?? Buffer.alloc(blockSize))).toBe(true);
  });
  await Promise.all(read);
}

/** The problem, and that nothing of the block was handed out. */
async function damageOf(reader: PointReader, block: number): Promise<Problem> {
  const into = Buffer.alloc(blockSize, 0xee);
  const error = await reader.readBlock(0, block, into).then(
    () => new Error(`block ${block} was served`),
    (reason: unknown) => reason,
  );
  if (!isProblem(error)) throw error;
  expect(into.equals(Buffer.alloc(blockSize))).toBe(true);
  return error;
}

/** Three layers over one block: whole, then page 3, then page 5. */
async function threeLayers(
  index: RecordIndex,
  segments: MemorySegments,
): Promise<{ image: Image; layers: SealedLayer[] }> {
  let image: Image = new Map();
  const layers: SealedLayer[] = [];
  for (const [number, mask] of [0xffff, 1 << 3, 1 << 5].entries()) {
    const changes = [{ block: 2, mask, zero: false, fill: number + 1 }];
    const sealed = sealLayer(number + 1, { diskNo: 0, changes, dropped: false, perBatch: 9 }, image, segments);
    await apply(index, sealed.layer);
    image = sealed.image;
    layers.push(sealed.layer);
  }
  return { image, layers };
}

/** An index that says something else of some entries. */
function lying(index: RecordIndex, change: (entry: IndexEntry) => IndexEntry | undefined): RecordLookup {
  const changed = (entry: IndexEntry | undefined): IndexEntry | undefined => entry && change(entry);
  return {
    lookup: (diskNo, block, maxSeq) => changed(index.lookup(diskNo, block, maxSeq)),
    get: (diskNo, block, seq) => changed(index.get(diskNo, block, seq)),
    layer: (diskNo, seq) => index.layer(diskNo, seq),
  };
}

describe('reader at a point', () => {
  it('gives at every point what a plain model gives, over partial, zero and dropped layers', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(planArb, { minLength: 1, maxLength: 10 }), async (plans) => {
        const index = await open();
        await index.clear();
        const segments = new MemorySegments();
        let image: Image = new Map();
        const images: [number, Image][] = [[0, image]];
        for (const [number, plan] of plans.entries()) {
          const seq = 2 ** 32 * (1 + Math.floor(number / 3)) + number;
          const sealed = sealLayer(seq, plan, image, segments);
          image = sealed.image;
          await apply(index, sealed.layer);
          images.push([seq, image]);
        }
        for (const [seq, expected] of images) await expectImage(readerAt(index, segments, seq), expected);
        await index.flushed();
        for (const [seq, expected] of images) await expectImage(readerAt(index, segments, seq), expected);
        await index.close(false);
      }),
      { numRuns: 40 },
    );
  });

  it('finds every flipped bit of a payload, says where it is, and serves nothing', async () => {
    const index = await open();
    const segments = new MemorySegments();
    const { image, layers } = await threeLayers(index, segments);
    const reader = readerAt(index, segments, 99);
    for (const layer of layers) {
      const applied = layer.batches[0]?.applied;
      const bytes = segments.bytes[applied?.segment ?? -1];
      const row = applied?.rows[0];
      if (!applied || !bytes || !row) throw new Error('a layer has a row');
      for (let at = 0; at < row.storedLength; at += Math.ceil(row.storedLength / 9)) {
        const where = applied.payloadOffset + at;
        bytes[where] = (bytes[where] ?? 0) ^ 0x04;
        const problem = await damageOf(reader, 2);
        expect(problem.code).toBe('damaged');
        expect(problem.message).toContain(`machine db1, disk vda, block 2, layer ${layer.seq}`);
        bytes[where] = (bytes[where] ?? 0) ^ 0x04;
      }
    }
    await expectImage(reader, image);
    await index.close(false);
  });

  it('serves nothing on the word of a damaged index', async () => {
    const index = await open();
    const segments = new MemorySegments();
    const { image } = await threeLayers(index, segments);
    const flipped = (bytes: Uint8Array): Buffer => Buffer.from(bytes).fill((bytes[0] ?? 0) ^ 1, 0, 1);
    const lies: ((entry: IndexEntry) => IndexEntry | undefined)[] = [
      (entry) => ({ ...entry, leaf: flipped(entry.leaf) }),
      (entry) => ({ ...entry, tag: flipped(entry.tag) }),
      (entry) => ({ ...entry, nonce: entry.nonce + 1 }),
      (entry) => ({ ...entry, codec: 3 }),
      (entry) => ({
        ...entry,
        codec: 3,
        rawLength: 0,
        storedLength: 0,
        leaf: Buffer.alloc(32),
        pageMask: 0xffff,
        pages: null,
      }),
      (entry) => ({ ...entry, codec: 9 }),
      (entry) => ({ ...entry, pageMask: entry.pageMask ^ 0x10 }),
      (entry) => ({ ...entry, pageMask: 0 }),
      (entry) => ({ ...entry, rawLength: 2 ** 32 - 1 }),
      (entry) => ({ ...entry, storedLength: 2 ** 32 - 1 }),
      (entry) => ({ ...entry, storedLength: 0 }),
      (entry) => ({ ...entry, segment: 77 }),
      (entry) => ({ ...entry, payloadOffset: 2 ** 32 - 1 }),
      (entry) => ({ ...entry, pages: null }),
      (entry) => ({ ...entry, pages: entry.pages && entry.pages.map((seq) => (seq === 2 ? 1 : seq)) }),
      (entry) => ({ ...entry, pages: entry.pages && entry.pages.map((seq) => (seq === 1 ? null : seq)) }),
      (entry) => ({ ...entry, pages: entry.pages && entry.pages.map(() => 50) }),
      (entry) => (entry.seq === 1 ? undefined : entry),
    ];
    for (const [number, lie] of lies.entries()) {
      const problem = await damageOf(readerAt(lying(index, lie), segments, 99), 2);
      expect(problem.code, `lie ${number}`).toBe('damaged');
    }
    await expectImage(readerAt(index, segments, 99), image);
    await index.close(false);
  });

  it('checks the tag of an all-zero record too', async () => {
    const index = await open();
    const segments = new MemorySegments();
    const changes = [{ block: 1, mask: 0xffff, zero: true, fill: 0 }];
    const { layer } = sealLayer(5, { diskNo: 0, changes, dropped: false, perBatch: 1 }, new Map(), segments);
    await apply(index, layer);
    await expectImage(readerAt(index, segments, 9), new Map());
    const liar = lying(index, (entry) => ({ ...entry, tag: Buffer.alloc(16) }));
    expect((await damageOf(readerAt(liar, segments, 9), 1)).code).toBe('damaged');
    await index.close(false);
  });

  it('takes a record for damaged when its layer is gone, and says when a key is', async () => {
    const index = await open();
    const segments = new MemorySegments();
    await threeLayers(index, segments);
    const noLayers: RecordLookup = { ...lying(index, (entry) => entry), layer: () => undefined };
    expect((await damageOf(readerAt(noLayers, segments, 99), 2)).code).toBe('damaged');
    const disk = { ...diskAt(99), keys: new Map([[2, keys]]) };
    const reader = new PointReader({ machine: 'db1', disks: [disk], index, readAt: segments.readAt });
    const problem = await damageOf(reader, 2);
    expect(problem.code).toBe('no-key');
    expect(problem.message).toContain('version 1');
    const wrong = { ...diskAt(99), keys: new Map([[1, { ...keys, diskKey: Buffer.alloc(32) }]]) };
    const stranger = new PointReader({ machine: 'db1', disks: [wrong], index, readAt: segments.readAt });
    expect((await damageOf(stranger, 2)).code).toBe('damaged');
    await index.close(false);
  });

  it.each(['EMFILE', 'ENOMEM', 'EIO', 'EACCES'])(
    'does not call a block damaged because of one read that ended with %s',
    async (code) => {
      const index = await open();
      const segments = new MemorySegments();
      const { image } = await threeLayers(index, segments);
      let failing = true;
      const readAt: typeof segments.readAt = (segment, into, offset) =>
        failing ? Promise.reject(Object.assign(new Error(code), { code })) : segments.readAt(segment, into, offset);
      const reader = new PointReader({ machine: 'db1', disks: [diskAt(99)], index, readAt });
      expect(await damageOf(reader, 2)).toMatchObject({ code: 'read-failed', retryable: true });
      failing = false;
      await expectImage(reader, image);
      await index.close(false);
    },
  );

  it('calls a block damaged when its segment is gone', async () => {
    const index = await open();
    const segments = new MemorySegments();
    await threeLayers(index, segments);
    const readAt = (): Promise<void> => Promise.reject(Object.assign(new Error('gone'), { code: 'ENOENT' }));
    const reader = new PointReader({ machine: 'db1', disks: [diskAt(99)], index, readAt });
    expect((await damageOf(reader, 2)).code).toBe('damaged');
    await index.close(false);
  });

  it('passes on what can be tried again, and refuses another size or disk', async () => {
    const index = await open();
    const segments = new MemorySegments();
    await threeLayers(index, segments);
    const busy = new Problem('segment-busy', 'moved meanwhile', { retryable: true });
    const readAt = (): Promise<void> => Promise.reject(busy);
    const reader = new PointReader({ machine: 'db1', disks: [diskAt(99)], index, readAt });
    expect(await damageOf(reader, 2)).toBe(busy);
    await expect(reader.readBlock(0, 2, Buffer.alloc(512))).rejects.toThrow('4096');
    await expect(reader.readBlock(4, 2, Buffer.alloc(blockSize))).rejects.toMatchObject({ code: 'not-found' });
    await index.close(false);
  });
});

import fc from 'fast-check';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { limits } from '../../src/limits.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { IndexEntry, IndexRow } from '../../src/store/index-codec.ts';
import { IndexReader } from '../../src/store/index-reader.ts';
import { RecordIndex, type AppliedBatch } from '../../src/store/record-index.ts';

const files = posixFiles;
const epoch = 2 ** 32;
let directory = '';

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'tidemark-index-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

const open = (bootId = 'boot', at = directory): Promise<RecordIndex> =>
  RecordIndex.open({ files, directory: at, bootId });

function row(block: number, pageMask: number, codec = 1): IndexRow {
  const rawLength = codec === 3 ? 0 : 256;
  const storedLength = codec === 3 ? 0 : 100 + (block % 7);
  const leaf = Buffer.alloc(32, codec === 3 ? 0 : block + 1);
  return { block, pageMask, codec, storedLength, rawLength, nonce: epoch * 3 + block, leaf, tag: Buffer.alloc(16, 2) };
}

function batchOf(rows: readonly IndexRow[], offset = 4096): AppliedBatch {
  return { segment: 7, entryOffset: offset, payloadOffset: offset + 64, rows };
}

interface ModelRecord {
  readonly seq: number;
  readonly pages: readonly (number | null)[];
}

/** Per disk and block the records in order of seq; the pages of each worked out from nothing. */
class Model {
  readonly records = new Map<string, ModelRecord[]>();

  apply(diskNo: number, seq: number, rows: readonly IndexRow[]): void {
    for (const { block, pageMask, codec } of rows) {
      const list = this.records.get(`${diskNo}/${block}`) ?? [];
      const below = list.at(-1)?.pages ?? Array.from({ length: 16 }, () => null);
      const own = codec === 3 ? null : seq;
      const pages = below.map((held, page) => ((pageMask & (1 << page)) === 0 ? held : own));
      this.records.set(`${diskNo}/${block}`, [...list, { seq, pages }]);
    }
  }

  drop(diskNo: number, seq: number): void {
    for (const [key, list] of this.records) {
      if (key.startsWith(`${diskNo}/`))
        this.records.set(
          key,
          list.filter((record) => record.seq !== seq),
        );
    }
  }

  at(diskNo: number, block: number, maxSeq: number): ModelRecord | undefined {
    return (this.records.get(`${diskNo}/${block}`) ?? []).findLast((record) => record.seq <= maxSeq);
  }
}

/** Where each page comes from, whatever form the entry has. */
function pagesOf(entry: IndexEntry): (number | null)[] {
  if (entry.pages !== null) return [...entry.pages];
  return Array.from({ length: 16 }, () => (entry.codec === 3 ? null : entry.seq));
}

const blocks = 12;
const rowsArb = fc
  .uniqueArray(fc.record({ block: fc.nat(blocks - 1), mask: fc.integer({ min: 1, max: 0xffff }), form: fc.nat(5) }), {
    selector: (item) => item.block,
    maxLength: blocks,
    minLength: 1,
  })
  .map((items) =>
    items
      .sort((a, b) => a.block - b.block)
      .map(({ block, mask, form }) =>
        form === 0 ? row(block, 0xffff, 3) : form === 1 ? row(block, 0xffff) : row(block, mask),
      ),
  );
const layersArb = fc.array(
  fc.record({
    diskNo: fc.constantFrom(0, 1, 0xfffe),
    rows: rowsArb,
    dropped: fc.nat(4).map((value) => value === 0),
    flush: fc.boolean(),
    perBatch: fc.integer({ min: 1, max: 5 }),
  }),
  { maxLength: 12 },
);
type Layers = typeof layersArb extends fc.Arbitrary<infer T> ? T : never;

async function applyAll(index: RecordIndex, layers: Layers, model?: Model): Promise<number[]> {
  const seqs: number[] = [];
  for (const [number, layer] of layers.entries()) {
    const seq = epoch * (1 + Math.floor(number / 3)) + number;
    seqs.push(seq);
    index.applyLayer(layer.diskNo, seq, Buffer.alloc(56, number), { segment: 7, offset: number * 100 });
    for (let from = 0; from < layer.rows.length; from += layer.perBatch) {
      const part = layer.rows.slice(from, from + layer.perBatch);
      const position = { segment: 7, offset: number * 100 + from };
      index.applyBatch(layer.diskNo, seq, from / layer.perBatch, batchOf(part, position.offset), position);
    }
    model?.apply(layer.diskNo, seq, layer.rows);
    if (layer.dropped) {
      await index.dropLayer(layer.diskNo, seq, { segment: 7, offset: number * 100 + 99 });
      model?.drop(layer.diskNo, seq);
    }
    if (layer.flush) await index.flushed();
  }
  return seqs;
}

/** Everything an index says, in plain values. */
async function dump(index: RecordIndex): Promise<unknown> {
  const reader = await index.reader();
  return [0, 1, 0xfffe].map((diskNo) => ({
    layers: [...reader.layersOf(diskNo)].map((seq) => [
      seq,
      Buffer.from(reader.layer(diskNo, seq) ?? []).toString('hex'),
      reader.batchCountOf(diskNo, seq),
      [...reader.batchesOf(diskNo, seq)].map((batch) => ({
        ...batch,
        blocks: [...batch.blocks].map((block) => reader.get(diskNo, block, seq)),
      })),
    ]),
    entries: [...reader.entriesAt(diskNo, Number.MAX_SAFE_INTEGER)],
  }));
}

describe('record index', () => {
  it('equals a model over random layers, partial masks, zeros and drops, before and after the commit', async () => {
    await fc.assert(
      fc.asyncProperty(layersArb, async (layers) => {
        const index = await open();
        await index.clear();
        const model = new Model();
        const seqs = await applyAll(index, layers, model);
        const check = (): void => {
          for (const maxSeq of [0, ...seqs, Number.MAX_SAFE_INTEGER]) {
            for (const diskNo of [0, 1, 0xfffe]) {
              for (let block = 0; block < blocks; block += 1) {
                const entry = index.lookup(diskNo, block, maxSeq);
                const expected = model.at(diskNo, block, maxSeq);
                expect(entry?.seq).toBe(expected?.seq);
                if (entry) {
                  expect(pagesOf(entry)).toEqual(expected?.pages);
                  expect(index.get(diskNo, block, entry.seq)).toEqual(entry);
                }
              }
            }
          }
        };
        check();
        await index.flushed();
        check();
        const reader = await index.reader();
        for (const maxSeq of [0, ...seqs]) {
          const found = [...reader.entriesAt(1, maxSeq, 3)].map((entry) => [entry.block, entry.seq]);
          const expected = Array.from({ length: blocks - 3 }, (_, at) => [at + 3, model.at(1, at + 3, maxSeq)?.seq]);
          expect(found).toEqual(expected.filter(([, seq]) => seq !== undefined));
        }
        await index.close(false);
      }),
      { numRuns: 40 },
    );
  });

  it('says of a record what its row and its batch say', async () => {
    const index = await open();
    const seq = epoch * 5 + 9;
    const rows = [row(4, 0xffff), row(5, 0x8001), row(9, 0xffff, 3)];
    index.applyLayer(3, seq, Buffer.alloc(56, 1), { segment: 7, offset: 10 });
    index.applyBatch(3, seq, 0, batchOf(rows, 1000), { segment: 7, offset: 2000 });
    for (const flush of [false, true]) {
      if (flush) await index.flushed();
      let payloadOffset = 1064;
      for (const expected of rows) {
        const entry = index.lookup(3, expected.block, seq);
        expect(entry).toMatchObject({ ...expected, seq, segment: 7, payloadOffset });
        payloadOffset += expected.storedLength;
      }
      expect(index.position).toEqual({ segment: 7, offset: 2000 });
      expect(index.layer(3, seq)).toEqual(Buffer.alloc(56, 1));
      expect(index.lookup(2, 4, seq)).toBeUndefined();
      expect(index.lookup(3, 4, seq - 1)).toBeUndefined();
    }
    const reader = await index.reader();
    expect([...reader.batchesOf(3, seq)]).toEqual([
      { seq, batch: 0, segment: 7, entryOffset: 1000, blocks: Uint32Array.of(4, 5, 9) },
    ]);
    await index.close(true);
  });

  it('built a second time, or with its last part applied twice, is the same', async () => {
    const sample = fc.sample(layersArb, { numRuns: 20, seed: 7 });
    for (const [number, layers] of sample.entries()) {
      const kept = layers.map((layer) => ({ ...layer, dropped: false }));
      const first = await open('boot', path.join(directory, `a${number}`));
      await applyAll(first, kept);
      const second = await open('boot', path.join(directory, `b${number}`));
      await applyAll(second, kept);
      const again = await dump(first);
      expect(await dump(second)).toEqual(again);
      await second.clear();
      expect(second.position).toEqual({ segment: 0, offset: 0 });
      expect(await dump(second)).not.toEqual(kept.length > 0 ? again : null);
      await applyAll(second, kept);
      await applyAll(second, kept);
      expect(await dump(second)).toEqual(again);
      await Promise.all([first.close(true), second.close(true)]);
    }
  });

  it('goes on where it was after a clean and after an unclean close', async () => {
    const index = await open();
    index.applyBatch(0, 1, 0, batchOf([row(1, 0xffff)]), { segment: 1, offset: 5 });
    await index.close(true);
    const second = await open();
    expect(second.position).toEqual({ segment: 1, offset: 5 });
    second.applyBatch(0, 2, 0, batchOf([row(1, 1)]), { segment: 1, offset: 6 });
    await second.close(false);
    const third = await open();
    expect(third.position).toEqual({ segment: 1, offset: 6 });
    expect(third.lookup(0, 1, 9)?.pages?.slice(0, 2)).toEqual([2, 1]);
    await third.close(false);
  });

  it('counts after a reboot only if it was closed cleanly', async () => {
    const index = await open('boot 1');
    index.applyBatch(0, 1, 0, batchOf([row(1, 0xffff)]), { segment: 1, offset: 5 });
    await index.close(true);
    const afterClean = await open('boot 2');
    expect(afterClean.position.offset).toBe(5);
    await afterClean.close(false);
    expect(await IndexReader.openReadOnly({ files, directory, bootId: 'boot 3' })).toBeNull();
    const afterUnclean = await open('boot 3');
    expect(afterUnclean.position).toEqual({ segment: 0, offset: 0 });
    expect(afterUnclean.lookup(0, 1, 9)).toBeUndefined();
    await afterUnclean.close(true);
  });

  it('that is no LMDB file, or has lost its boot file, is begun anew', async () => {
    const index = await open();
    index.applyBatch(0, 1, 0, batchOf([row(1, 0xffff)]), { segment: 1, offset: 5 });
    await index.close(true);
    writeFileSync(path.join(directory, 'boot.json'), '{"boot": 3');
    const anew = await open();
    expect(anew.position.offset).toBe(0);
    await anew.close(true);
    writeFileSync(path.join(directory, 'data.mdb'), Buffer.alloc(100_000, 0x5a));
    rmSync(path.join(directory, 'lock.mdb'));
    const fresh = await open();
    expect(fresh.position.offset).toBe(0);
    fresh.applyBatch(0, 1, 0, batchOf([row(1, 0xffff)]), { segment: 1, offset: 5 });
    await fresh.flushed();
    await fresh.close(true);
    const last = await open();
    expect(last.position.offset).toBe(5);
    await last.close(true);
  });

  it('that was opened again and again without a clean close is begun anew', async () => {
    const offsets: number[] = [];
    for (let start = 1; start <= limits.store.indexStartsMax + 2; start += 1) {
      const index = await open();
      offsets.push(index.position.offset);
      index.applyBatch(0, start, 0, batchOf([row(1, 0xffff)]), { segment: 1, offset: start });
      await index.close(false);
    }
    expect(offsets).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 0, 9]);
  });

  it('refuses to go on once a transaction of its own was lost or another one came between', async () => {
    const index = await open();
    const other = await open();
    index.applyBatch(0, 1, 0, batchOf([row(1, 0xffff)]), { segment: 1, offset: 5 });
    await index.flushed();
    other.applyBatch(0, 1, 0, batchOf([row(2, 0xffff)]), { segment: 1, offset: 9 });
    await expect(other.flushed()).rejects.toMatchObject({ code: 'index-failed', retryable: true });
    expect(() => other.advance({ segment: 1, offset: 10 })).toThrow('could not be written');
    await expect(other.room()).rejects.toMatchObject({ code: 'index-failed' });
    await expect(other.close(true)).resolves.toBeUndefined();
    expect(index.lookup(0, 2, 9)).toBeUndefined();
    expect(index.position).toEqual({ segment: 1, offset: 5 });
    await index.close(true);
  });

  it('holds its backlog within the limit', async () => {
    const index = await open();
    const rows = Array.from({ length: 4096 }, (_, block) => row(block, 0xffff));
    let highest = 0;
    for (let number = 0; number < 40; number += 1) {
      await index.room();
      index.applyBatch(0, 1 + number, 0, batchOf(rows), { segment: 1, offset: number });
      highest = Math.max(highest, index.backlogRecords);
    }
    expect(highest).toBeGreaterThan(limits.store.indexBacklogRecordsMax / 2);
    expect(highest).toBeLessThanOrEqual(limits.store.indexBacklogRecordsMax + 4096);
    await index.flushed();
    expect(index.backlogRecords).toBe(0);
    const flood = async (): Promise<void> => {
      await Promise.resolve();
      for (let number = 40; ; number += 1) {
        index.applyBatch(0, 1 + number, 0, batchOf(rows), { segment: 1, offset: number });
      }
    };
    await expect(flood()).rejects.toThrow('room() is awaited');
    await index.close(false);
  });
});

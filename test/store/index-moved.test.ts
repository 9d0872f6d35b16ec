/** A replay in which records come after those above them, and layers are dropped long after: the page maps are as if all had come in order. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { posixFiles } from '../../src/posix/files.ts';
import { replayMoved } from '../../src/store/index-moved.ts';
import type { IndexRow } from '../../src/store/index-codec.ts';
import { RecordIndex } from '../../src/store/record-index.ts';
import { encodeLayerBody } from '../../src/store/segment-format.ts';
import { layerOf } from './segment-fixture.ts';

const scratch = mkdtempSync(path.join(tmpdir(), 'tidemark-moved-'));
afterAll(() => {
  rmSync(scratch, { recursive: true, force: true });
});

const rowOf = (block: number, pageMask: number): IndexRow => ({
  block,
  pageMask,
  codec: 1,
  storedLength: 10,
  rawLength: 4096,
  nonce: 0,
  leaf: new Uint8Array(32),
  tag: new Uint8Array(16),
});

let indices = 0;
async function openIndex(): Promise<RecordIndex> {
  indices += 1;
  return RecordIndex.open({ files: posixFiles, directory: path.join(scratch, String(indices)), bootId: 'b' });
}

function batch(index: RecordIndex, seq: number, masks: readonly number[]): void {
  const end = { segment: 9, offset: seq * 100 };
  index.applyLayer(0, seq, encodeLayerBody(layerOf(seq)), end);
  const rows = masks.map((mask, block) => rowOf(block, mask)).filter(({ pageMask }) => pageMask !== 0);
  index.applyBatch(0, seq, 0, { segment: 9, entryOffset: 1, payloadOffset: 2, rows }, end);
}

/** As `replayMoved` gets them. */
const full = (seq: number, block: number, mask: number, payloadOffset: number) => ({
  ...rowOf(block, mask),
  seq,
  payloadOffset,
});

const pagesOf = (index: RecordIndex, block: number, seq: number): (number | null)[] =>
  [...(index.get(0, block, seq)?.pages ?? [])].slice(0, 4);

it('puts moved records in between, and makes the maps above them anew', async () => {
  const index = await openIndex();
  batch(index, 5, [0b0001, 0xffff]);
  batch(index, 7, [0b0010, 0b0100]);
  await index.flushed();
  expect(pagesOf(index, 0, 7)).toEqual([5, 7, null, null]);
  const moved = {
    layers: new Map([2, 3].map((seq) => [seq, encodeLayerBody(layerOf(seq))])),
    rows: [full(3, 0, 0b1000, 300), full(2, 0, 0xffff, 310), full(2, 1, 0b0001, 320)],
  };
  const [at, end] = [
    { segment: 12, offset: 1_000 },
    { segment: 12, offset: 2_000 },
  ];
  // Killed after the first step and begun again: the same.
  for (const again of [false, true]) {
    await replayMoved(index, 0, moved, at, end);
    await index.flushed();
    expect(pagesOf(index, 0, 3), String(again)).toEqual([2, 2, 2, 3]);
    expect(pagesOf(index, 0, 5)).toEqual([5, 2, 2, 3]);
    expect(pagesOf(index, 0, 7)).toEqual([5, 7, 2, 3]);
    expect(pagesOf(index, 1, 7)).toEqual([5, 5, 7, 5]);
    expect(index.get(0, 0, 3)).toMatchObject({ segment: 12, payloadOffset: 1_064 + 300 });
    expect(index.layer(0, 2)).toEqual(Buffer.from(moved.layers.get(2) ?? []));
    expect(index.position).toEqual(end);
  }
  await index.close(false);
});

it('drops a layer long after it was begun, and what was laid over it stands on what was below', async () => {
  const index = await openIndex();
  batch(index, 1, [0xffff, 0b0001]);
  batch(index, 2, [0b0011, 0b0010]);
  batch(index, 3, [0b0100, 0b0100]);
  await index.flushed();
  expect(pagesOf(index, 0, 3)).toEqual([2, 2, 3, 1]);
  await index.dropLayer(0, 2, { segment: 9, offset: 999 });
  expect(pagesOf(index, 0, 3)).toEqual([1, 1, 3, 1]);
  expect(pagesOf(index, 1, 3)).toEqual([1, null, 3, null]);
  expect(index.get(0, 0, 2)).toBeUndefined();
  expect((await index.reader()).batchCountOf(0, 2)).toBe(0);
  await index.close(false);
});

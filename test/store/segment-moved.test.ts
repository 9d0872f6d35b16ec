/** MOVED bodies, and a log from which segments were removed. */
import { expect, it } from 'vitest';
import { bodyDigestFits, encodeLayerBody, segmentName } from '../../src/store/segment-format.ts';
import { decodeMoved, encodeMoved, movedTableBytes, type RowToMove } from '../../src/store/segment-moved.ts';
import { readAll, appendLayer, directory, emptyDisk, layerOf, machineId, openLog } from './segment-fixture.ts';
import { replayAll } from '../../src/store/replay.ts';

const pageSize = 4096;
const rowOf = (seq: number, block: number, payloadBytes: number): RowToMove => ({
  row: {
    seq,
    block,
    pageMask: payloadBytes === 0 ? 0xffff : 1,
    codec: payloadBytes === 0 ? 3 : 1,
    storedLength: payloadBytes,
    rawLength: payloadBytes === 0 ? 0 : pageSize,
    nonce: 2 ** 33 + block,
    leaf: new Uint8Array(32).fill(seq),
    tag: new Uint8Array(16).fill(block),
  },
  payload: new Uint8Array(payloadBytes).fill(seq * 16 + block),
});
const rows = [rowOf(3, 7, 100), rowOf(9, 2, 0), rowOf(3, 8, 33)];
const layers = [layerOf(3), layerOf(9)].map(encodeLayerBody);

it('comes back as it was, from the table alone too, and from nothing that is not whole', () => {
  const body = encodeMoved(layers, rows);
  const table = movedTableBytes({ layers: 2, rows: 3 });
  expect(table).toBe(64 + 2 * 56 + 3 * 80);
  expect(body.byteLength).toBe(table + 133);
  expect(bodyDigestFits(body)).toBe(true);
  for (const read of [
    decodeMoved(body, pageSize, body.byteLength),
    decodeMoved(body.subarray(0, table), pageSize, body.byteLength),
  ]) {
    expect(read?.rows.map(({ payloadOffset, ...row }) => row)).toEqual(rows.map(({ row }) => row));
    expect(read?.rows.map(({ payloadOffset }) => payloadOffset)).toEqual([table, table + 100, table + 100]);
    expect([...(read?.layers ?? [])]).toEqual([
      [3, Uint8Array.from(layers[0] ?? [])],
      [9, Uint8Array.from(layers[1] ?? [])],
    ]);
  }
  for (let at = 0; at < table; at += 1) expect(decodeMoved(body.subarray(0, at), pageSize, body.byteLength)).toBeNull();
  expect(decodeMoved(body, pageSize, body.byteLength + 1)).toBeNull();
  expect(decodeMoved(body, pageSize / 2, body.byteLength)).toBeNull();
  const counts = Buffer.from(body);
  counts.writeUInt32LE(2 ** 31, 12);
  expect(decodeMoved(counts, pageSize, body.byteLength)).toBeNull();
});

it('stands in the log as any entry does: every byte of it is covered', async () => {
  const disk = emptyDisk();
  const { log } = await openLog(disk);
  await appendLayer(log, 0, 1, 1);
  const moved = log.append({ type: 'moved', diskNo: 0, body: encodeMoved(layers, rows) });
  await moved.durable;
  await appendLayer(log, 0, 2, 1);
  const extents = log.extentsSince(null);
  const { position, end } = moved;
  const path = `${directory}/${segmentName(position.segment)}`;
  const { seen } = await readAll(disk, extents);
  expect(seen).toHaveLength(5);
  for (let at = position.offset; at < end.offset; at += 1) {
    const changed = disk.copy();
    const content = changed.content(path);
    const byte = Buffer.alloc(1);
    content.read(byte, at);
    content.write(Buffer.from([(byte[0] ?? 0) ^ 0x10]), at);
    changed.overwrite(path, content);
    const { outcome } = await readAll(changed, extents);
    expect(outcome.damage, `byte ${at - position.offset}`).toMatchObject([
      { segment: position.segment, offset: position.offset },
    ]);
  }
  await log.close();
});

it('misses nothing where a segment was removed, whatever still lies there, and opens as if it did not', async () => {
  const disk = emptyDisk();
  const { log } = await openLog(disk);
  for (let seq = 1; seq <= 6; seq += 1) await appendLayer(log, 0, seq, 3, 200);
  await log.close();
  const all = log.extentsSince(null);
  expect(all.length).toBeGreaterThan(3);
  const removed = new Set([1, 3]);
  const extents = all.filter(({ segment }) => !removed.has(segment));
  const reads = (from: typeof disk): ReturnType<typeof replayAll> =>
    replayAll({ files: from, directory, machineId, extents, removed, check: 'digests' }, () => undefined);
  expect((await reads(disk)).damage).toEqual([]);
  const { outcome } = await openLog(disk, extents, undefined, removed);
  expect(outcome.damage).toEqual([]);
  expect(outcome.segments.map(({ segment }) => segment)).toEqual(extents.map(({ segment }) => segment));
  expect((await reads(disk)).damage).toEqual([]);
  for (const segment of removed) await disk.remove(`${directory}/${segmentName(segment)}`);
  expect((await reads(disk)).damage).toEqual([]);
  // Without being told it is damage.
  expect((await readAll(disk, extents)).outcome.damage.length).toBeGreaterThan(0);
});

it('takes nothing above the end of a given-up segment for damage when the one after it was removed', async () => {
  const disk = emptyDisk();
  const { log } = await openLog(disk);
  await appendLayer(log, 0, 1, 1, 200);
  disk.failNth(2, { code: 'EIO', wrote: 'all' });
  await expect(appendLayer(log, 0, 2, 1, 200)).rejects.toThrow();
  for (let seq = 3; seq <= 8; seq += 1) await appendLayer(log, 0, seq, 3, 200);
  await log.close();
  const removed = new Set([2]);
  const extents = log.extentsSince(null).filter(({ segment }) => !removed.has(segment));
  await disk.remove(`${directory}/${segmentName(2)}`);
  const read = await replayAll(
    { files: disk, directory, machineId, extents, removed, check: 'digests' },
    () => undefined,
  );
  expect(disk.content(`${directory}/${segmentName(1)}`).size).toBeGreaterThan(extents[0]?.length ?? Infinity);
  expect(read.damage).toEqual([]);
});

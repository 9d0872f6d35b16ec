import { describe, expect, it } from 'vitest';
import { digest } from '../../src/kernels/hash.ts';
import { PointsLog, readPoints } from '../../src/store/points-log.ts';
import { encodeRecord, firstPreviousHash, type PointBody, type PointsEntry } from '../../src/store/points-record.ts';
import { diskWith, emptyDisk, machineId } from './segment-fixture.ts';
import { worstDice } from '../simulated-bytes.ts';
import type { SimulatedFiles } from '../simulated-files.ts';
import { runOf } from '../layers.ts';

const path = '/data/machines/m/points.log';

function point(number: number): PointBody {
  return {
    point: number,
    cutTimeMs: 1000 + number,
    committedMs: 2000 + number,
    consistency: 'crash',
    epoch: 1,
    disks: [
      {
        no: 0,
        size: 1 << 20,
        blockSize: 65536,
        root: 'ab'.repeat(32),
        layers: runOf([2 ** 32 + number]),
        kind: 'delta',
        records: 1,
        payloadBytes: 10,
      },
    ],
    extents: [{ segment: number, length: 100 * number, chain: 'cd'.repeat(32) }],
  };
}

const entries: readonly PointsEntry[] = [
  { type: 'epoch', body: { epoch: 1, instance: 'aa', atMs: 1 } },
  { type: 'point', body: point(1) },
  { type: 'gap', body: { atMs: 5, points: 1, reason: 'drain', detail: 'the cut was given up' } },
  { type: 'proven', body: { point: 1, atMs: 6, blocks: 3 } },
  { type: 'point', body: point(2) },
  { type: 'damaged', body: { point: 2, atMs: 7, disk: 0, blocks: [4, 5] } },
];

async function written(): Promise<{ disk: SimulatedFiles; bytes: Buffer; ends: number[] }> {
  const disk = emptyDisk();
  const log = await PointsLog.open({ files: disk, path, machineId });
  const ends: number[] = [];
  for (const entry of entries) {
    await log.append(entry);
    ends.push(disk.content(path).size);
  }
  await log.close();
  return { disk, bytes: disk.content(path).bytes(), ends };
}

const read = (disk: SimulatedFiles): ReturnType<typeof readPoints> => readPoints({ files: disk, path, machineId });

it('has these bytes', () => {
  const entry: PointsEntry = { type: 'proven', body: { point: 1, atMs: 6, blocks: 3 } };
  const bytes = encodeRecord(entry, { number: 3, previousHash: firstPreviousHash(machineId) });
  const body = Buffer.from('{"point":1,"atMs":6,"blocks":3}');
  const head = Buffer.concat([
    Buffer.from('TMPL', 'latin1'),
    Buffer.from('03000200' + '1f000000' + '03000000', 'hex'),
    digest(machineId),
    body,
  ]);
  expect(Buffer.from(bytes)).toEqual(Buffer.concat([head, digest(head)]));
});

it('says the same after each opening, for the writer and for readers', async () => {
  const { disk } = await written();
  const log = await PointsLog.open({ files: disk.afterPowerLoss(worstDice), path, machineId });
  const { view, tail } = await read(disk);
  expect(tail).toBe('none');
  for (const seen of [log.view, view]) {
    expect(seen.points).toEqual([point(1), point(2)]);
    expect(seen.lastPoint?.point).toBe(2);
    expect(seen.epoch?.epoch).toBe(1);
    expect([...seen.proven.keys()]).toEqual([1]);
    expect([1, 2].map((number) => seen.stateOf(number))).toEqual(['proven', 'damaged']);
    expect([...(seen.damaged.get(2)?.get(0) ?? [])]).toEqual([4, 5]);
    expect(seen.gaps).toEqual([{ atMs: 5, points: 1, reason: 'drain', detail: 'the cut was given up' }]);
    expect(seen.extents).toHaveLength(2);
    expect(seen.mark).toEqual({ segment: 2, offset: 200 });
  }
  expect(log.repaired).toBeNull();
  expect((await read(emptyDisk())).view.points).toEqual([]);
});

it('takes only what can follow', async () => {
  const { disk } = await written();
  const log = await PointsLog.open({ files: disk, path, machineId });
  await expect(log.append({ type: 'epoch', body: { epoch: 1, instance: 'b', atMs: 9 } })).rejects.toThrow(
    /epoch 1 does not follow 1/,
  );
  await expect(log.append({ type: 'point', body: point(4) })).rejects.toThrow(/point 4 where 3 is due/);
  await expect(log.append({ type: 'proven', body: { point: 3, atMs: 1, blocks: 0 } })).rejects.toThrow(/no point 3/);
  await expect(log.append({ type: 'point', body: { ...point(3), disks: [] } })).rejects.toThrow(/fits its schema/);
  await Promise.all([log.append({ type: 'point', body: point(3) }), log.append({ type: 'point', body: point(4) })]);
  expect((await read(disk)).view.points).toHaveLength(4);
});

it('takes no point of a session whose epoch was taken over meanwhile', async () => {
  const { disk } = await written();
  const log = await PointsLog.open({ files: disk, path, machineId });
  await log.append({ type: 'epoch', body: { epoch: 2, instance: 'bb', atMs: 9 } });
  await expect(log.append({ type: 'point', body: point(3) })).rejects.toThrow(/point of epoch 1 under epoch 2/);
  await log.append({ type: 'point', body: { ...point(3), epoch: 2 } });
  expect(log.view.lastPoint).toMatchObject({ point: 3, epoch: 2 });
});

describe('an end that does not check', () => {
  it('is cut off with a copy kept, at every byte of the last two records, and the log goes on', async () => {
    const { bytes, ends } = await written();
    for (let length = ends.at(-3) ?? 0; length < bytes.byteLength; length += 1) {
      const disk = diskWith(path, bytes.subarray(0, length));
      const whole = ends.filter((end) => end <= length);
      const cut = whole.at(-1) ?? 0;
      const before = await read(disk);
      expect(before.tail).toBe(cut === length ? 'none' : 'torn');
      expect(disk.content(path).size).toBe(length);
      const log = await PointsLog.open({ files: disk, path, machineId });
      expect(log.repaired?.offset).toBe(cut === length ? undefined : cut);
      if (log.repaired) expect(disk.content(log.repaired.copy).bytes()).toEqual(bytes.subarray(cut, length));
      await log.append({ type: 'gap', body: { atMs: 1, points: 1, reason: 'other', detail: 'after' } });
      const after = await read(disk.afterPowerLoss(worstDice));
      expect(after.tail).toBe('none');
      expect(after.view.points).toHaveLength(before.view.points.length);
      expect(after.view.gaps).toHaveLength(2);
    }
  });

  it('with a whole record behind it is damage: nothing is written, readers get what lies before', async () => {
    const { bytes, ends } = await written();
    const last = ends.at(-2) ?? 0;
    for (let at = 0; at < bytes.byteLength; at += 1) {
      const changed = Buffer.from(bytes);
      changed.writeUInt8(changed.readUInt8(at) ^ 0x10, at);
      const disk = diskWith(path, changed);
      const { tail, length } = await read(disk);
      expect(tail, `byte ${at}`).toBe(at < last ? 'damaged' : 'torn');
      expect(length).toBe(ends.filter((end) => end <= at).at(-1) ?? 0);
      if (at >= last || at % 7 > 0) continue;
      await expect(PointsLog.open({ files: disk, path, machineId })).rejects.toMatchObject({ code: 'damaged' });
      expect(disk.content(path).bytes()).toEqual(changed);
    }
  });

  it('a log of another machine, and records exchanged or left out, are damage', async () => {
    const { bytes, ends } = await written();
    const foreign = { files: diskWith(path, bytes), path, machineId: new Uint8Array(16).fill(7) };
    expect((await readPoints(foreign)).tail).toBe('damaged');
    const without = Buffer.concat([bytes.subarray(0, ends[1]), bytes.subarray(ends[2])]);
    expect((await read(diskWith(path, without))).tail).toBe('damaged');
  });
});

it('out of space leaves nothing of the record behind', async () => {
  const disk = emptyDisk();
  const log = await PointsLog.open({ files: disk, path, machineId });
  disk.failNth(1, { code: 'ENOSPC', wrote: 'half' });
  const long: PointsEntry = { type: 'gap', body: { atMs: 1, points: 1, reason: 'other', detail: 'x'.repeat(1024) } };
  await expect(log.append(long)).rejects.toMatchObject({ code: 'full', retryable: true });
  await log.append({ type: 'gap', body: { atMs: 2, points: 1, reason: 'other', detail: 'short' } });
  expect((await read(disk)).tail).toBe('none');
  expect(log.view.gaps).toHaveLength(1);
});

it('can be read while it is written', async () => {
  const { bytes, ends } = await written();
  const { view, tail } = await read(diskWith(path, bytes.subarray(0, (ends[4] ?? 0) - 3)));
  expect(tail).toBe('torn');
  expect(view.points).toHaveLength(1);
});

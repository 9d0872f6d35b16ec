/** A point's record that says of its layers what can not be: whoever wrote it, it is not believed. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { digest } from '../../src/kernels/hash.ts';
import type { LayerRun } from '../../src/kernels/layer-run.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { PointsLog, readPoints, type PointsLogOptions } from '../../src/store/points-log.ts';
import { encodeRecord, firstPreviousHash, type PointBody } from '../../src/store/points-record.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { runOf } from '../layers.ts';

const machineId = new Uint8Array(16).fill(7);
const headerBytes = 48;

/** Of two disks, of which the second adds nothing. */
function point(number: number, layers: LayerRun | null): PointBody {
  const disk = { size: 1 << 20, blockSize: 65_536, root: 'ab'.repeat(32), kind: 'delta', records: 1 } as const;
  return {
    point: number,
    cutTimeMs: number,
    committedMs: number,
    consistency: 'crash',
    epoch: 1,
    disks: [
      { no: 0, ...disk, layers, payloadBytes: 10 },
      { no: 1, ...disk, layers: null, payloadBytes: 0 },
    ],
    extents: [],
  };
}

const first = point(1, runOf([seqOf(1, 1), seqOf(1, 4)]));
const good = runOf([seqOf(1, 5), seqOf(1, 9)]);

const wrong: Readonly<Record<string, unknown>> = {
  'listed before': runOf([seqOf(1, 4), seqOf(1, 9)]),
  'of an epoch that had not begun': runOf([seqOf(1, 5), seqOf(2, 1)]),
  'that end before they begin': { ...good, first: seqOf(1, 10) },
  'more than fit in between': { ...good, count: 6 },
  'none, with a first and a last': { ...good, count: 0 },
  'one, that is two': { ...good, count: 1 },
  'without a chain': { ...good, chain: '' },
  'one by one, as in version 1': [seqOf(1, 5), seqOf(1, 9)],
};

let directory = '';
let options: PointsLogOptions;
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-layers-'));
  options = { files: posixFiles, path: path.join(directory, 'points.log'), machineId };
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

/** A log of point 1 and a point 2 with these layers, every hash of which fits. */
async function writeLog(layers: unknown): Promise<{ readonly whole: number }> {
  const before = encodeRecord(
    { type: 'point', body: first },
    { number: 0, previousHash: firstPreviousHash(machineId) },
  );
  const place = { number: 1, previousHash: before.subarray(before.byteLength - 32) };
  const second = point(2, good);
  const header = encodeRecord({ type: 'point', body: second }, place).subarray(0, headerBytes);
  const body = Buffer.from(
    JSON.stringify({ ...second, disks: second.disks.map((disk) => (disk.no === 0 ? { ...disk, layers } : disk)) }),
  );
  const record = Buffer.concat([header, body]);
  record.writeUInt32LE(body.byteLength, 8);
  await writeFile(options.path, Buffer.concat([before, record, digest(record)]));
  return { whole: before.byteLength };
}

test('a record with layers that can be is read, by readers and by the writer', async () => {
  await writeLog(good);
  const { tail, view } = await readPoints(options);
  expect([tail, view.points]).toEqual(['none', [first, point(2, good)]]);
  const log = await PointsLog.open(options);
  expect(log.view.points).toHaveLength(2);
  await log.close();
});

test.each(Object.entries(wrong))('layers %s are damage, and what lies before is read', async (_name, layers) => {
  const { whole } = await writeLog(layers);
  const { tail, view, length } = await readPoints(options);
  expect([tail, view.points, length]).toEqual(['damaged', [first], whole]);
  await expect(PointsLog.open(options)).rejects.toMatchObject({ code: 'damaged' });
});

test('such a point is not written; one that adds no layers is, and the next one follows the last that did', async () => {
  const log = await PointsLog.open(options);
  const append = (body: PointBody): Promise<void> => log.append({ type: 'point', body });
  await append(first);
  await expect(append(point(2, runOf([seqOf(1, 4)])))).rejects.toThrow(
    /lists layer 4294967300 of disk 0 after 4294967300/,
  );
  await expect(append(point(2, runOf([seqOf(2, 1)])))).rejects.toThrow(/of epoch 1 lists layer 8589934593 of disk 0/);
  await append(point(2, null));
  await expect(append(point(3, runOf([seqOf(1, 2)])))).rejects.toThrow(/after 4294967300/);
  await append(point(3, good));
  await log.close();
  expect((await readPoints(options)).view.points).toHaveLength(3);
});

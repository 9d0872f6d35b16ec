import { afterEach, expect, it } from 'vitest';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { invariant } from '../../src/kit/invariant.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { replayAll } from '../../src/store/replay.ts';
import { segmentLimits } from '../../src/store/segment-log.ts';
import { openSegmentLog } from '../../src/store/segment-recovery.ts';
import {
  appendLayer,
  directory,
  emptyDisk,
  layerOf,
  machineId,
  openLog,
  readAll,
  sealedBody,
  smallLimits,
} from './segment-fixture.ts';
import { worstDice } from '../simulated-bytes.ts';

const left: string[] = [];
afterEach(async () => {
  for (const path of left.splice(0)) await rm(path, { recursive: true, force: true });
});

it('replays what was appended, across segments, and again after each reopening', async () => {
  const disk = emptyDisk();
  const names: string[] = [];
  for (let round = 1; round <= 4; round += 1) {
    const { log, seen, outcome } = await openLog(disk);
    expect(seen).toEqual(names);
    expect(outcome.damage).toEqual([]);
    expect(outcome.torn).toBeNull();
    names.push(...(await appendLayer(log, 0, round, 12)), ...(await appendLayer(log, 3, round + 100, 5)));
    if (round % 2 === 0) await log.close();
  }
  const { seen, outcome } = await readAll(disk);
  expect(seen).toEqual(names);
  expect(outcome.segments.length).toBeGreaterThan(4);
  expect(outcome.segments.some(({ hasFooter }) => hasFooter)).toBe(true);
});

it('writes what is appended together with one datasync, within the bound of a group', async () => {
  const disk = emptyDisk();
  const { log } = await openLog(disk, [], { ...smallLimits, segmentBytesMax: 1 << 20, groupBytesMax: 1 << 16 });
  await appendLayer(log, 0, 1, 1);
  let datasyncs = 0;
  disk.watch = (operation) => {
    if (operation === 'datasync') datasyncs += 1;
  };
  await appendLayer(log, 0, 2, 100);
  expect(datasyncs).toBe(1);
  await appendLayer(log, 0, 3, 100, 2000);
  expect(datasyncs).toBe(1 + 4);
});

it('resolves in order, and only what is synced', async () => {
  const disk = emptyDisk();
  const { log } = await openLog(disk);
  const order: number[] = [];
  log.append({ type: 'layer', diskNo: 0, layer: layerOf(1) });
  const all = Array.from({ length: 20 }, async (_, batch) => {
    const { durable, end } = log.append({ type: 'batch', diskNo: 0, body: sealedBody(1, batch) });
    await durable;
    expect(log.durableEnd.segment).toBeGreaterThanOrEqual(end.segment);
    order.push(batch);
  });
  expect(order).toEqual([]);
  await Promise.all(all);
  expect(order).toEqual([...order].sort((a, b) => a - b));
});

it('names for a point how far each segment grew since the last one, also over a reopening', async () => {
  const disk = emptyDisk();
  const first = await openLog(disk);
  await appendLayer(first.log, 0, 1, 3);
  const one = first.log.extentsSince(null);
  expect(one.map(({ segment }) => segment)).toEqual([1]);
  await appendLayer(first.log, 0, 2, 20);
  const last = one.at(-1);
  invariant(last, 'an extent');
  const two = first.log.extentsSince({ segment: last.segment, offset: last.length });
  expect(two[0]?.segment).toBe(1);
  expect(two.length).toBeGreaterThan(2);
  const again = await openLog(disk.copy(), one);
  expect(again.log.extentsSince({ segment: last.segment, offset: last.length })).toEqual(two);
  expect(again.outcome.damage).toEqual([]);
  expect(
    again.log.extentsSince(two.at(-1) ? { segment: two.at(-1)?.segment ?? 0, offset: two.at(-1)?.length ?? 0 } : null),
  ).toEqual([]);
  expect((await readAll(disk, [...one, ...two])).outcome.damage).toEqual([]);
});

it('takes the batches of a layer only in order, and none after an append of it failed', async () => {
  const disk = emptyDisk();
  const { log } = await openLog(disk);
  await appendLayer(log, 0, 1, 2);
  expect(() => log.append({ type: 'batch', diskNo: 0, body: sealedBody(1, 3) })).toThrow(
    /batch 3 of layer 1 comes before 2/,
  );
  expect(() => log.append({ type: 'batch', diskNo: 0, body: sealedBody(9, 0) })).toThrow(/layer 9 of disk 0 has ended/);
  disk.failNth(2, { code: 'EIO' });
  const failing = log.append({ type: 'batch', diskNo: 0, body: sealedBody(1, 2) });
  const queued = log.append({ type: 'batch', diskNo: 0, body: sealedBody(1, 3) });
  await expect(failing.durable).rejects.toMatchObject({ code: 'store-failed', retryable: true });
  await expect(queued.durable).rejects.toMatchObject({ code: 'store-failed' });
  expect(() => log.append({ type: 'batch', diskNo: 0, body: sealedBody(1, 2) })).toThrow(/layer 1 of disk 0 has ended/);
  expect(log.failures).toBe(1);
  const names = await appendLayer(log, 0, 2, 2);
  expect(names[0]).toMatch(/^2:64 /);
  // Both batches lie whole in segment 1, but were never acknowledged: the header of segment 2 says where segment 1 ends.
  expect((await readAll(disk)).seen.filter((name) => name.includes('batch'))).toHaveLength(4);
  expect(disk.violations).toEqual([]);
});

it('a full segment whose close failed was removed with all that was durable in it', async () => {
  const disk = emptyDisk();
  const { log } = await openLog(disk);
  const before = await appendLayer(log, 0, 1, 2);
  // The file is open under the name it had as a spare.
  disk.fault = (operation, filePath) =>
    operation === 'close' && filePath.includes('000001.seg') ? { code: 'EIO' } : null;
  const after = await appendLayer(log, 0, 2, 20);
  expect(log.extentsSince(null).length).toBeGreaterThan(1);
  const { seen, outcome } = await readAll(disk.afterPowerLoss(worstDice), log.extentsSince(null));
  expect([seen, outcome.damage, log.failures]).toEqual([[...before, ...after], [], 0]);
});

it('is full below the mark, takes drops meanwhile, and goes on when space returns', async () => {
  const disk = emptyDisk();
  const changes: boolean[] = [];
  const limits = { ...smallLimits, freeCheckBytes: 1, freeCheckMs: 5 };
  const { log } = await openSegmentLog(
    {
      files: disk,
      clock: systemClock,
      directory,
      machineId,
      limits,
      extents: [],
      removed: new Set<number>(),
      check: 'digests',
      fullChanged: (full) => changes.push(full),
    },
    () => undefined,
  );
  await appendLayer(log, 0, 1, 1);
  disk.free = limits.freeBytesStop - 1;
  await log.checkSpace();
  expect(log.full).toBe(true);
  expect(() => log.append({ type: 'batch', diskNo: 0, body: sealedBody(1, 1) })).toThrow(/no space left/);
  await log.append({ type: 'drop', diskNo: 0, seq: 7 }).durable;
  disk.free = limits.freeBytesResume + 1;
  await expect.poll(() => log.full).toBe(false);
  await log.append({ type: 'batch', diskNo: 0, body: sealedBody(1, 1) }).durable;
  expect(changes).toEqual([true, false]);
  await log.close();
});

it('refuses with `full` when a write finds no space, and goes on in a new segment', async () => {
  const disk = emptyDisk();
  const { log } = await openLog(disk, [], { ...smallLimits, freeCheckMs: 5 });
  const before = await appendLayer(log, 0, 1, 2);
  disk.failNth(1, { code: 'ENOSPC', wrote: 'half' });
  const lost = log.append({ type: 'batch', diskNo: 0, body: sealedBody(1, 2) });
  await expect(lost.durable).rejects.toMatchObject({ code: 'full', retryable: true });
  await expect.poll(() => log.full).toBe(false);
  const after = await appendLayer(log, 0, 2, 2);
  expect((await readAll(disk.afterPowerLoss(worstDice))).seen).toEqual([...before, ...after]);
});

it('preallocates and rolls on a real file system, with large batches', async () => {
  const home = await mkdtemp(`${tmpdir()}/tidemark-segments-`);
  left.push(home);
  const options = {
    files: posixFiles,
    clock: systemClock,
    directory: `${home}/segments`,
    machineId,
    limits: { ...segmentLimits, segmentBytesMax: 4 << 20, freeBytesStop: 0, freeBytesResume: 1 },
    extents: [],
    removed: new Set<number>(),
    check: 'digests' as const,
  };
  const { log } = await openSegmentLog(options, () => undefined);
  const names = await appendLayer(log, 0, 1, 20, 900_000);
  expect((await posixFiles.facts(`${home}/segments/000001.seg`)).size).toBeLessThan(4 << 20);
  const during = await replayAll({ ...options }, () => undefined);
  expect(during.torn).toBeNull();
  await log.close();
  expect((await posixFiles.list(options.directory)).filter((name) => !name.endsWith('.seg'))).toEqual([]);
  let batches = 0;
  const outcome = await replayAll({ ...options, check: 'headers' }, (entry) => {
    if (entry.type === 'batch') batches += 1;
  });
  expect(batches).toBe(names.length - 1);
  expect(outcome.damage).toEqual([]);
  expect(outcome.segments.every(({ hasFooter }) => hasFooter)).toBe(true);
});

/** Records of `points.log` that say which points are kept (PIN, RETIRED) and which segments are gone (REMOVED). */
import { expect, it } from 'vitest';
import { PointsLog } from '../../src/store/points-log.ts';
import type { PointsEntry } from '../../src/store/points-record.ts';
import type { PointsView } from '../../src/store/points-view.ts';
import { runOf } from '../layers.ts';
import { emptyDisk, machineId } from './segment-fixture.ts';

const path = '/data/machines/m/points.log';
const chain = 'ef'.repeat(32);

function point(number: number): PointsEntry {
  const disk = { no: 0, size: 1 << 20, blockSize: 65536, root: 'ab'.repeat(32), kind: 'delta' } as const;
  const layers = runOf([2 ** 32 + number]);
  return {
    type: 'point',
    body: {
      point: number,
      cutTimeMs: number,
      committedMs: number,
      consistency: 'crash',
      epoch: 1,
      disks: [{ ...disk, layers, records: 1, payloadBytes: 1 }],
      extents: [{ segment: number, length: 100, chain }],
    },
  };
}

const pin = (at: number, pinned = true): PointsEntry => ({ type: 'pin', body: { point: at, pinned, atMs: 1 } });
const retired = (...points: [number, number][]): PointsEntry => ({ type: 'retired', body: { points, atMs: 1 } });
const removed = (...segments: number[]): PointsEntry => ({
  type: 'removed',
  body: { segments, extents: [{ segment: 6, length: 500, chain }], atMs: 1 },
});
const kept = (view: PointsView): number[] => view.kept.map((each) => each.point);

async function logOfFive(): Promise<PointsLog> {
  const log = await PointsLog.open({ files: emptyDisk(), path, machineId });
  await log.append({ type: 'epoch', body: { epoch: 1, instance: 'a', atMs: 1 } });
  for (const number of [1, 2, 3, 4, 5]) await log.append(point(number));
  return log;
}

it('keeps what is not retired, and never retires the newest, a pinned or a retired one', async () => {
  const log = await logOfFive();
  await log.append(pin(2));
  await expect(log.append(retired([1, 2]))).rejects.toThrow(/point 2 is pinned/);
  await expect(log.append(retired([4, 5]))).rejects.toThrow(/5 the newest/);
  await expect(log.append(retired([3, 3], [1, 1]))).rejects.toThrow(/after 3/);
  expect(kept(log.view)).toEqual([1, 2, 3, 4, 5]);
  await log.append(retired([1, 1], [3, 4]));
  expect(kept(log.view)).toEqual([2, 5]);
  await expect(log.append(retired([3, 3]))).rejects.toThrow(/point 3 is retired already/);
  await expect(log.append(pin(3))).rejects.toThrow(/point 3 is retired/);
  await expect(log.append(pin(6))).rejects.toThrow(/no point 6/);
  await log.append(pin(2, false));
  await log.append(retired([2, 2]));
  expect(kept(log.view)).toEqual([5]);
  await log.append(point(6));
  expect(kept(log.view)).toEqual([5, 6]);
  expect(log.view.points).toHaveLength(6);
  expect(log.view.retiredProblem('m', 3)).toMatchObject({ code: 'not-found', message: /point 3 of machine m/ });
  expect(log.view.retiredProblem('m', 3).remedy).toContain('the oldest is 5');
});

it('starts no failover from a retired point', async () => {
  const log = await logOfFive();
  await log.append(retired([1, 2]));
  const begun = { id: 'unplanned-1', step: 'begun', generation: 1, atMs: 1 } as const;
  await expect(log.append({ type: 'failover', body: { ...begun, point: 2 } })).rejects.toThrow(/point 2 is retired/);
  await log.append({ type: 'failover', body: { ...begun, point: 3 } });
});

it('relies on no segment that is removed, and on what was moved out of it; never removes where the log ends', async () => {
  const log = await logOfFive();
  await expect(log.append(removed(5))).rejects.toThrow(/segment 5 is removed and points rely on 5/);
  await log.append(removed(1, 3));
  await expect(log.append(removed(3))).rejects.toThrow(/removed already/);
  expect(log.view.extents.map(({ segment }) => segment)).toEqual([2, 4, 5, 6]);
  expect(log.view.mark).toEqual({ segment: 6, offset: 500 });
  expect([...log.view.removed]).toEqual([1, 3]);
});

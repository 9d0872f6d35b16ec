/** Records of `points.log` that say which side is primary, what the machine is, and that a point was started. */
import { expect, it } from 'vitest';
import type { MachineDefinition } from '../../src/wire/definition.ts';
import { PointsLog } from '../../src/store/points-log.ts';
import type { FailoverBody, PointsEntry } from '../../src/store/points-record.ts';
import { runOf } from '../layers.ts';
import { emptyDisk, machineId } from './segment-fixture.ts';

const path = '/data/machines/m/points.log';

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
      extents: [],
    },
  };
}

const failover = (id: string, step: FailoverBody['step'], generation: number, at = 1): PointsEntry => ({
  type: 'failover',
  body: { id, step, generation, point: at, atMs: 5 },
});

const machine = (cpus: number): MachineDefinition => ({
  cpus,
  memoryBytes: 2 ** 30,
  firmware: 'bios',
  type: 'q35',
  bus: 'virtio',
  disks: ['vda'],
  nics: [],
});

async function logWith(...entries: readonly PointsEntry[]): Promise<PointsLog> {
  const log = await PointsLog.open({ files: emptyDisk(), path, machineId });
  for (const entry of entries) await log.append(entry);
  return log;
}

const epoch: PointsEntry = { type: 'epoch', body: { epoch: 1, instance: 'a', atMs: 1 } };

it('refuses points of the source from the failover until it is cancelled, and none of its steps out of turn', async () => {
  const log = await logWith(epoch, point(1), failover('unplanned-1', 'begun', 1));
  expect(log.view.failover).toMatchObject({ id: 'unplanned-1', step: 'begun', generation: 1 });
  await expect(log.append(point(2))).rejects.toThrow(/point of the source after failover unplanned-1/);
  await expect(log.append(failover('unplanned-2', 'begun', 2))).rejects.toThrow(/failover unplanned-1 is begun/);
  await expect(log.append(failover('unplanned-2', 'cancelled', 2))).rejects.toThrow(/unplanned-2 was not begun/);
  await expect(log.append(failover('unplanned-1', 'cancelled', 1))).rejects.toThrow(/generation 1 where 2 is due/);
  await log.append(failover('unplanned-1', 'cancelled', 2));
  expect(log.view.failover).toBeNull();
  expect(log.view.generation).toBe(2);
  await log.append(point(2));
  await expect(log.append(failover('unplanned-2', 'begun', 3, 7))).rejects.toThrow(/there is no point 7/);
  await log.append(failover('unplanned-2', 'begun', 3, 2));
  await log.append(failover('unplanned-2', 'committed', 3, 2));
  expect(log.view.failover).toMatchObject({ id: 'unplanned-2', step: 'committed' });
  await expect(log.append(failover('unplanned-2', 'cancelled', 4, 2))).rejects.toThrow(/unplanned-2 is committed/);
  await expect(log.append(point(3))).rejects.toThrow(/after failover unplanned-2/);
});

it('knows the machine as of each point', async () => {
  const log = await logWith(
    epoch,
    point(1),
    { type: 'machine', body: { atMs: 2, definition: machine(2) } },
    point(2),
    point(3),
    { type: 'machine', body: { atMs: 2, definition: machine(4) } },
    point(4),
  );
  expect([1, 2, 3, 4].map((number) => log.view.definitionAt(number)?.cpus)).toEqual([undefined, 2, 2, 4]);
});

it('knows which points were started', async () => {
  const log = await logWith(epoch, point(1), point(2));
  const body = { point: 1, atMs: 9, failover: 'test-1', seconds: 3.5, probe: 'serial', detail: 'login:' } as const;
  await log.append({ type: 'booted', body });
  expect(log.view.bootedAt(1)).toEqual(body);
  expect(log.view.bootedAt(2)).toBeNull();
  await expect(log.append({ type: 'booted', body: { ...body, point: 3 } })).rejects.toThrow(/there is no point 3/);
});

/** A source nobody can stand in front of: each cycle reads and compares it whole, and only what differs travels. */
import { open, readFile, rename } from 'node:fs/promises';
import { expect, test } from 'vitest';
import type { PointReport } from '../../src/cli/roles.ts';
import type { StatusReport } from '../../src/cli/status-report.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { denseBytes, KiB, MiB } from './content.ts';
import { OneDisk } from './one-disk.ts';

const blockSize = 64 * KiB;
const one = OneDisk.forEach({ size: 6 * MiB, filled: 4 * MiB, seed: 5, opensItself: true });

async function start(scan: 'frozen' | 'live'): Promise<void> {
  await one.open({ scan });
  await one.protect();
  await one.site.startAgent();
}

/** The first point after `after` that is as wanted. */
const untilPoint = (after: number, wanted?: (point: PointReport) => boolean): Promise<PointReport> =>
  one.untilPoint('a point', after, wanted);

/** Reports come every 5 s. */
async function untilStatus(wanted: (machine: StatusReport['machines'][number]) => boolean): Promise<void> {
  await one.until('the status', async () => {
    const machine = await one.status();
    return machine && wanted(machine);
  });
}

const payloadOf = (point: PointReport): number => point.disks[0]?.payloadBytes ?? Number.NaN;

/** The next snapshot: another file under the same name. */
async function nextSnapshot(change: (bytes: Buffer) => Buffer): Promise<Buffer> {
  const bytes = change(await readFile(one.image));
  const file = await open(`${one.image}.next`, 'w');
  await file.writeFile(bytes);
  await file.close();
  await rename(`${one.image}.next`, one.image);
  return bytes;
}

test('frozen: points claim crash, only blocks that differ travel, over a restart too; it may grow, go and come back', async () => {
  await start('frozen');
  const first = await untilPoint(0);
  expect(first.consistency).toBe('crash');
  expect((await one.exported(first.point)).equals(await readFile(one.image))).toBe(true);

  const changed = await nextSnapshot((bytes) => {
    for (const block of [1, 20, 90]) denseBytes(block, blockSize).copy(bytes, block * blockSize);
    return bytes;
  });
  const second = await untilPoint(first.point, (point) => payloadOf(point) > 0);
  expect(payloadOf(second)).toBe(3 * blockSize);
  expect((await one.exported(second.point)).equals(changed)).toBe(true);

  await one.site.role('agent').stop();
  await one.site.startAgent();
  const again = await untilPoint(await one.newest());
  expect(payloadOf(again)).toBe(0);

  await rename(one.image, `${one.image}.away`);
  await clock.sleep(2000);
  const before = await one.newest();
  await clock.sleep(2500);
  expect(await one.newest()).toBe(before);
  await untilStatus((machine) => machine.reasons.some(({ message }) => message.includes(one.image)));
  await rename(`${one.image}.away`, one.image);
  const back = await untilPoint(before);
  expect(payloadOf(back)).toBe(0);

  const grown = await nextSnapshot((bytes) => Buffer.concat([bytes, denseBytes(7, MiB + 512)]));
  const larger = await untilPoint(back.point, (point) => point.disks[0]?.size === grown.byteLength);
  expect(payloadOf(larger)).toBeLessThanOrEqual(MiB + 2 * blockSize);
  expect((await one.exported(larger.point)).equals(grown)).toBe(true);
}, 120_000);

test('not declared frozen: points say that they are of no one instant, and so does the status', async () => {
  await start('live');
  const first = await untilPoint(0);
  expect(first.consistency).toBe('none');
  await untilStatus((machine) => machine.consistency === 'none');
}, 60_000);

/** A source nobody can stand in front of: each cycle reads and compares it whole, and only what differs travels. */
import { mkdtemp, open, readFile, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { commandOk } from '../../scripts/demo/process.ts';
import { Site } from '../../scripts/demo/site.ts';
import type { PointReport, StatusReport } from '../../src/cli/roles.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { command } from './command.ts';
import { denseBytes, KiB, MiB, writeImage } from './content.ts';
import { listPoints } from './scene.ts';

const size = 6 * MiB;
const blockSize = 64 * KiB;
let directory = '';
let image = '';
let site: Site;

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-scan-'));
  image = path.join(directory, 'snapshot.raw');
  await writeImage(image, size, 4 * MiB, 5);
});
afterEach(async () => {
  await site.stop();
  await rm(directory, { recursive: true, force: true });
});

async function start(scan: 'frozen' | 'live'): Promise<void> {
  const disks = [{ name: 'data', image, scan }];
  const options = { directory, machine: 'web1', disks, intervalSeconds: 1, compression: 'lz4' } as const;
  site = new Site({ ...options, reporting: true, run: command });
  await site.enrollAll();
  await commandOk(command, ['protect', 'web1', '--disk', 'data', ...site.operator]);
  await site.startTarget();
  await site.startProcessServer();
  await site.startAgent();
}

const points = (): Promise<readonly PointReport[]> => listPoints(command, site.targetData);
const newest = async (): Promise<number> => (await points()).at(-1)?.point ?? 0;

/** The first point after `after` that is as wanted. */
async function untilPoint(after: number, wanted: (point: PointReport) => boolean = () => true): Promise<PointReport> {
  const deadlineMs = clock.monotonicMs() + 40_000;
  for (;;) {
    const found = (await points()).find((point) => point.point > after && wanted(point));
    if (found) return found;
    if (clock.monotonicMs() > deadlineMs) throw new Error('no such point came in time');
    await clock.sleep(100);
  }
}

/** Reports come every 5 s. */
async function untilStatus(wanted: (machine: StatusReport['machines'][number]) => boolean): Promise<void> {
  const deadlineMs = clock.monotonicMs() + 20_000;
  for (;;) {
    const text = await commandOk(command, ['status', '--json', ...site.operator]);
    const [machine] = (JSON.parse(text) as StatusReport).machines;
    if (machine && wanted(machine)) return;
    if (clock.monotonicMs() > deadlineMs) throw new Error(`the status never said so: ${text}`);
    await clock.sleep(200);
  }
}

const payloadOf = (point: PointReport): number => point.disks[0]?.payloadBytes ?? Number.NaN;

async function exported(point: number): Promise<Buffer> {
  const to = path.join(directory, `point-${point}.raw`);
  const words = ['export', 'web1', 'data', '--data', site.targetData, '--point', String(point), '--to', to];
  await commandOk(command, words);
  return readFile(to);
}

/** The next snapshot: another file under the same name. */
async function nextSnapshot(change: (bytes: Buffer) => Buffer): Promise<Buffer> {
  const bytes = change(await readFile(image));
  const file = await open(`${image}.next`, 'w');
  await file.writeFile(bytes);
  await file.close();
  await rename(`${image}.next`, image);
  return bytes;
}

test('frozen: points claim crash, only blocks that differ travel, over a restart too; it may grow, go and come back', async () => {
  await start('frozen');
  const first = await untilPoint(0);
  expect(first.consistency).toBe('crash');
  expect((await exported(first.point)).equals(await readFile(image))).toBe(true);

  const changed = await nextSnapshot((bytes) => {
    for (const block of [1, 20, 90]) denseBytes(block, blockSize).copy(bytes, block * blockSize);
    return bytes;
  });
  const second = await untilPoint(first.point, (point) => payloadOf(point) > 0);
  expect(payloadOf(second)).toBe(3 * blockSize);
  expect((await exported(second.point)).equals(changed)).toBe(true);

  await site.role('agent').stop();
  await site.startAgent();
  const again = await untilPoint(await newest());
  expect(payloadOf(again)).toBe(0);

  await rename(image, `${image}.away`);
  await clock.sleep(2000);
  const before = await newest();
  await clock.sleep(2500);
  expect(await newest()).toBe(before);
  await untilStatus((machine) => machine.reasons.some(({ message }) => message.includes(image)));
  await rename(`${image}.away`, image);
  const back = await untilPoint(before);
  expect(payloadOf(back)).toBe(0);

  const grown = await nextSnapshot((bytes) => Buffer.concat([bytes, denseBytes(7, MiB + 512)]));
  const larger = await untilPoint(back.point, (point) => point.disks[0]?.size === grown.byteLength);
  expect(payloadOf(larger)).toBeLessThanOrEqual(MiB + 2 * blockSize);
  expect((await exported(larger.point)).equals(grown)).toBe(true);
}, 120_000);

test('not declared frozen: points say that they are of no one instant, and so does the status', async () => {
  await start('live');
  const first = await untilPoint(0);
  expect(first.consistency).toBe('none');
  await untilStatus((machine) => machine.consistency === 'none');
}, 60_000);

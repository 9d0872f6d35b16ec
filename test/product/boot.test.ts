/**
 * A machine protected with what it is, and started elsewhere from two of its points while replication goes on: each start prints the marker that
 * was on its disk then, and its point says that it is bootable.
 */
import { mkdir, readFile, readdir } from 'node:fs/promises';
import * as path from 'node:path';
import { expect, it, describe, onTestFinished } from 'vitest';
import type { BootedReport } from '../../src/cli/failover-roles.ts';
import type { PointReport, StatusReport } from '../../src/cli/roles.ts';
import { exitCodes } from '../../src/fatal.ts';
import { makeBootable, requireBootable } from '../guest/bootable.ts';
import { runToolOk } from '../tools.ts';
import { command } from './command.ts';
import { disk, machine, Scene } from './scene.ts';

async function bootable(file: string, marker: string): Promise<void> {
  const scratch = `${file}.${marker}`;
  await mkdir(scratch);
  await makeBootable(file, marker, scratch);
}

async function failover(scene: Scene, ...words: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return await command(['failover', ...words, '--data', scene.site.targetData, '--json']);
}

/** A site whose target has two points, the disk's marker another one at each. */
async function twoPoints(): Promise<{
  readonly scene: Scene;
  readonly first: PointReport;
  readonly second: PointReport;
}> {
  const scene = await Scene.open({
    image: (file) => bootable(file, 'first'),
    writer: { from: 0, pauseMs: 0 },
    site: { reporting: true },
  });
  onTestFinished(() => scene.close());
  const { site } = scene;
  const what = ['--cpus', '1', '--memory', '192M', '--machine-type', 'q35', '--nic', 'virtio,network=lan'];
  expect((await command(['protect', machine, '--disk', disk, ...what, ...site.operator])).code).toBe(0);
  await site.startTarget();
  await site.startProcessServer();
  await site.startAgent();
  const before = await scene.untilPoints('a point', (points) => points.length > 0);
  const other = scene.file('second.raw');
  await bootable(other, 'second');
  await runToolOk('nbdcopy', [other, `nbd+unix:///${disk}?socket=${site.socketOf(disk)}`]);
  const writtenMs = Date.now();
  scene.pointNow();
  const points = await scene.untilPoints('a point of what was written', (all) =>
    all.some(({ cutTimeMs }) => cutTimeMs > writtenMs),
  );
  const [first, second] = [before[0], points.find(({ cutTimeMs }) => cutTimeMs > writtenMs)];
  if (!first || !second) throw new Error('there are two points');
  return { scene, first, second };
}

describe.skipIf(!requireBootable('nbdcopy'))('a test failover', () => {
  it('starts the machine from each of two points, and says so of them', { timeout: 300_000 }, async () => {
    const { scene, first, second } = await twoPoints();
    onTestFinished(() => void failover(scene, 'cleanup', machine, '--all'));
    for (const [marker, { point }] of [
      ['first', first],
      ['second', second],
    ] as const) {
      const words = ['--point', String(point), '--boot', '--probe', `serial:marker: ${marker}`];
      const run = await failover(scene, 'test', machine, ...words);
      expect(run.code, run.stderr).toBe(exitCodes.ok.code);
      const report = JSON.parse(run.stdout) as BootedReport;
      expect(report).toMatchObject({ point, served: true, boot: { answered: true, detail: `marker: ${marker}` } });
      expect((await readdir(path.join(report.directory, 'boot'))).sort()).toEqual([
        'console.log',
        'proof.json',
        'screen.png',
      ]);
      expect(await readFile(report.domainXml ?? '', 'utf8')).toContain('<link state="down"/>');
      expect(run.stderr).toContain(`point ${point} is bootable: marker: ${marker} after`);
      process.stderr.write(`boot: point ${point} answered ${report.boot.seconds} s after the command began\n`);
    }
    const booted = (await scene.points()).filter((each) => each.booted !== null);
    expect(booted.map(({ point, booted: proof }) => [point, proof?.detail])).toEqual([
      [first.point, 'marker: first'],
      [second.point, 'marker: second'],
    ]);
    const started = await scene.until('status that says so', async () => {
      const run = await command(['status', ...scene.site.operator, '--json']);
      const { machines } = JSON.parse(run.stdout) as StatusReport;
      // The one before may have been reported in between.
      return machines.map(({ booted }) => booted).find((each) => each?.point === second.point) ?? undefined;
    });
    expect(started.seconds).toBe(booted[1]?.booted?.seconds);
    expect(await scene.site.metric('target', 'tidemark_newest_started_point_seconds')).toBe(booted[1]?.booted?.seconds);
    const silent = await failover(scene, 'test', machine, '--boot', '--probe', 'serial:never', '--boot-timeout', '1');
    expect([silent.code, silent.stdout]).toEqual([exitCodes['check-failed'].code, '']);
    expect(silent.stderr).toContain(
      'the machine did not start: the probe was not answered within 1 s; its console said',
    );
    const ended = await failover(scene, 'cleanup', machine, '--all');
    expect(JSON.parse(ended.stdout)).toMatchObject({ removed: ['test-1', 'test-2', 'test-3'] });
  });
});

/**
 * The disaster: of a site nothing is left but a copy of the target's directory and the recovery file, in an empty place on a machine that runs
 * nothing of it. Every point is there: verified, exported raw and as qcow2, served, and the same bytes as the disk had; and the machine starts
 * from it.
 */
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { commandOk, tidemark } from '../../scripts/demo/process.ts';
import type { BootedReport, FailoverReport } from '../../src/cli/failover-roles.ts';
import type { ExportReport, PointReport, VerifyReport } from '../../src/cli/roles.ts';
import { exitCodes } from '../../src/fatal.ts';
import { composeRoles } from '../../src/main/compose.ts';
import { makeBootable, requireBootable } from '../guest/bootable.ts';
import { requireTool, runToolOk } from '../tools.ts';
import { command } from './command.ts';
import { MiB, seedOfRun, writeImage } from './content.ts';
import { disk, listPoints, machine, Scene } from './scene.ts';

const size = 8 * MiB;
const writableFrom = 4 * MiB;

/** Copies what is left of a site into the place; then all of it is gone. Its points, as they were. */
async function disaster(
  scene: Scene,
  place: string,
  before: (points: readonly PointReport[]) => Promise<void> = () => Promise.resolve(),
): Promise<readonly PointReport[]> {
  const recovery = path.join(place, 'recovery.json');
  await commandOk(command, ['key', 'export', '--data', scene.site.targetData, '--to', recovery]);
  const points = await scene.points();
  await before(points);
  // No key, and no socket that a killed target left.
  const filter = (from: string): boolean => !/^(vault\.key|.*\.sock)$/.test(path.basename(from));
  await cp(scene.site.targetData, path.join(place, 'target'), { recursive: true, filter });
  // Control, process server, target and agent with their directories, and the disk.
  await scene.close();
  expect(await readdir(scene.directory).catch(() => null)).toBeNull();
  return points;
}

describe('after a disaster', () => {
  const seed = seedOfRun('disaster');
  let place = '';
  let before: readonly PointReport[] = [];
  /** By point. */
  const contents = new Map<number, Buffer>();
  const rescued = (): string[] => ['--data', path.join(place, 'target'), '--vault', path.join(place, 'recovery.json')];

  /** A site with two lives of its agent, whose target was killed; then all of it is gone but what was carried away. */
  beforeAll(async () => {
    place = await mkdtemp(path.join(tmpdir(), 'tidemark-disaster-'));
    const scene = await Scene.open({
      image: (file) => writeImage(file, size, writableFrom, seed),
      writer: { from: writableFrom, pauseMs: 10, lanes: 2, sectorsMax: 32 },
    });
    try {
      await scene.site.startTarget();
      await scene.site.startProcessServer();
      await scene.startLife();
      await scene.untilPoints('two points', (listed) => listed.length >= 2);
      await scene.endLife();
      await scene.startLife();
      await scene.untilPoints('two points more', (listed) => listed.length >= 4);
      await scene.site.kill('target');
      await scene.killLife();
      before = await disaster(scene, place, async (points) => {
        for await (const { point, content } of scene.oracles(points)) contents.set(point.point, Buffer.from(content));
      });
    } finally {
      await scene.close();
    }
  }, 90_000);
  afterAll(() => rm(place, { recursive: true, force: true }));

  /** The point's disk as a file. */
  async function reference(point: number): Promise<string> {
    const file = path.join(place, 'reference.raw');
    await writeFile(file, contents.get(point) ?? expect.fail(`no point ${point}`));
    return file;
  }

  it('all points are listed, and verify says in one line that they are good', { timeout: 60_000 }, async () => {
    expect(await listPoints(command, path.join(place, 'target'))).toEqual(before);
    const numbers = before.map(({ point }) => point);
    const report = JSON.parse(await commandOk(command, ['verify', ...rescued(), '--json'])) as VerifyReport;
    expect(report).toMatchObject({ ok: true, content: 'checked' });
    expect(report.points.map(({ point, ok }) => [point, ok])).toEqual(numbers.map((point) => [point, true]));
    const said = await command(['verify', ...rescued()]);
    expect(said.stdout).toContain(`${machine}/${disk}  points good: 1-${numbers.length}\n`);
  });

  it('without the recovery file the rest can be checked, and nothing opened', { timeout: 60_000 }, async () => {
    const data = ['--data', path.join(place, 'target')];
    expect(await command(['verify', ...data])).toMatchObject({ code: exitCodes['no-key'].code });
    const report = JSON.parse(await commandOk(command, ['verify', ...data, '--no-key', '--json'])) as VerifyReport;
    expect(report).toMatchObject({ ok: true, content: 'left-out' });
    expect(report.points.every(({ ok, blocks }) => ok && blocks === null)).toBe(true);
    const to = path.join(place, 'refused.raw');
    expect(await command(['export', machine, ...data, '--to', to])).toMatchObject({ code: exitCodes['no-key'].code });
  });

  it('every point is exported, the same to the last byte', { timeout: 60_000 }, async () => {
    const to = path.join(place, 'exported.raw');
    for (const { point, disks } of before) {
      const words = ['export', machine, disk, ...rescued(), '--point', String(point), '--to', to, '--yes', '--json'];
      const report = JSON.parse(await commandOk(command, words)) as ExportReport;
      expect(report).toMatchObject({ point, size, keptBytes: 0, root: disks[0]?.root });
      expect((await readFile(to)).equals(contents.get(point) ?? Buffer.alloc(0)), `point ${point}`).toBe(true);
    }
  });

  it.skipIf(!requireTool('qemu-img'))(
    'every point is served, two are exported to qcow2',
    { timeout: 90_000 },
    async () => {
      const roles = composeRoles('0.0.0-test');
      const vault = { data: path.join(place, 'target'), vault: path.join(place, 'recovery.json') };
      for (const { point } of before) {
        const socket = path.join(place, `point-${point}.sock`);
        const served = await roles.serveNbd({ ...vault, machine, disk, point, listen: { socket } });
        try {
          const uri = `nbd+unix:///${disk}?socket=${socket}`;
          await runToolOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', await reference(point), uri]);
        } finally {
          await served.close();
        }
        if (point !== 1 && point !== before.length) continue;
        const to = path.join(place, `point-${point}.qcow2`);
        const words = ['--point', String(point), '--to', to, '--format', 'qcow2', '--compress'];
        const environment = { PATH: process.env['PATH'] ?? '' };
        await commandOk(command, ['export', machine, disk, ...rescued(), ...words], { environment });
        await runToolOk('qemu-img', ['check', '-q', to]);
        await runToolOk('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', await reference(point), to]);
      }
    },
  );

  it.skipIf(!requireTool('qemu-img', 'qemu-io'))(
    'the oldest and the newest point are started beside each other, written to, and stay what they were',
    { timeout: 90_000 },
    async () => {
      const points = [before[0], before.at(-1)].map((point) => point?.point ?? expect.fail('no point'));
      const served: { point: number; uri: string }[] = [];
      try {
        for (const point of points) {
          const words = ['failover', 'test', machine, ...rescued(), '--point', String(point), '--json'];
          const report = JSON.parse(await commandOk(tidemark, words)) as FailoverReport;
          served.push({ point, uri: report.disks[0]?.uri ?? expect.fail('not served') });
        }
        for (const { point, uri } of served) {
          await runToolOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', await reference(point), uri]);
          await runToolOk('qemu-io', ['-f', 'raw', '-c', `write -P ${point} 1M 64k`, uri]);
          await runToolOk('qemu-io', ['-f', 'raw', '-c', `read -P ${point} 1M 64k`, uri]);
        }
      } finally {
        await commandOk(tidemark, ['failover', 'cleanup', machine, '--all', ...rescued()]);
      }
      const report = JSON.parse(await commandOk(command, ['verify', ...rescued(), '--json'])) as VerifyReport;
      expect(report.ok).toBe(true);
    },
  );
});

describe.skipIf(!requireBootable())('a machine after a disaster', () => {
  it('starts from what was carried away', { timeout: 120_000 }, async () => {
    const place = await mkdtemp(path.join(tmpdir(), 'tidemark-disaster-'));
    onTestFinished(() => rm(place, { recursive: true, force: true }));
    const scene = await Scene.open({
      image: async (file) => {
        await mkdir(`${file}.made`);
        await makeBootable(file, 'carried away', `${file}.made`);
      },
      writer: { from: 0, pauseMs: 0 },
      site: { reporting: true },
    });
    onTestFinished(() => scene.close());
    const what = ['--cpus', '1', '--memory', '192M', '--machine-type', 'q35'];
    await commandOk(command, ['protect', machine, '--disk', disk, ...what, ...scene.site.operator]);
    await scene.site.startTarget();
    await scene.site.startProcessServer();
    await scene.site.startAgent();
    await scene.untilPoints('a point', (listed) => listed.length > 0);
    await scene.site.kill('target');
    await disaster(scene, place);
    const rescued = ['--data', path.join(place, 'target'), '--vault', path.join(place, 'recovery.json')];
    onTestFinished(async () => {
      await tidemark(['failover', 'cleanup', machine, '--all', ...rescued]);
    });
    const words = ['--point', '1', '--boot', '--probe', 'serial:marker: carried away', '--json'];
    const report = JSON.parse(
      await commandOk(tidemark, ['failover', 'test', machine, ...rescued, ...words]),
    ) as BootedReport;
    expect(report).toMatchObject({ point: 1, boot: { answered: true, detail: 'marker: carried away' } });
    expect(report.qemu).toContain('-smp 1 -m 192M');
    // The proof was written where no target runs.
    const [booted] = await listPoints(command, path.join(place, 'target'));
    expect(booted?.booted).toMatchObject({ detail: 'marker: carried away', seconds: report.boot.seconds });
  });
});

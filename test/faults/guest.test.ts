/**
 * A running machine on a disk of the agent: its file system and the database on it, while the agent is restarted, killed and left alone.
 *
 * The guest never sees an error; each point is a disk that such a machine could start from after a power failure: ext4 is clean once its journal
 * was replayed, SQLite finds its database whole, and every row the machine had been promised before the cut is there.
 */
import { stat } from 'node:fs/promises';
import { DatabaseSync } from 'node:sqlite';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { PointReport } from '../../src/cli/roles.ts';
import { command } from '../product/command.ts';
import { MiB, writeImage } from '../product/content.ts';
import { disk, machine, Scene } from '../product/scene.ts';
import { runTool, runToolOk } from '../tools.ts';
import { Guest, requireGuest } from './guest.ts';

const rounds = process.env['TIDEMARK_TEST_SOAK'] === '1' ? 10 : 1;
const diskBytes = 48 * MiB;

async function makeFileSystem(image: string): Promise<void> {
  await writeImage(image, diskBytes, 0, 0);
  await runToolOk('mke2fs', ['-q', '-F', '-t', 'ext4', '-J', 'size=4', image]);
}

/** Rows of the database on a point, after everything about it was checked. */
async function rowsOf(scene: Scene, { point }: PointReport): Promise<number> {
  const image = scene.file('exported.raw');
  const words = ['export', machine, disk, '--data', scene.site.targetData, '--point', String(point), '--yes'];
  expect((await command([...words, '--to', image])).code).toBe(0);
  // What a mount does first; 1: it did something.
  expect((await runTool('e2fsck', ['-fy', '-E', 'journal_only', image])).code).toBeLessThanOrEqual(1);
  const check = await runTool('e2fsck', ['-fn', image]);
  expect(check.code, `point ${point}: ${check.stdout}${check.stderr}`).toBe(0);
  const files = ['db', 'db-wal'].map((name) => ({ name, to: scene.file(`found-${point}-${name}`) }));
  for (const { name, to } of files) await runToolOk('debugfs', ['-R', `dump /${name} ${to}`, image]);
  const { size } = await stat(scene.file(`found-${point}-db`)).catch(() => ({ size: 0 }));
  if (size === 0) return 0;
  const database = new DatabaseSync(scene.file(`found-${point}-db`));
  try {
    expect(database.prepare('pragma integrity_check').all()).toEqual([{ integrity_check: 'ok' }]);
    if (database.prepare(`select name from sqlite_master where name = 'rows'`).get() === undefined) return 0;
    const found = database.prepare('select count(*) as rows, coalesce(max(n), 0) as last from rows').get();
    expect(found?.['rows'], `point ${point}: rows are missing in between`).toBe(found?.['last']);
    return Number(found?.['rows']);
  } finally {
    database.close();
  }
}

async function moreRows(scene: Scene, guest: Guest, count: number): Promise<void> {
  const wanted = guest.rows + count;
  await scene.until(`row ${wanted}; console: ${guest.console.slice(-500)}`, () =>
    Promise.resolve(guest.rows >= wanted || guest.trouble.length > 0 || undefined),
  );
  expect(guest.trouble).toEqual([]);
}

/** Upgrade, death, and nobody downstream: each in the middle of the guest's work. */
async function ordeal(scene: Scene, guest: Guest): Promise<void> {
  const { site } = scene;
  const newPoint = async (what: string): Promise<void> => {
    const fromMs = Date.now();
    await scene.untilPoints(what, (points) => points.some(({ cutTimeMs }) => cutTimeMs > fromMs));
  };
  await site.role('agent').stop();
  await site.startAgent();
  await moreRows(scene, guest, 3);
  await newPoint('a point after the agent was stopped and started');
  await site.kill('agent');
  await site.startAgent();
  await moreRows(scene, guest, 3);
  await newPoint('a point after the agent was killed');
  await Promise.all([site.kill('process-server'), site.kill('target')]);
  await moreRows(scene, guest, 10);
  await Promise.all([site.startTarget(), site.startProcessServer()]);
  await newPoint('a point after everything downstream had been away');
}

describe.skipIf(!requireGuest())('a running machine', () => {
  it(
    'sees no error when its agent is restarted, and can start from every point',
    { timeout: 90_000 * rounds },
    async () => {
      const scene = await Scene.open({ image: makeFileSystem, writer: { from: 0, pauseMs: 0 } });
      onTestFinished(() => scene.close());
      await scene.site.startTarget();
      await scene.site.startProcessServer();
      await scene.site.startAgent();
      const guest = await Guest.boot(scene.directory, scene.site.socketOf(disk), disk);
      onTestFinished(() => guest.stop());
      await moreRows(scene, guest, 3);
      for (let round = 0; round < rounds; round += 1) await ordeal(scene, guest);
      await guest.stop();
      // An agent without a guest makes points, too: while they are checked, none may be added.
      await scene.site.stop();
      const points = await scene.points();
      for (const point of points) {
        const rows = await rowsOf(scene, point);
        const promised = guest.commits.filter(({ toldMs }) => toldMs < point.cutTimeMs).at(-1)?.row ?? 0;
        expect(rows, `rows of point ${point.point}`).toBeGreaterThanOrEqual(promised);
      }
      expect(await scene.verified()).toBe(points.length);
      process.stderr.write(`guest: ${guest.rows} rows, ${points.length} points checked\n`);
    },
  );
});

/**
 * A machine is started elsewhere while everything runs, and while nothing does: tests beside the replication, an unplanned failover that
 * outlives target and serving process, its source refused until it is taken back. Steps follow one another on one site.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import * as path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { commandOk, tidemark } from '../../scripts/demo/process.ts';
import type { FailoverReport } from '../../src/cli/failover-roles.ts';
import type { PointReport } from '../../src/cli/roles.ts';
import { contentOf, killServing, withDisk } from '../recovery/failover-scene.ts';
import { MiB, writeImage } from './content.ts';
import { requireTool, runToolOk } from '../tools.ts';
import { differenceAt, machine, Scene } from './scene.ts';

const size = 16 * MiB;
const writableFrom = 8 * MiB;
const stepMs = 90_000;

let scene: Scene;
const failover = async <T = FailoverReport>(...words: string[]): Promise<T> =>
  JSON.parse(await commandOk(tidemark, ['failover', ...words, '--data', scene.site.targetData, '--json'])) as T;
const all = async (): Promise<readonly FailoverReport[]> =>
  (await failover<{ failovers: FailoverReport[] }>('list', machine)).failovers;
const proven = (points: readonly PointReport[]): PointReport[] => points.filter(({ provenMs }) => provenMs !== null);

async function expectContent(report: FailoverReport, change: (model: Buffer) => void = () => undefined): Promise<void> {
  const points = (await scene.points()).filter(({ point }) => point === report.point);
  for await (const { content } of scene.oracles(points)) {
    const model = Buffer.from(content);
    change(model);
    const found = await contentOf(report);
    expect(found.equals(model) ? 'same' : `differs from byte ${differenceAt(found, model)}`).toBe('same');
    return;
  }
  expect.fail(`there is no point ${report.point}`);
}

async function write(report: FailoverReport, offset: number, fill: number): Promise<void> {
  await withDisk(report, async (client) => {
    await client.write(Buffer.alloc(10_000, fill), offset);
    await client.flush();
  });
}

beforeAll(async () => {
  scene = await Scene.open({
    image: (file) => writeImage(file, size, writableFrom, 21),
    writer: { from: writableFrom, pauseMs: 10 },
  });
  await scene.site.startTarget();
  await scene.site.startProcessServer();
  await scene.startLife();
  await scene.untilPoints('three proven points', (points) => proven(points).length >= 3);
}, stepMs);

afterAll(async () => {
  const data = ['--data', scene.site.targetData];
  await tidemark(['failover', 'cleanup', machine, '--all', ...data]);
  await tidemark(['failover', 'cancel', machine, '--yes', ...data]);
  await scene.close();
}, stepMs);

describe('a machine', () => {
  it('is tested from two points at once while its points keep coming', { timeout: stepMs }, async () => {
    const points = proven(await scene.points());
    const [older, newer] = [points[0] ?? expect.fail(), points.at(-1) ?? expect.fail()];
    const first = await failover('test', machine, '--point', String(older.point));
    const second = await failover('test', machine, '--at', new Date(newer.cutTimeMs).toISOString());
    expect([first.point, second.point]).toEqual([older.point, newer.point]);
    await write(first, 12_345, 0x11);
    await write(second, 12_345, 0x22);
    const before = await scene.points();
    await scene.untilPoints('three more points', (now) => proven(now).length >= proven(before).length + 3);
    await expectContent(first, (model) => model.fill(0x11, 12_345, 22_345));
    await expectContent(second, (model) => model.fill(0x22, 12_345, 22_345));
    const counted = (): Promise<number | undefined> =>
      scene.site.metric('target', `tidemark_failovers{machine="${machine}",kind="test"}`);
    await vi.waitFor(async () => expect(await counted()).toBe(2), { timeout: 20_000, interval: 200 });
    // Gaps would say that replication waited.
    expect(await scene.site.metric('agent', 'tidemark_agent_points_committed_total')).toBeGreaterThan(before.length);
    expect(await failover('cleanup', machine, '--all')).toEqual({ removed: [first.id, second.id] });
    for (const { directory } of [first, second])
      await expect(stat(directory)).rejects.toMatchObject({ code: 'ENOENT' });
    expect(await scene.faults([older, newer])).toEqual([]);
  });

  it.skipIf(!requireTool('nbdcopy', 'qemu-img'))('is reached over TLS', { timeout: stepMs }, async () => {
    const report = await failover('test', machine, '--listen', 'tls');
    const [{ uri, qemuImage } = expect.fail()] = report.disks;
    const copy = path.join(scene.directory, 'over-tls.raw');
    await runToolOk('nbdcopy', [uri ?? '', copy]);
    const points = (await scene.points()).filter(({ point }) => point === report.point);
    for await (const { content } of scene.oracles(points)) expect(content.equals(await readFile(copy))).toBe(true);
    await runToolOk('sh', ['-c', `qemu-img compare ${qemuImage ?? ''} ${copy}`]);
    expect(await failover('cleanup', machine)).toEqual({ removed: [report.id] });
  });

  it(
    'runs from its replica: the source is refused, and nothing flushed is lost with target and process',
    { timeout: stepMs },
    async () => {
      const begun = await failover('unplanned', machine, '--yes');
      expect(begun).toMatchObject({ kind: 'unplanned', state: 'running', generation: 1 });
      await write(begun, 5000, 0x42);
      const log = path.join(
        scene.directory,
        (await readdir(scene.directory)).find((name) => /^agent.*\.log$/.test(name)) ?? '',
      );
      await scene.until('the refusal in the log of the agent', async () => {
        const text = await readFile(log, 'utf8');
        return text.includes(`failover ${begun.id} (begun`) && text.includes('generation 1') ? true : undefined;
      });
      const newest = (await scene.points()).length;
      await scene.site.kill('target');
      await killServing(begun);
      expect((await all())[0]).toMatchObject({ served: false });
      await scene.site.startTarget();
      await scene.until('the failover to be served again', async () =>
        (await all())[0]?.served === true ? true : undefined,
      );
      expect(await all()).toEqual([begun]);
      expect(await failover('unplanned', machine, '--yes')).toEqual(begun);
      await expectContent(begun, (model) => model.fill(0x42, 5000, 15_000));
      expect((await scene.points()).length).toBe(newest);
      // A target that stops in order ends nothing either.
      await scene.site.role('target').stop();
      expect((await all())[0]).toMatchObject({ served: true });
      await scene.site.startTarget();
    },
  );

  it('goes on from its source when that is taken back', { timeout: stepMs }, async () => {
    const before = (await scene.points()).length;
    expect(await failover('cancel', machine, '--yes')).toEqual({ id: 'unplanned-4' });
    expect(await all()).toEqual([]);
    // The agent would ask again after minutes; a new life asks at once.
    await scene.endLife();
    await scene.startLife();
    const points = await scene.untilPoints('points after that', (now) => proven(now).length > before);
    expect(await scene.faults(points.slice(-1))).toEqual([]);
  });
});

/**
 * The storage of a role is full, read-only or gone: it is named with its remedy, the writer feels nothing, and when there is space again
 * every point is whole and the newest is the image.
 */
import { copyFile, readFile, rename, rm, stat } from 'node:fs/promises';
import * as path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { commandOk, tidemark, type CommandResult } from '../../scripts/demo/process.ts';
import type { PointReport } from '../../src/cli/roles.ts';
import type { StatusReport } from '../../src/cli/status-report.ts';
import { exitCodes } from '../../src/fatal.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import { connectNbd } from '../../src/nbd/client.ts';
import { command } from '../product/command.ts';
import { KiB, MiB, seedOfRun, writeImage } from '../product/content.ts';
import { disk, identityOf, machine, Scene } from '../product/scene.ts';
import { requireTool, runToolOk } from '../tools.ts';
import { requireMounts, Volume } from './volume.ts';

const from = 6 * MiB;

async function openScene(what: string, filled = from): Promise<Scene> {
  const seed = seedOfRun(what);
  const scene = await Scene.open({
    image: (file) => writeImage(file, filled + 2 * MiB, filled, seed),
    writer: { from: filled, pauseMs: 8, lanes: 2, sectorsMax: 16 },
    site: { reporting: true },
  });
  onTestFinished(() => scene.close());
  await commandOk(command, ['protect', machine, '--disk', disk, ...scene.site.operator, '--interval-seconds', '1']);
  return scene;
}

async function openVolume(directory: string, bytes: number): Promise<Volume> {
  const volume = await Volume.open(directory, bytes);
  onTestFinished(() => volume.close());
  return volume;
}

async function start(scene: Scene): Promise<void> {
  await scene.site.startTarget();
  await scene.site.startProcessServer();
  await scene.startLife();
  await scene.untilPoints('the first point', (points) => points.length > 0);
}

/** What `tidemark status` finds wrong with the machine and its disk. */
async function complaints(scene: Scene): Promise<StatusReport['reasons']> {
  // It ends with 1 when something is critical.
  const { stdout } = await command(['status', ...scene.site.operator, '--json']);
  const own = (JSON.parse(stdout) as StatusReport).machines.find(({ name }) => name === machine);
  return [...(own?.reasons ?? []), ...(own?.disks.flatMap(({ reasons }) => reasons) ?? [])];
}

/** Waits until the operator is told so, and what can be done. */
async function untilTold(scene: Scene, code: string, message: RegExp, remedy: RegExp): Promise<void> {
  const told = await scene.until(`status says ${code}`, async () =>
    (await complaints(scene)).find((one) => one.code === code && message.test(one.message)),
  );
  expect(told).toMatchObject({ severity: 'warning', remedy: expect.stringMatching(remedy) as string });
}

/** It clears itself. */
async function untilQuiet(scene: Scene): Promise<void> {
  await scene.until('status has nothing to say', async () =>
    (await complaints(scene)).length === 0 ? true : undefined,
  );
}

const newerThan =
  (ms: number) =>
  (points: readonly PointReport[]): boolean =>
    points.some(({ cutTimeMs }) => cutTimeMs > ms);

/** The end of each story. */
async function expectWhole(scene: Scene): Promise<readonly PointReport[]> {
  expect(scene.life().writer.longestGapMs).toBeLessThan(2000);
  await scene.settle();
  await scene.endLife();
  const points = await scene.points();
  expect(await scene.faults(points)).toEqual([]);
  expect(await scene.verified()).toBe(points.length);
  return points;
}

/** The agent as a program that is expected to refuse. */
async function agentEnds(scene: Scene): Promise<CommandResult> {
  const config = await scene.site.writeAgentConfig('agent.yaml');
  const credentials = ['--credentials', scene.file('agent.credentials'), '--metrics', '127.0.0.1:0'];
  const words = ['agent', '--config', config, '--data', scene.file('agent'), ...credentials];
  return tidemark(words, { timeoutMs: 15_000 });
}

/** Its last words are what to do, a line of its own behind what is wrong. */
function expectRemedy({ stderr }: CommandResult): void {
  expect(stderr).toMatch(/ \([a-z-]+\)\n {2}[a-z][^\n]{10,}\n$/);
}

describe.skipIf(!requireMounts())('a full target', () => {
  it('keeps its points, and takes up the resync where it was when there is space', { timeout: 120_000 }, async () => {
    const filled = 24 * MiB;
    const scene = await openScene('full target', filled);
    const volume = await openVolume(scene.site.targetData, limits.target.freeBytesResume + 600 * MiB);
    await start(scene);
    await scene.endLife();
    await rm(path.join(scene.file('agent'), `${disk}.hrl`));
    // More differs than is taken between two looks at the space left.
    await writeImage(scene.image, filled + 2 * MiB, filled, 86);
    await volume.fill(limits.target.freeBytesStop / 2);
    const before = await scene.points();
    await scene.startLife();
    await systemClock.sleep(2_000);
    expect((await scene.points()).map(identityOf)).toEqual(before.map(identityOf));
    expect(await scene.faults(before.slice(-1))).toEqual([]);
    await untilTold(scene, 'full', /^the target has no space left for web1/, /^free some space .* goes on by itself$/);
    // Not a byte left, and the target has to start on it.
    await scene.site.kill('target');
    await volume.fill(0);
    await scene.site.startTarget();
    await systemClock.sleep(1_000);
    expect((await scene.points()).map(identityOf)).toEqual(before.map(identityOf));
    await volume.empty();
    const emptiedAtMs = Date.now();
    await scene.untilPoints('a point after there was space again', newerThan(emptiedAtMs));
    await untilQuiet(scene);
    const points = await expectWhole(scene);
    expect(points.filter(({ disks }) => disks[0]?.kind === 'resync')).toHaveLength(1);
  });
});

const fullDirectory = (scene: Scene): RegExp =>
  new RegExp(`^full: the state directory ${scene.file('agent')}: .*ENOSPC`);

/**
 * Fills the agent's directory behind a change log that had its space: as on storage that promised more than it has, what stood in the file takes none any
 * more, so that writing there takes some anew. The agent stands still meanwhile, or its log would be first.
 */
async function overcommit(scene: Scene, volume: Volume): Promise<void> {
  const log = path.join(scene.file('agent'), `${disk}.hrl`);
  const { pid } = scene.site.role('agent');
  process.kill(pid, 'SIGSTOP');
  try {
    const { size } = await stat(log);
    await runToolOk('fallocate', ['--punch-hole', '--offset', '0', '--length', String(size), log]);
    await volume.fill(0);
  } finally {
    process.kill(pid, 'SIGCONT');
  }
}

/**
 * Instead of the writer: writes what is there anyway to two regions, which the change log has to hear of first. To more of them a kill would cost a
 * comparison: they are hot, and together more than half of the disk.
 */
async function touchRegions(scene: Scene): Promise<void> {
  const { writer } = scene.life();
  await writer.stop();
  const image = await readFile(scene.image);
  const client = await connectNbd({ unixPath: scene.site.socketOf(disk) }, { exportName: disk, clock: systemClock });
  for (const offset of [0, limits.capture.regionBytes]) {
    // A write like any other, for who counts them, which changes nothing.
    writer.log.push({ number: writer.nextNumber, offset, length: 0 });
    await client.write(image.subarray(offset, offset + 4 * KiB), offset);
  }
  await client.close();
}

describe.skipIf(!requireMounts())("an agent's directory", () => {
  it('that is read-only or full at the start is named, with the remedy', { timeout: 60_000 }, async () => {
    const scene = await openScene('agent without space at the start');
    const volume = await openVolume(scene.file('agent'), 16 * MiB);
    await volume.remount('ro');
    const readOnly = await agentEnds(scene);
    expect(readOnly.stderr).toContain(scene.file('agent'));
    expectRemedy(readOnly);
    expect(readOnly, readOnly.stderr).toMatchObject({ code: exitCodes.usage.code });
    await volume.remount('rw');
    await volume.fill(0);
    const full = await agentEnds(scene);
    expect(full.stderr).toContain(scene.file('agent'));
    expectRemedy(full);
    expect(full, full.stderr).toMatchObject({ code: exitCodes.full.code });
    await volume.empty();
    await start(scene);
    await expectWhole(scene);
  });

  it('that fills up while it runs stops no writer, and loses nothing by a kill', { timeout: 120_000 }, async () => {
    const scene = await openScene('agent runs out of space');
    const volume = await openVolume(scene.file('agent'), 16 * MiB);
    await start(scene);
    await volume.fill(0);
    await systemClock.sleep(3_000);
    const refused = 'tidemark_storage_faults_total';
    expect(await scene.site.metric('agent', refused)).toBeGreaterThan(0);
    expect(await scene.site.metric('target', refused)).toBeUndefined();
    // Its space was reserved when it was made.
    expect(await scene.site.metric('agent', 'tidemark_agent_change_log_failed')).toBe(0);
    await untilTold(scene, 'connecting', fullDirectory(scene), /^make room there; replication goes on by itself$/);
    const log = scene.life().writer.log.length;
    await systemClock.sleep(500);
    expect(scene.life().writer.log.length).toBeGreaterThan(log);
    await volume.empty();
    await scene.untilPoints('a point after there was space again', newerThan(Date.now()));
    await untilQuiet(scene);
    const faults = await scene.site.metric('agent', refused);
    await scene.untilPoints('one more point', newerThan(Date.now()));
    expect(await scene.site.metric('agent', refused)).toBe(faults);
    await volume.fill(8 * KiB);
    await systemClock.sleep(2_000);
    await scene.killLife();
    expect(await scene.imageFault()).toBeNull();
    await volume.empty();
    await scene.startLife();
    await scene.untilPoints('a point after the kill', newerThan(Date.now()));
    await expectWhole(scene);
  });

  it.skipIf(!requireTool('fallocate'))(
    'that has no room for the change log is named, and has one again when there is room',
    { timeout: 120_000 },
    async () => {
      const scene = await openScene('no room for the change log', 40 * MiB);
      const volume = await openVolume(scene.file('agent'), 16 * MiB);
      await start(scene);
      await overcommit(scene, volume);
      await touchRegions(scene);
      await untilTold(
        scene,
        'log-failed',
        /^the change log failed: .*ENOSPC/,
        /^make the state directory writable again/,
      );
      await volume.empty();
      await scene.untilPoints('a point after there was space again', newerThan(Date.now()));
      await untilQuiet(scene);
      expect(await scene.site.metric('agent', 'tidemark_agent_change_log_failed')).toBe(0);
      // It is one to rely on.
      const killedMs = Date.now();
      await scene.killLife();
      expect(await scene.imageFault()).toBeNull();
      await scene.startLife();
      await scene.untilPoints('a point after the kill', newerThan(Date.now()));
      const after = (await expectWhole(scene)).filter(({ cutTimeMs }) => cutTimeMs >= killedMs);
      expect(after.map(({ disks }) => disks[0]?.kind)).toEqual(after.map(() => 'delta'));
    },
  );
});

describe('a source', () => {
  it('that is gone is named; its points stay, and it goes on when it is back', { timeout: 60_000 }, async () => {
    const scene = await openScene('source gone');
    await start(scene);
    await scene.endLife();
    const before = await scene.points();
    await rename(scene.image, scene.file('elsewhere.raw'));
    const gone = await agentEnds(scene);
    expect(gone.stderr).toContain(scene.image);
    expectRemedy(gone);
    expect(gone, gone.stderr).toMatchObject({ code: exitCodes['not-found'].code });
    expect((await scene.points()).map(identityOf)).toEqual(before.map(identityOf));
    expect(await scene.faults(before)).toEqual([]);
    // Another file of the same content is not the file the change log speaks of.
    await copyFile(scene.file('elsewhere.raw'), scene.image);
    await scene.startLife();
    await scene.untilPoints('a point of the disk that came back', newerThan(Date.now()));
    await expectWhole(scene);
  });
});

/**
 * The life of a site as its operator sees it: start, look, export, stop in order, start again, and lose everything but the target's
 * directory and the recovery file. Steps follow one another on one site.
 */
import { cp, rm, stat, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeImage } from '../../scripts/demo/image.ts';
import { RoleProcess, tidemark, commandOk } from '../../scripts/demo/process.ts';
import type { PointReport } from '../../src/cli/roles.ts';
import type { StatusReport } from '../../src/cli/status-report.ts';
import { exitCodes } from '../../src/fatal.ts';
import { requireTool, runTool, runToolOk } from '../tools.ts';
import { command } from './command.ts';
import { MiB, writeImage } from './content.ts';
import { disk, identityOf, listPoints, machine, Scene } from './scene.ts';

const size = 32 * MiB;
/** `makeImage` leaves the last quarter to the writer. */
const writableFrom = size - size / 4;
const startMs = 60_000;

async function get(url: string): Promise<{ status: number; text: string }> {
  const response = await fetch(url);
  return { status: response.status, text: await response.text() };
}

describe('a site', () => {
  let scene: Scene;
  let hasFileSystem = false;
  /** Copy of the target's directory without its key, and the recovery file. */
  let rescued = '';
  let recoveryFile = '';
  let newest: PointReport;

  const status = async (): Promise<StatusReport> =>
    JSON.parse((await command(['status', ...scene.site.operator, '--json'])).stdout) as StatusReport;
  const nags = async (): Promise<boolean> => JSON.stringify((await status()).reasons).includes('tidemark key export');
  const fromRescued = (name: string, ...words: string[]): string[] => [
    name,
    ...words,
    '--data',
    rescued,
    '--vault',
    recoveryFile,
  ];

  beforeAll(async () => {
    scene = await Scene.open({
      image: async (file) => {
        hasFileSystem = (await makeImage(file, size, null, path.dirname(file))).content === 'ext4';
      },
      writer: { from: writableFrom, pauseMs: 10, lanes: 2, sectorsMax: 32 },
      site: { reporting: true },
    });
    await scene.site.startTarget();
    await scene.site.startProcessServer();
    await scene.startLife();
  }, startMs);

  afterAll(async () => {
    await scene.close();
  }, startMs);

  it('makes proven points, exported while the target takes in more', { timeout: startMs }, async () => {
    const points = await scene.untilPoints(
      'two proven points',
      (listed) => listed.filter(({ provenMs }) => provenMs !== null).length >= 2,
    );
    const chosen = points.filter(({ provenMs }) => provenMs !== null).slice(-1);
    expect(await scene.faults(chosen, tidemark)).toEqual([]);
    const listed = await listPoints(tidemark, scene.site.targetData);
    expect(listed.length).toBeGreaterThanOrEqual(points.length);
    expect(scene.site.role('target').isOver).toBe(false);
  });

  it('shows metrics and health of every role', async () => {
    for (const name of ['control', 'target', 'process-server', 'agent'] as const) {
      const metrics = await scene.site.role(name).where('metrics');
      const base = metrics.replace(/\/metrics$/, '');
      expect(await get(`${base}/healthz`)).toMatchObject({ status: 200 });
      expect(await get(`${base}/readyz`)).toMatchObject({ status: 200 });
      const { status: code, text } = await get(metrics);
      expect(code).toBe(200);
      expect(text).toMatch(/^tidemark_/m);
    }
    expect(await scene.site.metric('target', 'tidemark_newest_proven_point_cut_timestamp_seconds')).toBeGreaterThan(
      1e9,
    );
    expect(await scene.site.metric('target', 'tidemark_target_integrity_errors_total')).toBe(0);
    // Where the time goes, and how full each queue is beside its limit.
    for (const role of ['agent', 'process_server', 'target'] as const) {
      const name = role === 'process_server' ? 'process-server' : role;
      expect(await scene.site.metric(name, `tidemark_${role}_stage_seconds_total`), role).toBeGreaterThan(0);
    }
    expect(await scene.site.metric('target', 'tidemark_target_queued_limit_bytes')).toBeGreaterThan(0);
    expect(await scene.site.metric('target', 'tidemark_target_queued_bytes')).toBeGreaterThanOrEqual(0);
    expect(await scene.site.metric('agent', 'tidemark_agent_in_flight_limit_bytes')).toBeGreaterThan(0);
  });

  it('is told to be protected, and nags until the recovery file was written', { timeout: startMs }, async () => {
    const words = ['protect', machine, '--disk', disk, ...scene.site.operator, '--interval-seconds', '1'];
    await commandOk(command, words);
    const mine = await scene.until('a status with the machine in it', async () =>
      (await status()).machines.find(({ name, newestProvenMs }) => name === machine && newestProvenMs !== null),
    );
    expect(mine.disks.map(({ name }) => name)).toEqual([disk]);
    expect(await nags()).toBe(true);
    recoveryFile = scene.file('recovery.json');
    await commandOk(tidemark, ['key', 'export', '--data', scene.site.targetData, '--to', recoveryFile]);
    expect((await stat(recoveryFile)).mode & 0o777).toBe(0o600);
    await scene.until('the end of the nagging', async () => ((await nags()) ? undefined : true));
  });

  it('goes on with a delta after everything was stopped and started again', { timeout: startMs }, async () => {
    await scene.endLife();
    for (const name of ['process-server', 'target', 'control'] as const)
      expect(await scene.site.role(name).stop()).toBe(exitCodes.ok.code);
    const before = await scene.points();
    await scene.site.startControl();
    await scene.site.startTarget();
    await scene.site.startProcessServer();
    await scene.startLife();
    const points = await scene.untilPoints(
      'two points and a proof after the second start',
      (listed) => listed.filter(({ provenMs }) => provenMs !== null).length >= before.length + 2,
    );
    await scene.endLife();
    await scene.site.stop();
    const after = await scene.points();
    expect(after.slice(0, before.length).map(identityOf)).toEqual(before.map(identityOf));
    const fresh = after.slice(before.length);
    expect(fresh.map(({ disks }) => disks[0]?.kind)).toEqual(fresh.map(() => 'delta'));
    for (const { disks } of fresh) expect(disks[0]?.payloadBytes).toBeLessThanOrEqual(size - writableFrom);
    expect(await scene.faults([...before.slice(0, 1), ...points.slice(-1)])).toEqual([]);
  });

  it('is rescued from a copy of the directory and the recovery file', { timeout: startMs }, async () => {
    rescued = scene.file('elsewhere');
    await cp(scene.site.targetData, rescued, {
      recursive: true,
      filter: (from) => path.basename(from) !== 'vault.key',
    });
    await rm(scene.site.targetData, { recursive: true });
    const listed = await tidemark(['points', '--data', rescued, '--json']);
    newest = (JSON.parse(listed.stdout) as { points: PointReport[] }).points.at(-1) ?? expect.fail('no point');
    const to = scene.file('rescued.raw');
    for (const name of ['export', 'verify', 'nbd']) {
      const words = name === 'export' ? ['--to', to] : name === 'nbd' ? ['--socket', scene.file('no.sock')] : [];
      const refused = await tidemark([name, machine, '--data', rescued, ...words]);
      expect(refused).toMatchObject({ code: exitCodes['no-key'].code });
      expect(refused.stderr).toContain('tidemark key export');
    }
    await commandOk(tidemark, fromRescued('export', machine, disk, '--point', String(newest.point), '--to', to));
    for await (const { content } of scene.oracles([newest])) await writeFile(scene.file('oracle.raw'), content);
    await runToolOk('cmp', [scene.file('oracle.raw'), to]);
    const verified = await tidemark(fromRescued('verify', '--point', 'all', '--json'));
    expect(verified).toMatchObject({ code: 0 });
    expect(JSON.parse(verified.stdout)).toMatchObject({ ok: true });
  });

  it.skipIf(!requireTool('qemu-img', 'e2fsck'))('gives an image that qemu-img and e2fsck agree with', async () => {
    const to = scene.file('rescued.raw');
    await runToolOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', scene.file('oracle.raw'), to]);
    // The writer wrote all the time, beside the file system, on the same disk.
    if (!hasFileSystem) return;
    const checked = await runTool('e2fsck', ['-fn', to]);
    expect(checked, checked.stdout).toMatchObject({ code: 0 });
  });

  it.skipIf(!requireTool('qemu-img', 'nbdinfo', 'nbdcopy'))('is served over NBD', { timeout: startMs }, async () => {
    const socket = scene.file('rescued.sock');
    const words = fromRescued('nbd', machine, disk, '--point', String(newest.point), '--socket', socket);
    const served = new RoleProcess('nbd', words, scene.file('nbd.log'));
    try {
      await served.running;
      const uri = `nbd+unix:///${disk}?socket=${socket}`;
      const info = JSON.parse(await runToolOk('nbdinfo', ['--json', uri])) as { exports: Record<string, unknown>[] };
      expect(info.exports[0]).toMatchObject({ 'export-size': size, is_read_only: true });
      for (const [name, args] of [
        ['qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri, scene.file('converted.raw')]],
        ['nbdcopy', [uri, scene.file('copied.raw')]],
      ] as const) {
        await runToolOk(name, args);
        await runToolOk('cmp', [scene.file('oracle.raw'), args.at(-1) ?? '']);
      }
      expect(await served.stop()).toBe(exitCodes.ok.code);
    } finally {
      await served.stop();
    }
  });
});

describe('tidemark up', () => {
  it('is a whole recovery site, twice from the same directory', { timeout: startMs }, async () => {
    const scene = await Scene.open({
      image: (file) => writeImage(file, 8 * MiB, 4 * MiB, 7),
      writer: { from: 4 * MiB, pauseMs: 10 },
    });
    const running: RoleProcess[] = [];
    try {
      const data = scene.file('site');
      const config = scene.file('up.yaml');
      const listen = '{ listen: 127.0.0.1:0 }';
      await writeFile(
        config,
        `data: ${data}\nmetrics: 127.0.0.1:0\ncontrol: ${listen}\ntarget: ${listen}\nprocessServer: ${listen}\n`,
      );
      const start = (name: string, words: readonly string[]): RoleProcess => {
        const role = new RoleProcess(name, words, scene.file(`${name}.log`));
        running.push(role);
        return role;
      };
      for (const round of [1, 2]) {
        const up = start('up', ['up', '--config', config]);
        const controlUrl = await up.where('control API');
        const operator = ['--control-url', controlUrl, '--credentials', path.join(data, 'control')];
        const credentials = scene.file('up-agent');
        if (round === 1) {
          await commandOk(command, ['protect', machine, '--disk', disk, ...operator, '--interval-seconds', '1']);
          const key = await commandOk(command, ['token', 'create', ...operator, '--name', machine]);
          const words = ['enroll', machine, '--control-url', controlUrl, '--key-file', '-', '--into', credentials];
          await commandOk(command, words, { input: key });
        }
        const place = ['--machine', machine, '--process-server', await up.where('agents'), '--control-url', controlUrl];
        const files = ['--data', scene.file('up-agent-data'), '--credentials', credentials, '--metrics', '127.0.0.1:0'];
        const one = ['--disk', `name=${disk},image=${scene.image},socket=${scene.site.socketOf(disk)}`];
        const before = round === 1 ? [] : await listPoints(command, path.join(data, 'target'));
        const agent = start('up-agent', ['agent', ...place, ...files, ...one]);
        const points = await scene.until('a proven point', async () => {
          const listed = await listPoints(command, path.join(data, 'target'));
          return listed.length > before.length && listed.at(-1)?.provenMs !== null ? listed : undefined;
        });
        expect(points[0]?.disks[0]?.kind).toBe('initial');
        expect(points.slice(1).every(({ disks }) => disks[0]?.kind === 'delta')).toBe(true);
        await scene.until('a status with the point in it', async () => {
          const said = await command(['status', machine, ...operator, '--json']);
          return (JSON.parse(said.stdout) as StatusReport).machines[0]?.newestProvenMs ?? undefined;
        });
        expect(await agent.stop()).toBe(exitCodes.ok.code);
        expect(await up.stop()).toBe(exitCodes.ok.code);
      }
    } finally {
      for (const role of running) await role.stop();
      await scene.close();
    }
  });
});

/**
 * A resync on request, through the whole product: asked for on the command line, kept by control, taken up by the agent, in its window or at
 * once, shown in the status until its point is committed, and never at the cost of the points there are.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { commandOk, RoleProcess } from '../../scripts/demo/process.ts';
import { Site } from '../../scripts/demo/site.ts';
import type { DiskStatus, ResyncReport, StatusReport } from '../../src/cli/roles.ts';
import { exitCodes } from '../../src/fatal.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { command } from './command.ts';
import { MiB, writeImage } from './content.ts';
import { listPoints } from './scene.ts';

const machine = 'web1';
const size = 8 * MiB;
const blocks = size / 65_536;

let directory = '';
let site: Site;
let server: RoleProcess | null = null;

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-resync-'));
  const image = path.join(directory, 'disk.raw');
  await writeImage(image, size, size, 3);
  const disks = [{ name: 'vda', image }];
  const options = { directory, machine, disks, intervalSeconds: 1, compression: 'lz4', reporting: true } as const;
  site = new Site({ ...options, run: command });
  await site.enrollAll();
  await site.startTarget();
  await site.startProcessServer();
});
afterEach(async () => {
  await server?.stop();
  server = null;
  await site.stop();
  await rm(directory, { recursive: true, force: true });
});

const operate = (...words: string[]) => command([...words, ...site.operator]);
const asked = async (...words: string[]): Promise<ResyncReport> =>
  JSON.parse(await commandOk(command, ['resync', machine, '--json', ...words, ...site.operator])) as ResyncReport;
const status = async (): Promise<StatusReport> =>
  JSON.parse((await operate('status', '--json')).stdout) as StatusReport;
const diskNow = async (): Promise<DiskStatus | undefined> => (await status()).machines[0]?.disks[0];
const hashed = async (): Promise<number> => (await site.metric('agent', 'tidemark_agent_blocks_hashed_total')) ?? 0;

async function until<T>(what: string, ask: () => Promise<T | undefined | false>): Promise<T> {
  const deadlineMs = systemClock.monotonicMs() + 40_000;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (systemClock.monotonicMs() > deadlineMs) throw new Error(`${what} did not happen in time`);
    await systemClock.sleep(100);
  }
}

let exports = 0;
async function exported(point: number): Promise<Buffer> {
  exports += 1;
  const to = path.join(directory, `export-${exports}.raw`);
  const words = ['export', machine, 'vda', '--data', site.targetData, '--point', String(point), '--to', to];
  await commandOk(command, words);
  return readFile(to);
}

/** A client of `tidemark nbd`, which ends with the test. */
async function servePoint(point: number): Promise<NbdClient> {
  const socket = path.join(directory, 'point.sock');
  const words = ['nbd', machine, 'vda', '--data', site.targetData, '--point', String(point), '--socket', socket];
  server = new RoleProcess('nbd', words, path.join(directory, 'nbd.log'));
  await server.running;
  return connectNbd({ unixPath: socket }, { exportName: 'vda', clock: systemClock });
}

/** A window that opens in two hours, in UTC. */
function laterWindow(): { text: string; opensAtMs: number } {
  const hourMs = 3_600_000;
  const opensAtMs = (Math.floor(systemClock.wallMs() / hourMs) + 2) * hourMs;
  const hour = new Date(opensAtMs).getUTCHours();
  const two = (value: number): string => String(value % 24).padStart(2, '0');
  return { text: `${two(hour)}:00-${two(hour + 1)}:00`, opensAtMs };
}

test('a resync waits for its window, begins at once with --now, and costs no point', async () => {
  const { text, opensAtMs } = laterWindow();
  await commandOk(command, ['protect', machine, '--disk', 'vda', '--resync-window', text, ...site.operator]);

  await site.startAgent();
  await until('the first point', async () => (await listPoints(command, site.targetData)).length > 0);
  await until('a status without complaints', async () => (await status()).machines[0]?.health === 'ok');

  const before = await hashed();
  expect(await asked('--disk', 'vda')).toMatchObject({ agent: 'connected', opensAtMs });
  const waiting = await until('the agent has heard', async () => {
    const disk = await diskNow();
    // Right after it has heard it waits for its session to be opened anew.
    return typeof disk?.resync?.opensAtMs === 'number' && disk;
  });
  const resync = { reason: 'requested', phase: 'waiting', opensAtMs, timeZone: 'UTC' };
  expect(waiting).toMatchObject({ health: 'warning', resync });
  expect(waiting.reasons.map(({ code }) => code)).toEqual(['resync-waiting']);
  expect((await operate('status')).stdout).toContain(`${new Date(opensAtMs).toISOString().slice(11, 16)} UTC`);
  expect(await hashed()).toBeLessThan(before + blocks);

  // Points are exported and served while every block is in doubt, while they are compared, and afterwards.
  const content = await readFile(path.join(directory, 'disk.raw'));
  const serving = await servePoint(1);
  expect((await exported(1)).equals(content)).toBe(true);
  const during = exported(1);
  expect((await asked('--now')).disks).toEqual([{ name: 'vda', now: true }]);
  await until('the resync', async () => (await diskNow())?.resync === null);
  expect((await during).equals(content)).toBe(true);
  expect((await serving.read(0, size)).equals(content)).toBe(true);
  await serving.close();
  expect((await diskNow())?.health).toBe('ok');
  expect(await hashed()).toBeGreaterThanOrEqual(before + blocks);

  const points = await listPoints(command, site.targetData);
  expect(points.map(({ point }) => point)).toEqual(points.map((_, index) => index + 1));
  expect(points.some(({ disks }) => disks.some(({ kind }) => kind === 'resync'))).toBe(true);
  const verified = await command(['verify', '--data', site.targetData, '--point', 'all', '--json']);
  expect(verified.code, verified.stderr).toBe(exitCodes.ok.code);
}, 90_000);

test('what can not be asked for is refused by name', async () => {
  await commandOk(command, ['protect', machine, '--disk', 'vda', ...site.operator]);
  const window = await operate('protect', machine, '--disk', 'vda', '--resync-window', '22-6');
  expect([window.code, window.stdout]).toEqual([exitCodes.usage.code, '']);
  expect(window.stderr).toContain('"22-6" is not a window of the day');
  expect(window.stderr).toContain('did you mean "22:00-06:00"?');

  const stranger = await operate('resync', 'web2');
  expect(stranger).toMatchObject({ code: exitCodes['not-found'].code, stdout: '' });
  expect(stranger.stderr).toContain('did you mean web1?');
  const disk = await operate('resync', machine, '--disk', 'vdb');
  expect(disk.code).toBe(exitCodes['not-found'].code);
  expect(disk.stderr).toContain('did you mean vda?');
  expect((await diskNow())?.resync).toBeNull();
  // What nobody can hear of yet is kept, and the status says so.
  expect(await asked()).toMatchObject({ agent: 'never-seen', window: null, disks: [{ name: 'vda', now: false }] });
  expect((await diskNow())?.resync?.phase).toBe('asked');

  await expect(site.startAgent({ resyncWindow: '22:00-25:00' })).rejects.toThrow();
  await expect(site.startAgent({ memoryMiB: 16 })).rejects.toThrow();
}, 60_000);

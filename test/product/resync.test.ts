/**
 * A resync on request, through the whole product: asked for on the command line, kept by control, taken up by the agent, in its window or at
 * once, shown in the status until its point is committed, and never at the cost of the points there are.
 */
import { readFile } from 'node:fs/promises';
import { afterEach, expect, test } from 'vitest';
import { commandOk, RoleProcess } from '../../scripts/demo/process.ts';
import type { ResyncReport } from '../../src/cli/roles.ts';
import type { DiskStatus } from '../../src/cli/status-report.ts';
import { exitCodes } from '../../src/fatal.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { command } from './command.ts';
import { MiB } from './content.ts';
import { OneDisk } from './one-disk.ts';
import { machine } from './scene.ts';

const size = 8 * MiB;
const blocks = size / 65_536;
const one = OneDisk.forEach({ size, seed: 3 });

let server: RoleProcess | null = null;
afterEach(async () => {
  await server?.stop();
  server = null;
});

const asked = async (...words: string[]): Promise<ResyncReport> =>
  JSON.parse(await commandOk(command, ['resync', machine, '--json', ...words, ...one.site.operator])) as ResyncReport;
const diskNow = async (): Promise<DiskStatus | undefined> => (await one.status())?.disks[0];
const hashed = (): Promise<number> => one.metric('agent_blocks_hashed_total');

/** A client of `tidemark nbd`, which ends with the test. */
async function servePoint(point: number): Promise<NbdClient> {
  const socket = one.file('point.sock');
  const words = ['nbd', machine, 'vda', '--data', one.site.targetData, '--point', String(point), '--socket', socket];
  server = new RoleProcess('nbd', words, one.file('nbd.log'));
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
  await one.protect('--resync-window', text);

  await one.site.startAgent();
  await one.untilPoint('the first point');
  await one.until('a status without complaints', async () => (await one.status())?.health === 'ok');

  const before = await hashed();
  expect(await asked('--disk', 'vda')).toMatchObject({ agent: 'connected', opensAtMs });
  const waiting = await one.until('the agent has heard', async () => {
    const disk = await diskNow();
    // Right after it has heard it waits for its session to be opened anew.
    return typeof disk?.resync?.opensAtMs === 'number' && disk;
  });
  const resync = { reason: 'requested', phase: 'waiting', opensAtMs, timeZone: 'UTC' };
  expect(waiting).toMatchObject({ health: 'warning', resync });
  expect(waiting.reasons.map(({ code }) => code)).toEqual(['resync-waiting']);
  expect((await one.operate('status')).stdout).toContain(`${new Date(opensAtMs).toISOString().slice(11, 16)} UTC`);
  expect(await hashed()).toBeLessThan(before + blocks);

  // Points are exported and served while every block is in doubt, while they are compared, and afterwards.
  const content = await readFile(one.image);
  const serving = await servePoint(1);
  expect((await one.exported(1)).equals(content)).toBe(true);
  const during = one.exported(1);
  expect((await asked('--now')).disks).toEqual([{ name: 'vda', now: true }]);
  await one.until('the resync', async () => (await diskNow())?.resync === null);
  expect((await during).equals(content)).toBe(true);
  expect((await serving.read(0, size)).equals(content)).toBe(true);
  await serving.close();
  expect((await diskNow())?.health).toBe('ok');
  expect(await hashed()).toBeGreaterThanOrEqual(before + blocks);

  const points = await one.points();
  expect(points.map(({ point }) => point)).toEqual(points.map((_, index) => index + 1));
  expect(points.some(({ disks }) => disks.some(({ kind }) => kind === 'resync'))).toBe(true);
  const verified = await one.verified();
  expect(verified.code, verified.stderr).toBe(exitCodes.ok.code);
}, 90_000);

test('what can not be asked for is refused by name', async () => {
  await one.protect();
  const window = await one.operate('protect', machine, '--disk', 'vda', '--resync-window', '22-6');
  expect([window.code, window.stdout]).toEqual([exitCodes.usage.code, '']);
  expect(window.stderr).toContain('"22-6" is not a window of the day');
  expect(window.stderr).toContain('did you mean "22:00-06:00"?');

  const stranger = await one.operate('resync', 'web2');
  expect(stranger).toMatchObject({ code: exitCodes['not-found'].code, stdout: '' });
  expect(stranger.stderr).toContain('did you mean web1?');
  const disk = await one.operate('resync', machine, '--disk', 'vdb');
  expect(disk.code).toBe(exitCodes['not-found'].code);
  expect(disk.stderr).toContain('did you mean vda?');
  expect((await diskNow())?.resync).toBeNull();
  // What nobody can hear of yet is kept, and the status says so.
  expect(await asked()).toMatchObject({ agent: 'never-seen', window: null, disks: [{ name: 'vda', now: false }] });
  expect((await diskNow())?.resync?.phase).toBe('asked');

  await expect(one.site.startAgent({ resyncWindow: '22:00-25:00' })).rejects.toThrow();
  await expect(one.site.startAgent({ memoryMiB: 16 })).rejects.toThrow();
}, 60_000);

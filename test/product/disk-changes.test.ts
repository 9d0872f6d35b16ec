/** A disk that is another one when the agent comes back: larger is handled, smaller or gone is refused by name; no point is lost. */
import { mkdtemp, rename, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { commandOk, tidemark } from '../../scripts/demo/process.ts';
import { Site } from '../../scripts/demo/site.ts';
import type { PointReport, StatusReport } from '../../src/cli/roles.ts';
import { exitCodes } from '../../src/fatal.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { command } from './command.ts';
import { KiB, MiB, writeImage } from './content.ts';
import { identityOf, listPoints } from './scene.ts';

const size = 4 * MiB;
let directory = '';
let image = '';
let site: Site;

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-disk-changes-'));
  image = path.join(directory, 'disk.raw');
  await writeImage(image, size, size, 9);
  const disks = [{ name: 'vda', image }];
  const options = { directory, machine: 'web1', disks, intervalSeconds: 1, compression: 'lz4' } as const;
  site = new Site({ ...options, reporting: true, run: command });
  await site.enrollAll();
  await site.startTarget();
  await site.startProcessServer();
});
afterEach(async () => {
  await site.stop();
  await rm(directory, { recursive: true, force: true });
});

const points = (): Promise<readonly PointReport[]> => listPoints(command, site.targetData);

async function untilPoint(what: string, wanted: (newest: PointReport | undefined) => boolean): Promise<void> {
  const deadlineMs = clock.monotonicMs() + 40_000;
  while (!wanted((await points()).at(-1))) {
    if (clock.monotonicMs() > deadlineMs) throw new Error(`${what} did not come in time`);
    await clock.sleep(100);
  }
}

/** Starts the agent on a disk that it can not take, and hears why. */
async function refusal() {
  const config = await site.writeAgentConfig('refused.yaml');
  const words = ['agent', '--config', config, '--data', site.dir('agent'), '--metrics', '127.0.0.1:0'];
  return tidemark([...words, '--credentials', site.dir('agent.credentials')], { timeoutMs: 20_000 });
}

const sizeOf = (point: PointReport | undefined): number | undefined => point?.disks[0]?.size;

test('grown while the agent was stopped: the next point has the new size, and every point is whole', async () => {
  await site.startAgent();
  await untilPoint('the first point', (newest) => newest !== undefined);
  await site.role('agent').stop();
  await truncate(image, size + MiB + 512);
  await site.startAgent();
  await untilPoint('a point of the grown disk', (newest) => sizeOf(newest) === size + MiB + 512);
  const verified = await command(['verify', '--data', site.targetData, '--point', 'all', '--json']);
  expect(verified.code, verified.stderr).toBe(exitCodes.ok.code);
}, 90_000);

test('smaller, or gone: refused by name with a remedy, the points stay, and the disk as it was is taken again', async () => {
  await site.startAgent();
  await untilPoint('the first point', (newest) => newest !== undefined);
  await site.role('agent').stop();
  const before = await points();

  await rename(image, `${image}.away`);
  const gone = await refusal();
  expect(gone, gone.stderr).toMatchObject({ code: exitCodes['not-found'].code });
  expect(gone.stderr).toContain(image);

  await rename(`${image}.away`, image);
  await truncate(image, size - 64 * KiB);
  const shrunk = await refusal();
  expect(shrunk, shrunk.stderr).toMatchObject({ code: exitCodes.usage.code });
  expect(shrunk.stderr).toContain('(shrunk)');
  expect(shrunk.stderr.trim().split('\n')).toHaveLength(2);
  expect((await points()).map(identityOf)).toEqual(before.map(identityOf));

  await truncate(image, size);
  await site.startAgent();
  const newest = before.at(-1)?.point ?? 0;
  await untilPoint('a point after that', (point) => (point?.point ?? 0) > newest);
  const kept = (await points()).filter(({ point }) => point <= newest);
  expect(kept.map(identityOf)).toEqual(before.map(identityOf));
}, 90_000);

test('gone while the agent runs: critical by name until it is back', async () => {
  await commandOk(command, ['protect', 'web1', '--disk', 'vda', ...site.operator]);
  await site.startAgent();
  const status = async (): Promise<StatusReport> =>
    JSON.parse((await command(['status', '--json', ...site.operator])).stdout) as StatusReport;
  const until = async (code: string | null): Promise<string> => {
    const deadlineMs = clock.monotonicMs() + 30_000;
    for (;;) {
      const [machine] = (await status()).machines;
      const reason = machine?.disks[0]?.reasons.find(({ severity }) => severity === 'critical');
      if (machine && (reason?.code ?? null) === code && (code !== null || machine.health === 'ok'))
        return reason ? `${reason.message}; ${reason.remedy}` : '';
      if (clock.monotonicMs() > deadlineMs) throw new Error(`${code} was not told: ${JSON.stringify(machine)}`);
      await clock.sleep(100);
    }
  };
  await until(null);
  await rename(image, `${image}.away`);
  expect(await until('not-found')).toMatch(new RegExp(`${image} .*leave the agent running`));
  await rename(`${image}.away`, image);
  await until(null);
}, 90_000);

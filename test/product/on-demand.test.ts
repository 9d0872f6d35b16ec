/** A point on demand: SIGUSR2 makes the agent cut now, whatever its interval. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Site } from '../../scripts/demo/site.ts';
import { systemClock } from '../../src/kit/clock.ts';

let directory = '';
let site: Site;

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-on-demand-'));
  const image = path.join(directory, 'disk.raw');
  await writeFile(image, Buffer.alloc(4 * 1024 * 1024, 7));
  const disks = [{ name: 'vda', image }];
  site = new Site({ directory, machine: 'web1', disks, intervalSeconds: 3600, compression: 'lz4' });
});
afterEach(async () => {
  await site.stop();
  await rm(directory, { recursive: true, force: true });
});

async function untilPoints(count: number): Promise<void> {
  const deadlineMs = systemClock.monotonicMs() + 30_000;
  while (((await site.metric('agent', 'tidemark_agent_points_committed_total')) ?? 0) < count) {
    if (systemClock.monotonicMs() > deadlineMs) throw new Error(`${count} points did not come in time`);
    await systemClock.sleep(50);
  }
}

test('SIGUSR2 makes the next point at once', async () => {
  await site.enrollAll();
  await site.startTarget();
  await site.startProcessServer();
  await site.startAgent();
  await untilPoints(1);
  process.kill(site.role('agent').pid, 'SIGUSR2');
  await untilPoints(2);
  expect(await site.metric('agent', 'tidemark_agent_points_committed_total')).toBe(2);
}, 90_000);

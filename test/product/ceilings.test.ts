/** The agent as a good neighbour: background work keeps to its share of the processor, the whole process to its memory, writers are not held. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { commandOk } from '../../scripts/demo/process.ts';
import { Site } from '../../scripts/demo/site.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { connectNbd } from '../../src/nbd/client.ts';
import { command } from './command.ts';
import { MiB, writeImage } from './content.ts';

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const size = 64 * MiB;
/** The least there is for one disk (`agent/memory-plan.ts`). */
const memoryMiB = 316;

let directory = '';
let site: Site;

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-ceilings-'));
  const image = path.join(directory, 'disk.raw');
  await writeImage(image, size, size, 5);
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

const metric = async (name: string): Promise<number> => (await site.metric('agent', `tidemark_${name}`)) ?? 0;

async function untilPoints(count: number): Promise<void> {
  const deadlineMs = clock.monotonicMs() + 60_000;
  while ((await metric('agent_points_committed_total')) < count) {
    if (clock.monotonicMs() > deadlineMs) throw new Error(`${count} points did not come in time`);
    await clock.sleep(50);
  }
}

test('the first replication keeps to its share of the processor', async () => {
  await site.startAgent({ cpuPercent: 10 });
  const startMs = clock.monotonicMs();
  await untilPoints(1);
  const seconds = (clock.monotonicMs() - startMs) / 1000;
  expect((await site.cpuSeconds('agent')) / seconds).toBeLessThan(0.15);
  expect(await metric('agent_cpu_limit_cores')).toBe(0.1);
  expect(await metric('agent_paced_seconds_total')).toBeGreaterThan(seconds / 3);
}, 90_000);

test('memory stays under its ceiling while writers write as fast as they can and every block is compared', async () => {
  await commandOk(command, ['protect', 'web1', '--disk', 'vda', ...site.operator]);
  await site.startAgent({ memoryMiB });
  await untilPoints(1);
  const client = await connectNbd({ unixPath: site.socketOf('vda') }, { exportName: 'vda', clock });
  const endMs = clock.monotonicMs() + (soak ? 60_000 : 6_000);
  const busy = (): boolean => clock.monotonicMs() < endMs;
  let written = 0;
  const lane = async (number: number): Promise<void> => {
    for (const block = Buffer.alloc(MiB, number); busy(); written += 1) {
      block.writeUInt32LE(written, 0);
      await client.write(block, ((written * 7 + number) % 64) * MiB);
    }
  };
  let peakBytes = 0;
  const watch = async (): Promise<void> => {
    while (busy()) {
      peakBytes = Math.max(peakBytes, await metric('process_resident_memory_bytes'));
      await clock.sleep(100);
    }
  };
  const compare = () => commandOk(command, ['resync', 'web1', '--now', ...site.operator]);
  await Promise.all([watch(), compare(), ...Array.from({ length: 16 }, (_, number) => lane(number))]);
  await client.close();
  expect(written).toBeGreaterThan(64);
  expect(await metric('agent_memory_limit_bytes')).toBe(memoryMiB * MiB);
  expect(peakBytes / MiB).toBeLessThan(memoryMiB);
}, 120_000);

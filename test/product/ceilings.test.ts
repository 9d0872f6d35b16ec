/** The agent as a good neighbour: background work keeps to its share of the processor, the whole process to its memory, writers are not held. */
import { expect, test } from 'vitest';
import { commandOk } from '../../scripts/demo/process.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { connectNbd } from '../../src/nbd/client.ts';
import { command } from './command.ts';
import { MiB } from './content.ts';
import { OneDisk } from './one-disk.ts';
import { disk, machine } from './scene.ts';

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const size = 64 * MiB;
/** The least there is for one disk (`agent/memory-plan.ts`). */
const memoryMiB = 316;

const one = OneDisk.forEach({ size, seed: 5 });
const metric = (name: string): Promise<number> => one.metric(name);

/** As the agent counts them: looking at the target's files costs more than is measured here. */
const untilPoints = (count: number): Promise<true> =>
  one.until(`${count} points`, async () => (await metric('agent_points_committed_total')) >= count, 60_000);

test('the first replication keeps to its share of the processor', async () => {
  await one.site.startAgent({ cpuPercent: 10 });
  const startMs = clock.monotonicMs();
  await untilPoints(1);
  const seconds = (clock.monotonicMs() - startMs) / 1000;
  expect((await one.site.cpuSeconds('agent')) / seconds).toBeLessThan(0.15);
  expect(await metric('agent_cpu_limit_cores')).toBe(0.1);
  expect(await metric('agent_paced_seconds_total')).toBeGreaterThan(seconds / 3);
}, 90_000);

test('memory stays under its ceiling while writers write as fast as they can and every block is compared', async () => {
  await one.protect();
  await one.site.startAgent({ memoryMiB });
  await untilPoints(1);
  const client = await connectNbd({ unixPath: one.site.socketOf(disk) }, { exportName: disk, clock });
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
  const compare = () => commandOk(command, ['resync', machine, '--now', ...one.site.operator]);
  await Promise.all([watch(), compare(), ...Array.from({ length: 16 }, (_, number) => lane(number))]);
  await client.close();
  expect(written).toBeGreaterThan(64);
  expect(await metric('agent_memory_limit_bytes')).toBe(memoryMiB * MiB);
  expect(peakBytes / MiB).toBeLessThan(memoryMiB);
}, 120_000);

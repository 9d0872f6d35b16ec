/** Limits where they count: on what a session's agent may send, and on what its target gets. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { parseRateTable } from '../../src/kit/rate-table.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { LimitedThrottle } from '../../src/process-server/limited-throttle.ts';
import { batchOf, type FakeAgent } from './fakes.ts';
import { blockSize, open, seqBase, theTarget, world } from './world.ts';

/** What compression does not help. */
const noise = new Uint8Array(randomBytes(blockSize));

function limited() {
  const directory = mkdtempSync(path.join(tmpdir(), 'tidemark-throttled-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  const throttle = new LimitedThrottle({ clock: systemClock, share: 1 });
  const spool = { directory, bytesMax: 1e9, files: posixFiles };
  const made = world({}, { throttle, spool });
  onTestFinished(() => made.server.close());
  return { throttle, made };
}

/** Sends whole batches for `ms`, whenever the credit is there. */
async function sendFor(agent: FakeAgent, leafKey: Uint8Array, ms: number): Promise<number> {
  const endMs = systemClock.monotonicMs() + ms;
  let [batch, sent] = [0, 0];
  agent.cycle(0, seqBase + 1);
  while (systemClock.monotonicMs() < endMs) {
    const frame = batchOf({ disk: 0, seq: seqBase + 1, batch, leafKey, blocks: [[batch, noise]] });
    if (agent.creditBytes < frame.byteLength) {
      await systemClock.sleep(5);
      continue;
    }
    agent.creditBytes -= frame.byteLength - 8;
    sent += frame.byteLength;
    batch += 1;
    agent.send(frame);
    await systemClock.turn();
  }
  return sent;
}

it('an agent gets credit at the rate of its machine, and its session waits for the throttle, not for the agent', async () => {
  const { throttle, made } = limited();
  const own = parseRateTable('1MB/s', 'UTC');
  throttle.tell([{ machine: 'm1', policy: 'p', priority: 'normal', own, ofPolicy: null }]);
  const agent = made.agent('m1');
  const [leafKey] = await open(agent, 'm1');
  const sent = await sendFor(agent, leafKey ?? new Uint8Array(0), 2_000);
  expect(sent).toBeLessThan(2.2e6);
  expect(sent).toBeGreaterThan(1e6);
  expect(made.server.waits('m1')?.throttle).toBeGreaterThan(500);
  expect(made.server.spoolReport()).toMatchObject({ usedBytes: 0, level: 'ok' });
});

it('what goes to the target keeps to the limit of the process server, and a wait for it spools nothing', async () => {
  const { throttle, made } = limited();
  throttle.tellOwn(parseRateTable('256kB/s', 'UTC'));
  const agent = made.agent('m1');
  const [leafKey] = await open(agent, 'm1');
  await sendFor(agent, leafKey ?? new Uint8Array(0), 3_000);
  const [session] = made.server.sessions;
  expect(session?.counters.sealedBytesOut).toBeGreaterThan(0);
  expect(session?.counters.sealedBytesOut).toBeLessThan(256_000 * 3 + 100_000);
  expect(made.server.waits('m1')?.throttle).toBeGreaterThan(1_500);
  expect(made.server.spoolReport()).toMatchObject({ usedBytes: 0, level: 'ok' });
  expect(theTarget(made).faults).toEqual([]);
});

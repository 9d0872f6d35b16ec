/**
 * Points in flight of an agent that is not told what changes, of one whose source grows, and of one that freezes applications: each cycle compares the
 * whole source with what was sent, also with what no answer came for.
 */
import { appendFileSync, openSync, writeSync, closeSync } from 'node:fs';
import { afterEach, expect, test, vi } from 'vitest';
import { Agent } from '../../src/agent/agent.ts';
import { readDiskState } from '../../src/agent/disk-state.ts';
import { ReplicaDisk } from '../../src/agent/replica-disk.ts';
import type { AppAttempt, AppConsistency } from '../../src/agent/app-consistency.ts';
import type { AgentOptions } from '../../src/agent/options.ts';
import { makeCutAll } from '../../src/capture/cut.ts';
import { openScanCapture } from '../../src/capture/scan.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { LateAnswers } from './late-answers.ts';
import { Site } from './site.ts';
import { clock, machine } from './surroundings.ts';
import { peer } from './wires.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  return smallLimits(await load());
});

const blockSize = 4096;
const size = 300_032;
const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Scanned {
  readonly site: Site;
  readonly answers: LateAnswers;
  readonly agent: Agent;
  readonly disk: ReplicaDisk;
  readonly waiting: () => number;
  readonly send: () => Promise<void>;
}

async function scanned(more: Partial<AgentOptions> = {}, frozen = false): Promise<Scanned> {
  const site = new Site({ blockSize, sizes: [size] });
  closers.push(() => site.remove());
  const answers = new LateAnswers(site);
  answers.late = false;
  await site.startTarget();
  site.newProcessServer();
  const { image, name } = site.disk(0);
  await posixFiles.makeDirectory(site.state);
  const capture = await openScanCapture({ files: posixFiles, image, name, blockSize, frozen });
  const state = await readDiskState(posixFiles, site.state, name);
  const disk = await ReplicaDisk.open({ capture, files: posixFiles, directory: site.state, state });
  closers.push(() => disk.close());
  const agent = new Agent({
    machine,
    version: 'test',
    disks: [disk],
    cutAll: makeCutAll(clock),
    connect: () => {
      const [ours, theirs] = site.agentHop.join(peer('agent', machine), peer('process-server', 'ps-1'));
      site.processServer?.accept(theirs);
      return Promise.resolve(ours);
    },
    intervalMs: () => 3_600_000,
    compression: () => 'off',
    clock,
    random: systemRandom,
    logger: site.logger('agent'),
    ...more,
  });
  const running = agent.run();
  closers.push(async () => {
    agent.stop();
    await running;
  });
  const waiting = (): number => agent.report().flow.pointsInFlight;
  const send = async (): Promise<void> => {
    const before = waiting();
    agent.requestCycle();
    await site.until(() => waiting() > before, 'one more point in flight');
  };
  await site.until(() => disk.knownPoint === 1, 'the first point');
  answers.late = true;
  return { site, answers, agent, disk, waiting, send };
}

/** Behind the agent's back. */
function write(site: Site, block: number, text: string): void {
  const file = openSync(site.disk(0).image, 'r+');
  writeSync(file, Buffer.alloc(blockSize, text), 0, blockSize, block * blockSize);
  closeSync(file);
}

const records = (site: Site): (number | undefined)[] =>
  site.target?.store?.points.points.map(({ disks }) => disks[0]?.records) ?? [];

test('a source that is compared sends what differs from what was sent last, answered or not', async () => {
  const { site, answers, agent, disk, send } = await scanned();
  write(site, 3, 'a');
  write(site, 4, 'a');
  await send();
  // The same again is nothing new; back to what it was is.
  write(site, 3, 'b');
  await send();
  await send();
  await site.until(() => answers.came === 3, 'the target has all');
  expect(records(site).slice(1)).toEqual([2, 1, 0]);
  answers.intime();
  await site.until(() => disk.knownPoint === 4, 'the leaf file follows');
  agent.requestCycle();
  await site.until(() => disk.knownPoint === 5, 'the next point');
  expect(records(site).slice(1)).toEqual([2, 1, 0, 0]);
  expect(site.alarms).toEqual([]);
});

test('a source that grows while points wait begins another session, and nothing is lost', async () => {
  const { site, answers, agent, disk, send } = await scanned();
  write(site, 3, 'a');
  await send();
  await site.until(() => answers.came === 1, 'the target has it');
  appendFileSync(site.disk(0).image, Buffer.alloc(10 * blockSize, 'more'));
  agent.requestCycle();
  await site.until(() => agent.report().counters.sessions === 2, 'another session');
  answers.intime();
  await site.until(() => disk.knownPoint !== null && disk.knownPoint >= 3, 'a point of the new size');
  const newest = site.target?.store?.points.lastPoint?.disks[0];
  expect(newest?.size).toBe(size + 10 * blockSize);
  expect(site.said.filter((line) => line.includes('is compared with its replica'))).toEqual([]);
  expect(site.alarms).toEqual([]);
});

test('an app-consistent point that waits is not made again, unless its session is lost', async () => {
  let frozen = 0;
  const attempt = (): AppAttempt => {
    const evidence = `frozen ${(frozen += 1)}`;
    return { cutAll: makeCutAll(clock), evidence, failure: null };
  };
  const app = { attempt, stop: () => undefined } as unknown as AppConsistency;
  const { site, answers, agent, send } = await scanned({ app, appEveryMs: () => 3_600_000 }, true);
  const dueInMs = (): number => (agent.report().flow.nextAppPointMs ?? NaN) - clock.wallMs();
  expect(frozen).toBe(1);
  agent.requestCycle({ app: true });
  await site.until(() => answers.came === 1, 'the app-consistent one is at the target');
  await send();
  await send();
  await site.until(() => answers.came === 3, 'the target has all');
  expect(frozen).toBe(2);
  expect(dueInMs()).toBeGreaterThan(3_000_000);
  const points = site.target?.store?.points.points ?? [];
  expect(points.map(({ consistency }) => consistency)).toEqual(['app', 'app', 'crash', 'crash']);
  site.agentHop.cutAfter(0);
  await site.until(() => agent.report().counters.sessions === 2, 'another session');
  expect(dueInMs()).toBeLessThanOrEqual(60_000);
});

/**
 * Points that were due and not made, through the whole path: the rule is kept, no writer is harmed, and `points.log` says why. And what an
 * app-consistent point rests on.
 */
import { afterEach, expect, test, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import type { GapBody } from '../../src/store/points-record.ts';
import { FakeGuestAgent } from '../agent/fake-guest-agent.ts';
import { QuietSurroundings } from '../agent/quiet-surroundings.ts';
import { frameType } from '../../src/wire/frame.ts';
import { readBack } from './read-back.ts';
import { Site, type SiteOptions } from './site.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  const small = smallLimits(await load()) as typeof import('../../src/limits.ts');
  // A batch per block and nearly the whole disk under a cut, so that one given up half-way leaves some behind.
  const agent = { ...small.limits.agent, batchPayloadBytes: 4096, lastRoundBytes: 256 * 1024 };
  // Four such batches may be on their way; then the sender waits.
  const window = 4 * 4160;
  const processServer = { ...small.limits.processServer, sessionWindowBytes: window, sessionWindowBytesMin: window };
  return { ...small, limits: { ...small.limits, agent, processServer } };
});

const blockSize = 4096;
const sites: Site[] = [];
const cleanUp: (() => Promise<void> | void)[] = [];

afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
  for (const step of cleanUp.splice(0).reverse()) await step();
});

async function made(more: Partial<SiteOptions> = {}, set: (site: Site) => void = () => undefined): Promise<Site> {
  const site = new Site({ blockSize, sizes: [64 * blockSize], ...more });
  sites.push(site);
  set(site);
  await site.startTarget();
  site.newProcessServer();
  await site.startAgent();
  return site;
}

/** What `points.log` says, read anew; everything else is as it has to be too. */
async function over(site: Site): Promise<readonly GapBody[]> {
  await site.proven(await site.point());
  await site.endAgent('close');
  await site.endTarget('close');
  expect(site.alarms).toEqual([]);
  await readBack(site);
  await site.startTarget();
  // A machine's log is read when a session asks for it.
  await site.startAgent();
  await site.point();
  return site.target?.store?.points.gaps ?? [];
}

const missed = (gaps: readonly GapBody[]): unknown[] => gaps.map(({ reason, points }) => [reason, points]);
const sum = (gaps: readonly GapBody[], reason: GapBody['reason']): number =>
  gaps.filter((gap) => gap.reason === reason).reduce((total, { points }) => total + points, 0);

test('a cut whose old pages find no room is given up: durable batches stay, the next cut follows, no writer fails', async () => {
  const site = await made({}, (early) => {
    early.oldPagesBytesMax = 2 * blockSize;
  });
  await site.point();
  const { agent } = site;
  if (!agent) throw new Error('an agent runs');
  const content = (name: string): Buffer => Buffer.from(`${name};`.repeat(blockSize).slice(0, blockSize));
  for (let block = 0; block < 60; block += 1) await site.write(0, block * blockSize, content(`a${block}`));
  const { counters } = agent.agent.report();
  const durable = counters.batchesDurable;
  // Once something of the cut is durable nothing more gets through, so most blocks stay unread.
  let release: (() => void) | null = null;
  site.agentHop.tap = (frame) => {
    if (frame[0] === frameType.durable) release ??= site.agentHop.holdForward();
    return undefined;
  };
  agent.agent.requestCycle();
  await site.until(() => counters.batchesDurable > durable, 'some of the cut is durable');
  expect([site.cuts.size, counters.cutsGivenUp]).toEqual([2, 0]);
  for (let block = 59; block >= 40; block -= 1) await site.write(0, block * blockSize, content(`b${block}`));
  site.agentHop.tap = () => undefined;
  (release as (() => void) | null)?.();
  await site.until(() => counters.cutsGivenUp === 1, 'the cut is given up');
  expect(site.acknowledged.size).toBe(1);
  const point = await site.point();
  const [disk] = site.target?.store?.points.point(point)?.disks ?? [];
  // The layer of the cut that was given up, and the one that completes it.
  expect([point, disk?.layers?.count]).toEqual([2, 2]);
  expect(disk?.records).toBeLessThan(60 - 2);
  expect(agent.agent.report().gaps.get('copy-before-write')).toBe(1);
  const gaps = await over(site);
  expect(missed(gaps)).toEqual([['copy-before-write', 1]]);
  expect(gaps[0]?.detail).toMatch(/\S/);
});

test('a cut whose writes in flight do not end is given up, and the next one follows', async () => {
  const site = await made();
  await site.point();
  const { agent } = site;
  if (!agent) throw new Error('an agent runs');
  const { image } = site.disk(0);
  const slow = Promise.withResolvers<undefined>();
  agent.files.trouble = (operation, path) => (operation === 'write' && path === image ? slow.promise : undefined);
  const write = site.write(0, 0, Buffer.alloc(60 * blockSize, 'slow'));
  agent.agent.requestCycle();
  await site.until(() => agent.agent.report().gaps.get('drain') === 1, 'the cut is given up');
  slow.resolve(undefined);
  await write;
  expect(await site.point()).toBe(2);
  expect(missed(await over(site))).toEqual([['drain', 1]]);
});

test('what was due while the link was away is told when it is back, once', async () => {
  const site = await made({ intervalMs: 30 });
  await site.until(() => site.acknowledged.size >= 3, 'points');
  const { processServer } = site;
  const awayMs = systemClock.monotonicMs();
  site.processServer = null;
  processServer?.close();
  await site.until(() => site.agent?.agent.report().state === 'connecting', 'the session ended');
  await systemClock.sleep(600);
  site.newProcessServer();
  const atLeast = Math.floor(600 / 30) - 2;
  const told = (): number => sum(site.target?.store?.points.gaps ?? [], 'disconnected');
  await site.until(() => told() >= atLeast, 'the gap was told');
  site.intervalMs = 3_600_000;
  expect(told()).toBeLessThanOrEqual((systemClock.monotonicMs() - awayMs) / 30 + 1);
  const counted = site.agent?.agent.report().gaps.get('disconnected');
  expect(sum(await over(site), 'disconnected')).toBe(counted);
});

test('what was due while no agent ran is found by the next one', async () => {
  const site = await made({ intervalMs: 3_600_000 });
  await site.point();
  await site.endAgent('crash');
  await systemClock.sleep(500);
  site.intervalMs = 20;
  await site.startAgent();
  await site.until(() => sum(site.target?.store?.points.gaps ?? [], 'disconnected') >= 20, 'the gap was told');
});

/** A guest whose agent can be told what to do, and what freezes it around the cuts of a site. */
async function frozenSite(): Promise<{ site: Site; guest: FakeGuestAgent; around: QuietSurroundings }> {
  const around = new QuietSurroundings();
  cleanUp.push(() => around.remove());
  const guest = await FakeGuestAgent.listening(around.socket);
  cleanUp.push(() => guest.close());
  const app = await around.open({ socket: around.socket, pre: 'exit 0' });
  const site = await made({}, (early) => {
    early.app = app;
  });
  return { site, guest, around };
}

/** The point made on demand, as the target has it. */
async function appPoint(site: Site) {
  const before = site.acknowledged.size;
  site.agent?.agent.requestCycle({ app: true });
  await site.until(() => site.acknowledged.size > before, 'a point');
  const newest = Math.max(...site.acknowledged.keys());
  const { consistency, evidence } = site.target?.store?.points.point(newest) ?? {};
  return { consistency, evidence };
}

test('a point says app with its evidence in points.log, and crash with a gap when the guest can not be frozen', async () => {
  const { site, guest } = await frozenSite();
  await site.point();
  expect(await appPoint(site)).toEqual({
    consistency: 'app',
    evidence: expect.stringMatching(
      /^pre hook \S+ exited 0 in \d+ ms, guest agent froze 3 file systems, thawed 3 after \d+ ms$/,
    ) as string,
  });
  guest.meets = (command) => (command === 'guest-fsfreeze-freeze' ? 'refused' : 'done');
  expect(await appPoint(site)).toEqual({ consistency: 'crash', evidence: undefined });
  guest.meets = () => 'done';
  expect((await appPoint(site)).consistency).toBe('app');
  const gaps = site.target?.store?.points.gaps ?? [];
  expect(missed(gaps)).toEqual([['hooks', 1]]);
  expect(gaps[0]?.detail).toBe('guest agent: guest-fsfreeze-freeze: guest-fsfreeze-freeze failed');
  expect([guest.frozen, guest.freezes, guest.thaws]).toEqual([0, 2, 2]);
});

test('a session that is lost while the guest is frozen leaves it thawed, and the next point comes', async () => {
  const { site, guest } = await frozenSite();
  await site.point();
  guest.meets = (command) => {
    if (command === 'guest-fsfreeze-freeze') site.agentHop.cutAfter(0);
    return 'done';
  };
  site.agent?.agent.requestCycle({ app: true });
  await site.until(() => guest.thaws === 1, 'the guest was thawed');
  guest.meets = () => 'done';
  await site.point();
  expect([guest.frozen, guest.freezes - guest.thaws]).toEqual([0, 0]);
});

test('cuts are an interval apart, however long a cycle takes', async () => {
  const site = await made();
  await site.point();
  const capture = site.agent?.captureOf(site.disk(0));
  if (!capture) throw new Error('an agent runs');
  const read = capture.readBlocks.bind(capture);
  let content = 0;
  capture.readBlocks = async (first, into) => {
    await systemClock.sleep(250);
    // So that every cycle has something to read.
    content += 1;
    void site.write(0, 0, Buffer.alloc(blockSize, content));
    return read(first, into);
  };
  site.intervalMs = 500;
  await site.write(0, 0, Buffer.alloc(blockSize, 255));
  await site.point();
  const before = site.acknowledged.size;
  await site.until(() => site.acknowledged.size >= before + 4, 'four more points');
  const cuts = [...site.acknowledged.values()].slice(before - 1, before + 4);
  // Not the 750 ms of a cycle and a whole interval after it.
  expect(((cuts.at(-1) ?? 0) - (cuts[0] ?? 0)) / 4).toBeLessThan(700);
  expect(((cuts.at(-1) ?? 0) - (cuts[0] ?? 0)) / 4).toBeGreaterThan(450);
});

/**
 * Points in flight: cuts go on while the target's answers are late, and whatever becomes of the answers, the session, the agent or the target, every
 * point is the disks as of its cut, and nothing is compared or sent again that was known.
 */
import { afterEach, describe, expect, test, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import { decodeFrame, frameType } from '../../src/wire/frame.ts';
import { decodePointMessage, encodePointMessage } from '../../src/wire/point.ts';
import { encodeRepair } from '../../src/wire/repair.ts';
import { LateAnswers } from './late-answers.ts';
import { readBack, type ReadBackOptions } from './read-back.ts';
import { Site, type SiteOptions } from './site.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  const small = smallLimits(await load()) as typeof import('../../src/limits.ts');
  return {
    ...small,
    limits: {
      ...small.limits,
      agent: { ...small.limits.agent, pointsPerWait: 4, batchPayloadBytes: 16_384, lastRoundBytes: 524_288 },
    },
  };
});

const blockSize = 4096;
const sites: Site[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

/** With a first point, so that the disks are steady; answers are late from now on. */
async function started(options: Partial<SiteOptions> = {}): Promise<{ site: Site; answers: LateAnswers }> {
  const site = new Site({ blockSize, sizes: [1_000_448, 300_032], ...options });
  sites.push(site);
  const answers = new LateAnswers(site);
  answers.late = false;
  await site.startTarget();
  site.newProcessServer();
  await site.startAgent();
  await site.point();
  await settled(site);
  answers.late = true;
  return { site, answers };
}

const replica = (site: Site, index = 0) => {
  const found = site.agent?.replicas[index];
  if (!found) throw new Error('an agent runs');
  return found;
};

/** Leaf files and change logs have followed the newest point. */
async function settled(site: Site): Promise<void> {
  const follows = (): boolean =>
    site.agent?.replicas.every((disk) => disk.knownPoint === disk.committedPoint) === true &&
    site.agent.agent.report().disks.every(({ lagBytes }) => lagBytes === 0);
  await site.until(follows, 'leaf files and logs follow');
}

/** Some blocks of both disks, which ones and with what `what` tells; then a cut. */
async function sendPoint(site: Site, answers: LateAnswers, what: number): Promise<void> {
  await site.write(0, (what % 17) * 5 * blockSize, Buffer.alloc(2 * blockSize + 700, `${what};`));
  await site.write(1, (what % 7) * blockSize, Buffer.alloc(300, `${what}.`));
  await answers.send();
}

async function sendPoints(site: Site, answers: LateAnswers, count: number): Promise<void> {
  for (let what = 1; what <= count; what += 1) await sendPoint(site, answers, what);
}

/** Nothing was met that needs a comparison, and every point reads as its cut. Answers how many points there are. */
async function over(site: Site, options: ReadBackOptions & { readonly compared?: boolean } = {}): Promise<number> {
  if (options.compared !== true)
    expect(site.said.filter((line) => /is compared|read and hashed|differs from the replica/.test(line))).toEqual([]);
  expect(site.alarms).toEqual([]);
  await site.endAgent('close');
  await site.endTarget('close');
  return readBack(site, options);
}

const report = (site: Site) => {
  const found = site.agent?.agent.report();
  if (!found) throw new Error('an agent runs');
  return found;
};

test('cuts go on while no answer comes; with the last one leaf files and change logs follow', async () => {
  const { site, answers } = await started();
  await sendPoints(site, answers, 5);
  await site.until(() => answers.came === 5, 'the target has all');
  expect([replica(site).knownPoint, report(site).lastPoint?.point, site.acknowledged.size]).toEqual([1, 1, 1]);
  const { open, cycle } = report(site).flow;
  expect(open?.cutMs).toBe(answers.cuts[0]);
  expect([open?.durableMs, open?.committedMs]).toEqual([null, null]);
  expect(cycle?.cutMs).toBe(report(site).lastPoint?.cutTimeMs);
  expect(report(site).disks[0]?.lagBytes).toBeGreaterThan(0);
  answers.tell(4);
  await site.until(() => site.acknowledged.size === 5, 'four answers');
  expect([replica(site).knownPoint, report(site).lastPoint?.point, answers.waiting]).toEqual([1, 5, 1]);
  answers.tell();
  await settled(site);
  expect([replica(site).knownPoint, report(site).counters.pointsCommitted]).toEqual([6, 6]);
  const { cutMs = NaN, sentMs, durableMs, committedMs } = report(site).flow.cycle ?? {};
  const stages = [cutMs, sentMs ?? NaN, durableMs ?? NaN, committedMs ?? NaN];
  expect(stages).toEqual([...stages].sort((a, b) => a - b));
  // All is forgotten, so the next start has nothing to read.
  await site.endAgent('close');
  await site.startAgent();
  answers.intime();
  await site.point();
  expect(report(site).counters.blocksHashed).toBe(0);
  expect(await over(site)).toBe(7);
});

test('an answer in time leaves all as it was: the cycle begins when its point is answered and forgotten', async () => {
  const { site, answers } = await started({ intervalMs: 400 });
  answers.late = false;
  const most = { waiting: 0 };
  const pass = answers.agentTap;
  site.agentHop.tap = (frame, way, send) => {
    if (frame[0] === frameType.cycle) most.waiting = Math.max(most.waiting, answers.waiting);
    return pass(frame, way, send);
  };
  for (let what = 0; what < 20; what += 1) {
    await site.write(0, what * blockSize, Buffer.alloc(5000, `${what}`));
    await systemClock.sleep(20);
  }
  await site.point();
  site.intervalMs = 3_600_000;
  expect(most.waiting).toBe(0);
  await over(site);
});

test('one answer for several points: those before were merged into it, and are no gap of ours', async () => {
  const { site, answers } = await started();
  await sendPoints(site, answers, 3);
  await site.until(() => answers.came === 3, 'the target has all');
  const [, second] = answers.cuts;
  answers.tellMerged(2);
  await site.until(() => answers.waiting === 1, 'two are answered');
  expect([report(site).lastPoint?.cutTimeMs, report(site).counters.pointsCommitted]).toEqual([second, 2]);
  answers.intime();
  await settled(site);
  expect(replica(site).knownPoint).toBe(4);
  expect([...report(site).gaps.values()].reduce((sum, points) => sum + points, 0)).toBe(0);
  await site.point();
  await over(site);
});

test('a point that is rejected voids those behind it: the next session compares', async () => {
  const { site, answers } = await started();
  let sent = 0;
  const pass = answers.agentTap;
  site.agentHop.tap = (frame, way, send) => {
    if (way === 'back' || frame[0] !== frameType.point || (sent += 1) > 1) return pass(frame, way, send);
    const message = decodePointMessage(decodeFrame(frame).body);
    const disks = message.disks.map((disk) => ({ ...disk, root: '00'.repeat(32) }));
    return Buffer.from(encodePointMessage({ ...message, disks }));
  };
  await sendPoints(site, answers, 3);
  expect(answers.waiting).toBe(3);
  answers.intime();
  await site.until(() => report(site).counters.pointsRejected === 1, 'the rejection');
  await site.point();
  await settled(site);
  expect(site.said.some((line) => line.includes('point rejected (root-mismatch, disk vd0)'))).toBe(true);
  expect(site.said.some((line) => line.includes('the disk is read and hashed'))).toBe(true);
  expect(report(site).counters.sessions).toBe(2);
  site.alarms.length = 0;
  expect(await over(site, { compared: true })).toBe(2);
});

describe.each([0, 2, 5])('with five in flight of which the target has %i', (has) => {
  async function inFlight(): Promise<{ site: Site; answers: LateAnswers }> {
    const made = await started();
    made.answers.passPoints(has);
    await sendPoints(made.site, made.answers, 5);
    await made.site.until(() => made.answers.came === has, 'the target has what it gets');
    return made;
  }

  test('a session that is lost costs hashing alone', async () => {
    const { site, answers } = await inFlight();
    const { blocksSurveyed } = report(site).counters;
    site.agentHop.cutAfter(0);
    await site.until(
      () => report(site).counters.sessions === 2 && report(site).flow.retry === null,
      'the next session',
    );
    answers.intime();
    await site.point();
    await settled(site);
    expect(report(site).counters.blocksSurveyed).toBe(blocksSurveyed);
    expect(report(site).disks.map(({ resync }) => resync)).toEqual([null, null]);
    const points = await over(site);
    expect(points).toBeGreaterThan(1 + has);
    expect(points).toBeLessThanOrEqual(1 + has + 2);
  });

  test('an agent that is killed finds a target that is further, and compares nothing', async () => {
    const { site, answers } = await inFlight();
    await site.endAgent('crash');
    answers.late = false;
    await site.startAgent();
    await site.point();
    await settled(site);
    // What was written, and what shares a hot region with it; not the disks.
    expect(report(site).counters.blocksSurveyed).toBe(0);
    expect(await over(site)).toBeGreaterThan(1 + has);
  });
});

test('answers that are always late are waited for now and then, so that logs and leaf files follow', async () => {
  const { site, answers } = await started();
  const late = { cycles: 0 };
  const tap = answers.agentTap;
  site.agentHop.tap = (frame, way, pass) => {
    if (frame[0] === frameType.cycle && answers.waiting > 0) late.cycles += 1;
    return tap(frame, way, pass);
  };
  answers.delayMs = 90;
  site.intervalMs = 60;
  site.agent?.agent.requestCycle();
  const known = new Set<number | null>();
  for (let what = 0; site.acknowledged.size < 4 * limits.agent.pointsPerWait; what += 1) {
    await site.write(0, (what % 200) * blockSize, Buffer.alloc(3000, `${what}`));
    known.add(replica(site).knownPoint);
    await systemClock.sleep(5);
  }
  expect(late.cycles).toBeGreaterThan(limits.agent.pointsPerWait);
  expect(known.size).toBeGreaterThanOrEqual(3);
  site.intervalMs = 3_600_000;
  answers.delayMs = null;
  answers.intime();
  await site.point();
  await over(site);
});

test('no more wait than the process server takes', async () => {
  const { site, answers } = await started();
  // As one that can not have several: it says nothing of them.
  site.agentHop.tap = (frame, way, pass) =>
    frame[0] === frameType.welcome ? undefined : answers.agentTap(frame, way, pass);
  site.agentHop.cutAfter(0);
  await site.until(() => report(site).counters.sessions === 2, 'the next session');
  await site.until(() => answers.came === 1, 'its first point is at the target');
  site.agent?.agent.requestCycle();
  await systemClock.sleep(50);
  expect([answers.waiting, report(site).state]).toEqual([1, 'cycling']);
  answers.intime();
  await site.point();
  await over(site);
});

test('a comparison that is asked for while points wait begins when they are answered', async () => {
  const { site, answers } = await started();
  await sendPoints(site, answers, 2);
  site.agent?.agent.requestResync({ now: true });
  await systemClock.sleep(50);
  expect([report(site).counters.sessions, site.resyncOf()?.reason]).toEqual([1, 'requested']);
  answers.intime();
  await site.until(() => site.resyncOf() === null && report(site).counters.sessions === 2, 'it is done');
  await site.point();
  expect(site.acknowledged.size).toBeGreaterThanOrEqual(5);
  expect(await over(site, { compared: true })).toBeGreaterThanOrEqual(5);
});

test('blocks that are asked for while points wait are sent whole with the next', async () => {
  const { site, answers } = await started();
  await sendPoints(site, answers, 2);
  answers.say(encodeRepair(0, [7]));
  await site.until(() => replica(site).repair.has(7), 'the request came');
  await sendPoint(site, answers, 3);
  await site.until(() => answers.came === 3, 'the target has all');
  answers.intime();
  await settled(site);
  expect(replica(site).repair.size).toBe(0);
  expect(await over(site, { repaired: new Set(['0/7']) })).toBe(4);
});

test('a pause while points wait: their answers count, nothing new is made', async () => {
  const { site, answers } = await started();
  await sendPoints(site, answers, 3);
  site.held = 'replication is paused';
  site.agent?.agent.requestCycle();
  await site.until(() => report(site).state === 'paused', 'it is paused');
  await site.until(() => answers.came === 3, 'the target has all');
  answers.intime();
  await settled(site);
  expect([report(site).state, replica(site).knownPoint, site.acknowledged.size]).toEqual(['paused', 4, 4]);
  site.held = null;
  await site.point();
  await over(site);
});

test('a cut that is given up while points wait takes nothing from them', async () => {
  const { site, answers } = await started();
  await sendPoints(site, answers, 2);
  const { image } = site.disk(0);
  const slow = Promise.withResolvers<undefined>();
  const { agent } = site;
  if (!agent) throw new Error('an agent runs');
  agent.files.trouble = (operation, path) => (operation === 'write' && path === image ? slow.promise : undefined);
  // More than a round, so that some of it is sent before the cut that does not come.
  const write = site.write(0, 0, Buffer.alloc(140 * blockSize, 'slow'));
  agent.agent.requestCycle();
  await site.until(() => report(site).gaps.get('drain') === 1, 'the cut is given up');
  expect(answers.waiting).toBe(2);
  await site.until(() => answers.came === 2, 'the target has both');
  answers.intime();
  await site.until(() => site.acknowledged.size === 3, 'both are answered');
  slow.resolve(undefined);
  await write;
  await site.point();
  await settled(site);
  expect(await over(site)).toBe(4);
});

test('a cut that is void while points wait: all goes back to what is to be read, and is found there', async () => {
  const site = new Site({ blockSize, sizes: [1_000_448, 300_032] });
  sites.push(site);
  site.oldPagesBytesMax = 2 * blockSize;
  site.agentHop.bufferBytes = 2 * blockSize;
  const answers = new LateAnswers(site);
  answers.late = false;
  await site.startTarget();
  site.newProcessServer();
  await site.startAgent();
  await site.point();
  await settled(site);
  answers.late = true;
  await sendPoints(site, answers, 2);
  const waiting = site.agent?.replicas[0]?.capture.uncommittedBytes ?? 0;
  expect(waiting).toBeGreaterThan(0);
  const content = (name: string): Buffer => Buffer.from(`${name};`.repeat(blockSize).slice(0, blockSize));
  // Less than a round before the cut.
  for (let block = 0; block < 100; block += 1) await site.write(0, block * blockSize, content(`a${block}`));
  const cuts = site.cuts.size;
  const release = site.agentHop.holdForward();
  site.agent?.agent.requestCycle();
  await site.until(() => site.cuts.size === cuts + 1, 'the cut is made');
  for (let block = 99; block >= 70; block -= 1) await site.write(0, block * blockSize, content(`b${block}`));
  release();
  await site.until(() => report(site).counters.cutsGivenUp === 1, 'the cut is given up');
  expect(replica(site).capture.currentBytes).toBeGreaterThanOrEqual(waiting);
  await site.until(() => answers.came === 2, 'the target has both');
  answers.intime();
  await site.until(() => site.acknowledged.size === 3, 'both are answered');
  // What the target has of the void cut belongs to no point, so the leaf file does not take it over.
  await systemClock.sleep(20);
  expect(replica(site).layers).not.toBeNull();
  await site.endAgent('close');
  await site.startAgent();
  await site.point();
  await settled(site);
  expect(await over(site)).toBe(4);
});

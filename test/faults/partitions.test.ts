/**
 * The network between the roles fails under a writer that never stops: everything lost, or only one direction (half-open: one side goes on
 * sending into nothing), for less than the idle deadline and for more. And a link not half as fast as what is written.
 *
 * TIDEMARK_TEST_SEED plays a run again, TIDEMARK_TEST_SOAK=1 tries every loss for up to a minute.
 */
import { describe, expect, it, type TestContext } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import { commandOk } from '../../scripts/demo/process.ts';
import type { GapReport, PointReport } from '../../src/cli/roles.ts';
import { command } from '../product/command.ts';
import { diceOf, KiB, MiB, seedOfRun, writeImage } from '../product/content.ts';
import { identityOf, Scene, writesOf } from '../product/scene.ts';
import { Link, requireLinks, type Loss } from './link.ts';
import { mayHaveSent, pageBytes, touched } from './resent.ts';

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';

interface Outage {
  readonly loss: Loss;
  readonly seconds: number;
}

const losses = ['both', 'outgoing', 'incoming'] as const;
/** Above the idle deadline. */
const longSeconds = limits.wire.idleMs / 1000 + 5;
const brief: readonly Outage[] = [
  { loss: 'both', seconds: 1 },
  { loss: 'incoming', seconds: 3 },
];
const outagesOf = (long: Loss): readonly Outage[] =>
  soak
    ? losses.flatMap((loss) => [1, 3, 10, longSeconds, 60].map((seconds) => ({ loss, seconds })))
    : [...brief, { loss: long, seconds: longSeconds }];

/** A connect under way when the link comes back may take its whole deadline, and the pause after it the longest. */
const recoveryMs = limits.wire.connectMs + limits.agent.reconnectMaxMs + 10_000;
const slackBytes = 256 * KiB;

const sent = 'tidemark_agent_payload_sent_bytes_total';
const inFlight = 'tidemark_agent_in_flight_bytes';

/** Tests that run side by side each have their own. */
type Finished = TestContext['onTestFinished'];
type Inside = readonly ('process-server' | 'target')[];

async function openScene(seed: number, link: Link, inside: Inside, onTestFinished: Finished): Promise<Scene> {
  const from = 12 * MiB;
  const scene = await Scene.open({
    image: (path) => writeImage(path, from + 4 * MiB, from, seed),
    writer: { from, pauseMs: 8, lanes: 2, sectorsMax: 16 },
    site: { places: Object.fromEntries(inside.map((role) => [role, link.place])) },
  });
  onTestFinished(() => scene.close());
  await scene.site.startTarget();
  await scene.site.startProcessServer();
  await scene.startLife();
  await scene.untilPoints('the first point', (points) => points.length > 0);
  return scene;
}

/** One outage; returns the bytes that were under way and had to be sent again. */
async function endure(scene: Scene, link: Link, { loss, seconds }: Outage): Promise<number> {
  const agent = async (series: string): Promise<number> => (await scene.site.metric('agent', series)) ?? 0;
  const before = await scene.points();
  const last = before.at(-1);
  if (!last) throw new Error('there was no point before the outage');
  // Something is on its way when the link goes.
  scene.pointNow();
  await link.cut(loss);
  const cutAtMs = Date.now();
  const sentBefore = await agent(sent);
  let notDurable = 0;
  while (Date.now() < cutAtMs + seconds * 1000) {
    notDurable = Math.max(notDurable, await agent(inFlight));
    await systemClock.sleep(200);
  }
  await link.heal();
  const healedAtMs = Date.now();
  const what = `a point after ${seconds} s without packets (${loss})`;
  const points = await scene.untilPoints(what, (all) => all.some((one) => one.cutTimeMs > healedAtMs), recoveryMs);
  const sentSince = (await agent(sent)) - sentBefore;
  expect(points.slice(0, before.length).map(identityOf)).toEqual(before.map(identityOf));
  const first = points.find(({ cutTimeMs }) => cutTimeMs > cutAtMs);
  if (!first) throw new Error('there is no point after the outage');
  const maySend = mayHaveSent(scene, last, await scene.points(), first);
  expect(sentSince, what).toBeLessThanOrEqual(maySend + notDurable + slackBytes);
  return notDurable;
}

async function endureAll(
  name: string,
  inside: Inside,
  outages: readonly Outage[],
  onTestFinished: Finished,
): Promise<void> {
  const seed = seedOfRun(name);
  const link = await Link.open();
  onTestFinished(() => link.close());
  const scene = await openScene(seed, link, inside, onTestFinished);
  const dice = diceOf(seed);
  let lostBytes = 0;
  for (const outage of outages) {
    await systemClock.sleep(dice.between(0, 500));
    lostBytes += await endure(scene, link, outage);
  }
  // The writer felt nothing of it.
  expect(scene.life().writer.longestGapMs).toBeLessThan(2000);
  await scene.settle();
  await scene.endLife();
  const points = await scene.points();
  expect(points.slice(1).every(({ disks }) => disks[0]?.kind === 'delta')).toBe(true);
  expect(await scene.faults(points)).toEqual([]);
  expect(await scene.verified()).toBe(points.length);
  process.stderr.write(
    `${name}: ${outages.length} outages, ${points.length} points whole, ${lostBytes} bytes under way\n`,
  );
}

const timeoutOf = (outages: readonly Outage[]): number =>
  60_000 + outages.reduce((sum, { seconds }) => sum + seconds * 1000 + recoveryMs, 0);

/** Of the slow link, and how often points are due; what a busy machine may add to the time of one. */
const megabits = 10;
const bytesPerSecond = (megabits * 1e6) / 8;
const intervalMs = 1000;
const slackMs = 2000;

const slowFilledBytes = 6 * MiB;
const slowAreaBytes = 2 * MiB;
/** So large, nearly all of it zeros, that what is marked at first is no last round yet. */
const slowDiskBytes = limits.agent.lastRoundBytes + slowFilledBytes;

async function gapsOf(scene: Scene): Promise<readonly GapReport[]> {
  const listed = await commandOk(command, ['points', '--data', scene.site.targetData, '--json']);
  return (JSON.parse(listed) as { gaps: GapReport[] }).gaps;
}

/** Every point that was due is one that was made, or in a gap behind the point before it, which says why. All but the newest are accounted for. */
function expectAllAccounted(points: readonly PointReport[], gaps: readonly GapReport[]): void {
  const due: [number, number][] = [];
  for (const [at, { point, cutTimeMs }] of points.slice(0, -2).entries()) {
    const intervals = Math.floor(((points[at + 1]?.cutTimeMs ?? 0) - cutTimeMs) / intervalMs);
    if (intervals > 1) due.push([point, intervals - 1]);
  }
  const told = gaps.map(({ afterPoint, points: missed }) => [afterPoint, missed]);
  expect(told.slice(0, due.length)).toEqual(due);
  const why = expect.stringMatching(/^sending one point took \d+ s$/) as string;
  for (const gap of gaps) expect(gap).toMatchObject({ reason: 'other', detail: why });
}

/** As it was when the last of `points` had been seen. */
function expectProgress(scene: Scene, points: readonly PointReport[]): void {
  const { log } = scene.life().writer;
  const [first, ...others] = points;
  const payloadOf = (point: PointReport): number => point.disks[0]?.payloadBytes ?? 0;
  if (!first) throw new Error('there is no point');
  // One round of everything, then what was rewritten meanwhile, again and again, once.
  const before = log.slice(0, writesOf(first)).reduce((sum, { length }) => sum + length, 0);
  expect(before).toBeGreaterThan(4 * slowAreaBytes);
  expect(payloadOf(first)).toBeLessThanOrEqual(slowFilledBytes + 2 * slowAreaBytes);
  let [last, lastRoundBytes] = [first, slowAreaBytes];
  for (const point of others) {
    const changed = touched(log.slice(writesOf(last), writesOf(point)), pageBytes);
    expect(payloadOf(point), `point ${point.point}`).toBeLessThanOrEqual(changed);
    // As soon as the one before has passed the link and the interval is over.
    const atMost = (lastRoundBytes / bytesPerSecond) * 1000 + intervalMs + slackMs;
    expect(point.cutTimeMs - last.cutTimeMs, `point ${point.point}`).toBeLessThan(atMost);
    [last, lastRoundBytes] = [point, payloadOf(point)];
  }
}

async function endureSlowness(onTestFinished: Finished): Promise<void> {
  const seed = seedOfRun('slow link');
  const link = await Link.open();
  onTestFinished(() => link.close());
  const scene = await Scene.open({
    image: (path) => writeImage(path, slowDiskBytes, slowFilledBytes, seed),
    // Three lanes of 32 KiB on average each 23 ms: 33 Mbit/s, less what a busy machine takes.
    writer: { from: slowDiskBytes - slowAreaBytes, pauseMs: 22, lanes: 3, sectorsMax: 128 },
    site: { compression: 'off', places: { 'process-server': link.place, target: link.place } },
  });
  onTestFinished(() => scene.close());
  await scene.site.startTarget();
  await scene.site.startProcessServer();
  await link.slowDown(megabits);
  const began = performance.now();
  const carriedBefore = await link.bytesIn();
  await scene.startLife();
  const points = await scene.untilPoints('five points over the slow link', (all) => all.length >= 5, 60_000);
  const written = scene.life().writer.log.reduce((sum, { length }) => sum + length, 0);
  const durable = points.reduce((sum, { disks }) => sum + (disks[0]?.payloadBytes ?? 0), 0);
  const payloadSent = (await scene.site.metric('agent', sent)) ?? 0;
  const carried = (await link.bytesIn()) - carriedBefore;
  const seconds = (performance.now() - began) / 1000;
  expect(written / seconds).toBeGreaterThan(2 * bytesPerSecond);
  // Nothing went past the link, and nothing twice: beside what points hold only what the next one may take.
  expect(carried).toBeLessThanOrEqual(bytesPerSecond * seconds + 64 * KiB);
  expect(durable).toBeLessThanOrEqual(carried);
  expect(payloadSent).toBeLessThanOrEqual(durable + slowAreaBytes);
  expectProgress(scene, points);
  expect(scene.life().writer.longestGapMs).toBeLessThan(2000);
  await scene.settle();
  await scene.endLife();
  const all = await scene.points();
  expectAllAccounted(all, await gapsOf(scene));
  expect(await scene.faults(all)).toEqual([]);
  expect(await scene.verified()).toBe(all.length);
  process.stderr.write(
    `slow link: ${points.length} points in ${seconds.toFixed(1)} s, ${written} bytes written, ${carried} carried\n`,
  );
}

describe.skipIf(!requireLinks()).concurrent('packets lost', () => {
  const far = outagesOf('outgoing');
  it('between the agent and everybody else', { timeout: timeoutOf(far) }, ({ onTestFinished }) =>
    endureAll('agent | process server, target', ['process-server', 'target'], far, onTestFinished),
  );
  const near = outagesOf('incoming');
  it('between the process server and the target', { timeout: timeoutOf(near) }, ({ onTestFinished }) =>
    endureAll('agent, process server | target', ['target'], near, onTestFinished),
  );

  it(
    'a link not half as fast as the writes: rounds converge, points come as often as they can, gaps say why',
    { timeout: 120_000 },
    ({ onTestFinished }) => endureSlowness(onTestFinished),
  );
});

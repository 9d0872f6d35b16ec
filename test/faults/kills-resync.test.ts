/**
 * SIGKILL in the middle of a resync: the change log is gone, most of the disk differs, and agent, process server and target die, two at once too, each
 * time when another share of what differs has been sent. They come back one after the other, in any order. The points there were stay,
 * what was durable is not sent again, and at the end every point is whole.
 *
 * TIDEMARK_TEST_SEED plays a run again, TIDEMARK_TEST_SOAK=1 makes ten times the rounds, on as many disks.
 */
import { rm } from 'node:fs/promises';
import * as path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { diceOf, MiB, seedOfRun, writeImage, type Dice } from '../product/content.ts';
import { disk, identityOf, Scene } from '../product/scene.ts';
import { kill, partiesOf, shuffled, start, type Victim } from './victims.ts';

const resyncs = process.env['TIDEMARK_TEST_SOAK'] === '1' ? 10 : 1;
const killsPerResync = 6;
/** On a busy machine a kill can come so late that the resync is over: then it was the last. */
const killsInsideMin = 3;

const filledBytes = 56 * MiB;
/** What the writer goes on writing to. */
const areaBytes = MiB / 2;
/** A resync takes its time, so that kills fall into it. */
const ceiling = { cpuPercent: 15 };
/** Sent between the last look at the counters and the kill. */
const slackBytes = 1 * MiB;

const sent = 'tidemark_agent_payload_sent_bytes_total';
const inFlight = 'tidemark_agent_in_flight_bytes';

interface Tally {
  readonly kills: Record<Victim, number>;
  /** By agents that were killed. */
  sentBytes: number;
  notDurableBytes: number;
}

async function counted(scene: Scene, series: string): Promise<number> {
  return (await scene.site.metric('agent', series)) ?? 0;
}

/** When all agents together have sent `wanted` bytes of the resync; how much is on its way then. */
async function untilSent(scene: Scene, wanted: number, tally: Tally): Promise<{ bytes: number; flying: number }> {
  return scene.until(`${wanted} bytes of the resync`, async () => {
    const bytes = await counted(scene, sent);
    const flying = await counted(scene, inFlight);
    return tally.sentBytes + bytes >= wanted ? { bytes, flying } : undefined;
  });
}

async function ordeal(scene: Scene, dice: Dice, tally: Tally): Promise<void> {
  const before = (await scene.points()).map(identityOf);
  const order = partiesOf(dice);
  for (let round = 0; round < killsPerResync; round += 1) {
    const wanted = Math.floor((filledBytes * (round + dice.between(0, 80) / 100)) / (killsPerResync + 2));
    const party = order.next().value;
    const { bytes, flying } = await untilSent(scene, wanted, tally);
    await kill(scene, party);
    for (const victim of party) tally.kills[victim] += 1;
    tally.notDurableBytes += flying;
    if (party.includes('agent')) {
      tally.sentBytes += bytes;
      expect(await scene.imageFault()).toBeNull();
    }
    // Every point there was is there; one more only when the resync was over before the kill.
    const points = (await scene.points()).map(identityOf);
    expect(points.slice(0, before.length), `after the death of ${party.join(' and ')}`).toEqual(before);
    const over = points.length > before.length;
    if (over) expect(round).toBeGreaterThanOrEqual(killsInsideMin);
    for (const victim of shuffled(party, dice)) {
      await systemClock.sleep(dice.between(0, 100));
      await start(scene, victim, ceiling);
    }
    if (over) return;
  }
}

/** The change log is lost, and most of the disk is another meanwhile. */
async function loseTrack(scene: Scene, seed: number): Promise<void> {
  await scene.endLife();
  await rm(path.join(scene.file('agent'), `${disk}.hrl`));
  await writeImage(scene.image, filledBytes + areaBytes, filledBytes, seed);
  await scene.startLife(ceiling);
}

async function oneResync(seed: number): Promise<void> {
  const dice = diceOf(seed);
  const tally: Tally = { kills: { agent: 0, 'process-server': 0, target: 0 }, sentBytes: 0, notDurableBytes: 0 };
  const scene = await Scene.open({
    image: (file) => writeImage(file, filledBytes + areaBytes, filledBytes, seed),
    writer: { from: filledBytes, pauseMs: 8, sectorsMax: 16 },
  });
  onTestFinished(() => scene.close());
  for (const role of ['target', 'process-server', 'agent'] as const) await start(scene, role);
  await scene.untilPoints('two points', (points) => points.length >= 2);
  await loseTrack(scene, seed + 1);
  const before = await scene.points();
  await ordeal(scene, dice, tally);
  await scene.untilPoints('the point of the resync', (points) => points.length > before.length, 60_000);
  tally.sentBytes += await counted(scene, sent);
  // What differs; what the writer changed since, again for each session that may have sent it.
  const due = filledBytes + areaBytes * (killsPerResync + 2);
  expect(tally.sentBytes).toBeLessThanOrEqual(due + tally.notDurableBytes + killsPerResync * slackBytes);
  await scene.settle();
  await scene.endLife();
  const points = await scene.points();
  const kinds = points.slice(before.length).map(({ disks }) => disks[0]?.kind);
  expect(kinds).toEqual(kinds.map((_, at) => (at === 0 ? 'resync' : 'delta')));
  expect(points.slice(0, before.length).map(identityOf)).toEqual(before.map(identityOf));
  expect(await scene.faults(points)).toEqual([]);
  expect(await scene.verified()).toBe(points.length);
  const { agent, 'process-server': server, target } = tally.kills;
  process.stderr.write(
    `kills in a resync: agent ${agent}, process server ${server}, target ${target}; ${filledBytes} bytes differed, ` +
      `${tally.notDurableBytes} were not durable, ${tally.sentBytes} were sent; ${points.length} points whole\n`,
  );
}

describe('SIGKILL in a resync', () => {
  it(
    'of one role or two at once costs no point and no second copy',
    { timeout: 60_000 + resyncs * 120_000 },
    async () => {
      const seed = seedOfRun('kills in a resync');
      for (let resync = 0; resync < resyncs; resync += 1) await oneResync(seed + 2 * resync);
    },
  );
});

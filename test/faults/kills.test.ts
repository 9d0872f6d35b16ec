/**
 * SIGKILL of one role or two at once, at random instants, under a writer that never stops (only the agent's own death silences it, because
 * it is the disk). After each round: no acknowledged point is gone and what was durable is not sent a second time. At the end every
 * point is whole, and the newest is the image.
 *
 * TIDEMARK_TEST_SEED plays a run again; TIDEMARK_TEST_SOAK=1 makes 500 rounds.
 */
import { describe, expect, it, onTestFinished } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { diceOf, KiB, MiB, seedOfRun, writeImage, type Dice } from '../product/content.ts';
import { identityOf, Scene } from '../product/scene.ts';
import { mayHaveSent } from './resent.ts';
import { kill, partiesOf, start, type Victim } from './victims.ts';

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const rounds = soak ? 500 : 50;
const diskBytes = 16 * MiB;
const writableFrom = 12 * MiB;
/** Records that straddle what the counters saw at the instant of the kill. */
const slackBytes = 256 * KiB;

const sent = 'tidemark_agent_payload_sent_bytes_total';
const resent = 'tidemark_agent_payload_resent_bytes_total';

interface Tally {
  readonly kills: Record<Victim, number>;
  resentBytes: number;
}

/** In the middle of a cycle, or some time before one. */
async function pickInstant(scene: Scene, dice: Dice): Promise<void> {
  if (dice.between(0, 3) === 0) return systemClock.sleep(dice.between(0, 300));
  scene.pointNow();
  return systemClock.sleep(dice.between(0, 60));
}

async function round(scene: Scene, party: readonly Victim[], dice: Dice, tally: Tally): Promise<void> {
  const before = await scene.points();
  const acknowledged = (await scene.site.metric('agent', 'tidemark_agent_points_committed_total')) ?? 0;
  await pickInstant(scene, dice);
  await kill(scene, party);
  for (const victim of party) tally.kills[victim] += 1;
  await systemClock.sleep(dice.between(20, 80));
  const agentDied = party.includes('agent');
  // By now a living agent knows: whatever it sends from here on, it sends to the next session.
  const sentBefore = agentDied ? 0 : ((await scene.site.metric('agent', sent)) ?? 0);
  const resentBefore = agentDied ? 0 : ((await scene.site.metric('agent', resent)) ?? 0);
  const after = await scene.points();
  expect(after.slice(0, before.length).map(identityOf)).toEqual(before.map(identityOf));
  const life = scene.life();
  expect(after.filter((point) => scene.lifeOf(point) === life).length).toBeGreaterThanOrEqual(acknowledged);
  if (agentDied) expect(await scene.imageFault()).toBeNull();
  const restartedAtMs = Date.now();
  // In the order an operator would not choose: all at once.
  await Promise.all(party.map((victim) => start(scene, victim)));
  const points = await scene.untilPoints(`a point after the death of ${party.join(' and ')}`, (listed) =>
    listed.some(({ cutTimeMs }) => cutTimeMs > restartedAtMs),
  );
  const sentSince = ((await scene.site.metric('agent', sent)) ?? 0) - sentBefore;
  tally.resentBytes += ((await scene.site.metric('agent', resent)) ?? 0) - resentBefore;
  expect(points.slice(0, after.length).map(identityOf)).toEqual(after.map(identityOf));
  const last = before.at(-1);
  const first = points[after.length];
  if (!last || !first) throw new Error('there is no point before the kill, or none after');
  const maySend = mayHaveSent(scene, last, await scene.points(), first) + slackBytes;
  expect(sentSince, `sent after the death of ${party.join(' and ')}`).toBeLessThanOrEqual(maySend);
  expect(sentSince).toBeLessThan(writableFrom / 2);
}

describe('SIGKILL', () => {
  it(
    `of one role or two at once, ${rounds} times, costs no point and no second copy`,
    { timeout: 60_000 + rounds * 10_000 },
    async () => {
      const seed = seedOfRun('kills');
      const dice = diceOf(seed);
      const tally: Tally = { kills: { agent: 0, 'process-server': 0, target: 0 }, resentBytes: 0 };
      const scene = await Scene.open({
        image: (path) => writeImage(path, diskBytes, writableFrom, seed),
        writer: { from: writableFrom, pauseMs: 8, lanes: 2, sectorsMax: 16 },
      });
      onTestFinished(() => scene.close());
      await scene.site.startTarget();
      await scene.site.startProcessServer();
      await scene.startLife();
      await scene.untilPoints('the first point', (points) => points.length > 0);
      const order = partiesOf(dice);
      for (let number = 0; number < rounds; number += 1) await round(scene, order.next().value, dice, tally);
      await scene.settle();
      await scene.endLife();
      const points = await scene.points();
      expect(points.map(({ disks }) => disks[0]?.kind)).toEqual(
        points.map((_, at) => (at === 0 ? 'initial' : 'delta')),
      );
      expect(await scene.faults(points)).toEqual([]);
      expect(await scene.verified()).toBe(points.length);
      const { agent, 'process-server': server, target } = tally.kills;
      process.stderr.write(
        `kills: ${rounds} rounds, agent ${agent}, process server ${server}, target ${target}; ` +
          `${points.length} points whole; ${tally.resentBytes} bytes sent again\n`,
      );
    },
  );
});

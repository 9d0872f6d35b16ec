/**
 * SIGKILL of every role at random instants under a writer that never stops (only the agent's own death silences it, because it is the
 * disk). After each kill: no acknowledged point is gone, every point is whole, and what was durable is not sent a second time.
 *
 * TIDEMARK_TEST_SEED plays a run again, TIDEMARK_TEST_SOAK=1 makes thirty rounds of it.
 */
import { describe, expect, it, onTestFinished } from 'vitest';
import type { LoggedWrite } from '../../scripts/demo/writer.ts';
import type { PointReport } from '../../src/cli/roles.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { diceOf, KiB, MiB, seedOfRun, writeImage, type Dice } from './content.ts';
import { identityOf, Scene, writesOf } from './scene.ts';

const rounds = process.env['TIDEMARK_TEST_SOAK'] === '1' ? 30 : 6;
const victims = ['agent', 'process-server', 'target'] as const;
type Victim = (typeof victims)[number];

const pageBytes = 4 * KiB;
const blockBytes = 64 * KiB;
const diskBytes = 24 * MiB;
const writableFrom = 20 * MiB;
/** Records that straddle what the counters saw at the instant of the kill. */
const slackBytes = 256 * KiB;

const sent = 'tidemark_agent_payload_sent_bytes_total';

/** Bytes of all units of `unit` bytes that the writes touch, each counted once. */
function touched(writes: readonly LoggedWrite[], unit: number): number {
  const units = new Set<number>();
  for (const { offset, length } of writes)
    for (let at = Math.floor(offset / unit); at * unit < offset + length; at += 1) units.add(at);
  return units.size * unit;
}

/** Everyone once per three rounds, in random order. */
function victimsOf(dice: Dice): Victim[] {
  const list: Victim[] = [];
  while (list.length < rounds) {
    const three: Victim[] = [...victims];
    while (three.length > 0) {
      const victim = dice.pick(three);
      three.splice(three.indexOf(victim), 1);
      list.push(victim);
    }
  }
  return list.slice(0, rounds);
}

async function restart(scene: Scene, victim: Victim): Promise<void> {
  if (victim === 'target') await scene.site.startTarget();
  else if (victim === 'process-server') await scene.site.startProcessServer();
  else await scene.startLife();
}

/** Bytes changed since `last`, per cycle that was committed since, and since the newest of them. */
function changedSince(scene: Scene, last: PointReport, since: readonly PointReport[]): number {
  const log = scene.life().writer.log;
  let from = writesOf(last);
  let bytes = 0;
  for (const point of since) {
    bytes += touched(log.slice(from, writesOf(point)), pageBytes);
    from = writesOf(point);
  }
  return bytes + touched(log.slice(from), pageBytes);
}

/** What may have been sent since `last`, when the agent was killed: whole blocks of what the dead one had not seen committed. */
function changedAcrossLives(scene: Scene, last: PointReport, since: readonly PointReport[]): number {
  const before = scene.lifeOf(last).writer.log.slice(writesOf(last));
  const now = scene.life().writer.log;
  const [first, ...others] = since.filter((point) => scene.lifeOf(point) === scene.life());
  if (!first) return touched([...before, ...now], blockBytes);
  return touched([...before, ...now.slice(0, writesOf(first))], blockBytes) + changedSince(scene, first, others);
}

async function lives(scene: Scene, victim: Victim, dice: Dice): Promise<void> {
  await systemClock.sleep(dice.between(0, 1500));
  const before = await scene.points();
  const acknowledged = (await scene.site.metric('agent', 'tidemark_agent_points_committed_total')) ?? 0;
  if (victim === 'agent') await scene.killLife();
  else await scene.site.kill(victim);
  const killedAtMs = Date.now();
  await systemClock.sleep(dice.between(100, 400));
  // By now the agent knows: whatever it sends from here on, it sends to the next session.
  const sentBefore = victim === 'agent' ? 0 : ((await scene.site.metric('agent', sent)) ?? 0);
  const after = await scene.points();
  expect(after.slice(0, before.length).map(identityOf)).toEqual(before.map(identityOf));
  const life = scene.life();
  expect(after.filter((point) => scene.lifeOf(point) === life).length).toBeGreaterThanOrEqual(acknowledged);
  if (victim === 'agent') expect(await scene.imageFault()).toBeNull();
  await restart(scene, victim);
  await scene.untilPoints(`a point after the ${victim}'s death`, (points) =>
    points.some(({ cutTimeMs }) => cutTimeMs > killedAtMs),
  );
  const sentSince = ((await scene.site.metric('agent', sent)) ?? 0) - sentBefore;
  const points = await scene.points();
  expect(points.slice(0, after.length).map(identityOf)).toEqual(after.map(identityOf));
  const last = before.at(-1);
  if (!last) throw new Error('there was no point before the kill');
  const since = points.slice(before.length);
  const changed = victim === 'agent' ? changedAcrossLives(scene, last, since) : changedSince(scene, last, since);
  expect(sentSince).toBeLessThanOrEqual(changed + slackBytes);
  expect(sentSince).toBeLessThan(writableFrom / 2);
}

describe('SIGKILL', () => {
  it(
    `of every role, ${rounds} times, costs no point and no second copy`,
    { timeout: 60_000 + rounds * 15_000 },
    async () => {
      const seed = seedOfRun('kills');
      const dice = diceOf(seed);
      const scene = await Scene.open({
        image: (path) => writeImage(path, diskBytes, writableFrom, seed),
        writer: { from: writableFrom, pauseMs: 8, lanes: 2, sectorsMax: 16 },
      });
      onTestFinished(() => scene.close());
      await scene.site.startTarget();
      await scene.site.startProcessServer();
      await scene.startLife();
      await scene.untilPoints('the first point', (points) => points.length > 0);
      for (const victim of victimsOf(dice)) await lives(scene, victim, dice);
      await scene.endLife();
      const points = await scene.points();
      expect(points.map(({ disks }) => disks[0]?.kind)).toEqual(
        points.map((_, at) => (at === 0 ? 'initial' : 'delta')),
      );
      expect(points.length).toBeGreaterThan(rounds);
      expect(await scene.faults(points)).toEqual([]);
    },
  );

  it('at 90 % of an initial replication sends at most 5 % again', { timeout: 120_000 }, async () => {
    const seed = seedOfRun('initial replication');
    const full = 352 * MiB;
    const scene = await Scene.open({
      image: (path) => writeImage(path, full + MiB, full, seed),
      writer: { from: full, pauseMs: 25, sectorsMax: 16 },
    });
    onTestFinished(() => scene.close());
    const { site } = scene;
    const sentNow = async (): Promise<number> => (await site.metric('agent', sent)) ?? 0;
    const received = async (): Promise<number> =>
      (await site.metric('target', 'tidemark_target_plain_bytes_total')) ?? 0;
    await site.startTarget();
    await site.startProcessServer();
    await scene.startLife();
    await scene.until('88 %', async () => (await received()) >= 0.88 * full || undefined);
    await site.kill('process-server');
    await systemClock.sleep(300);
    // What neither the target nor anybody else has any more.
    const lost = (await sentNow()) - (await received());
    expect(lost).toBeLessThanOrEqual(0.05 * full);
    await site.startProcessServer();
    await scene.until('92 %', async () => (await sentNow()) - lost >= 0.92 * full || undefined);
    const firstLife = await sentNow();
    await scene.killLife();
    expect(await scene.points()).toEqual([]);
    await scene.startLife();
    const points = await scene.untilPoints('the first point', (listed) => listed.length > 0);
    const inAll = firstLife + (await sentNow());
    const changes = scene.lives.reduce((sum, { writer }) => sum + touched(writer.log, blockBytes), 0) * 4;
    expect(inAll).toBeLessThanOrEqual(full + lost + 0.05 * full + changes);
    expect(await scene.faults(points.slice(0, 1))).toEqual([]);
  });
});

/**
 * The power of the source's host, of the target, or of both fails at random sync points of the whole data path, over and over. After that:
 * no acknowledged point is lost, every point reads as the disks were at its cut, and replication goes on to a point that is proven.
 */
import { expect, test, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { readBack } from '../pipeline/read-back.ts';
import { Dice } from '../simulated-bytes.ts';
import { seed, soak } from './crash-points.ts';
import { PowerSite, type Side } from './power-site.ts';

type Files = typeof import('../../src/posix/files.ts');
vi.mock('../../src/posix/files.ts', async (load) => {
  const { routed } = await import('./routes.ts');
  const real = await load<Files>();
  return { ...real, posixFiles: routed(real.posixFiles) };
});
type Limits = Parameters<(typeof import('../pipeline/small-limits.ts'))['smallLimits']>[0];
vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('../pipeline/small-limits.ts');
  return smallLimits(await load<Limits>());
});

const stories = Number(process.env['TIDEMARK_TEST_RUNS'] ?? (soak ? 200 : 16));
/** Of the power failures of a story. */
const patienceMs = 150;

const seen = { source: 0, target: 0, both: 0, none: 0, points: 0, syncPoints: 0 };

function writeSome({ site }: PowerSite, dice: Dice): void {
  for (let count = 1 + dice.below(4); count > 0; count -= 1) {
    const disk = dice.below(2);
    const { size } = site.disk(disk);
    const offset = dice.below(size);
    const length = Math.min(size - offset, 1 + dice.below(dice.below(4) === 0 ? 200_000 : 9000));
    void site.write(disk, offset, dice.below(5) === 0 ? length : Buffer.alloc(length, 1 + dice.below(255)));
  }
}

/** Writes and cycles until the power has failed where it was to fail, or nothing comes to that any more. */
async function untilDark(power: PowerSite, side: Side, also: Side | null, dice: Dice): Promise<void> {
  power.arm(side, 1 + dice.below(side === 'source' ? 20 : 30), also);
  const endMs = systemClock.monotonicMs() + patienceMs;
  while (!power.isBlown(side) && systemClock.monotonicMs() < endMs) {
    writeSome(power, dice);
    power.site.agent?.agent.requestCycle();
    await systemClock.sleep(1 + dice.below(8));
  }
}

async function tell(power: PowerSite, dice: Dice): Promise<void> {
  const { site } = power;
  for (let failures = 1 + dice.below(3); failures > 0; failures -= 1) {
    const [side, other] = dice.below(2) === 0 ? (['source', 'target'] as const) : (['target', 'source'] as const);
    const also = dice.below(3) === 0 ? other : null;
    await untilDark(power, side, also, dice);
    const recovered = (await power.recover(side)) ? side : 'none';
    if (also) await power.recover(also);
    seen[also && recovered !== 'none' ? 'both' : recovered] += 1;
    if (dice.below(2) === 0) await site.point();
  }
  seen.syncPoints += power.syncPoints;
  await site.point();
  await site.proven(await site.point());
  await power.endAgent();
  await site.endTarget('close');
  seen.points += await readBack(site);
  if (site.alarms.length > 0) throw new Error(`a role met a bug: ${site.alarms.join('\n')}`);
}

test(`power failures of source and target at random sync points (seed ${seed})`, async () => {
  for (let story = 0; story < stories; story += 1) {
    const dice = new Dice(seed + story);
    const blockSize = dice.below(2) === 0 ? 4096 : 65_536;
    const sizes = [400, 300].map((sectors) => (sectors + dice.below(1500)) * 512);
    const power = await PowerSite.started({ blockSize, sizes, intervalMs: 5 }, dice);
    try {
      await tell(power, dice);
    } catch (error) {
      const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
      throw new Error(`seed ${seed + story}: ${what}\n${power.site.story()}`, { cause: error });
    } finally {
      await power.remove();
    }
  }
  console.info(`whole path, ${stories} stories: ${JSON.stringify(seen)}`);
  expect(Math.min(seen.source, seen.target, seen.both)).toBeGreaterThan(0);
}, 300_000);

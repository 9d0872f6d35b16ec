/**
 * Random stories of late answers against plain memory: writers, cuts, answers one by one, together or never, sessions and roles that die with points
 * in flight. After each of them every point, read back from the target's directory, is the disks as of its cut, none that was acknowledged is lost,
 * nothing that was durable was sent again, and no disk was compared.
 */
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { LateAnswers } from './late-answers.ts';
import { readBack } from './read-back.ts';
import { Site } from './site.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  const small = smallLimits(await load()) as typeof import('../../src/limits.ts');
  return { ...small, limits: { ...small.limits, agent: { ...small.limits.agent, pointsPerWait: 6 } } };
});

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const seed = Number(process.env['TIDEMARK_TEST_SEED'] ?? (soak ? Date.now() % 2 ** 31 : 20_261_121));
const numRuns = Number(process.env['TIDEMARK_TEST_RUNS'] ?? (soak ? 300 : 20));

type Command =
  | { kind: 'write'; disk: number; where: number; bytes: number; fill: number }
  | { kind: 'send' }
  | { kind: 'tell'; points: number }
  | { kind: 'merge'; points: number }
  | { kind: 'cut'; passed: number }
  | { kind: 'agent'; how: 'close' | 'crash'; passed: number }
  | { kind: 'target' }
  | { kind: 'drop'; frames: number }
  | { kind: 'pause'; ms: number };

const kind = <K extends string>(name: K) => fc.constant(name);
const few = fc.integer({ min: 1, max: 3 });
/** POINTs the target still hears of before the wire breaks. */
const passed = fc.oneof(fc.constant(Infinity), fc.nat(2));
const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      kind: kind('write'),
      disk: fc.nat(1),
      where: fc.nat(),
      bytes: fc.oneof(fc.integer({ min: 1, max: 9000 }), fc.integer({ min: 1, max: 200_000 })),
      fill: fc.nat(255),
    }),
  },
  { weight: 9, arbitrary: fc.record({ kind: kind('send') }) },
  { weight: 5, arbitrary: fc.record({ kind: kind('tell'), points: few }) },
  { weight: 2, arbitrary: fc.record({ kind: kind('merge'), points: few }) },
  { weight: 2, arbitrary: fc.record({ kind: kind('cut'), passed }) },
  { weight: 1, arbitrary: fc.record({ kind: kind('agent'), how: fc.constantFrom('close', 'crash'), passed }) },
  { weight: 1, arbitrary: fc.record({ kind: kind('target') }) },
  { weight: 1, arbitrary: fc.record({ kind: kind('drop'), frames: fc.nat(25) }) },
  { weight: 2, arbitrary: fc.record({ kind: kind('pause'), ms: fc.nat(25) }) },
);
const stories = fc.record({
  blockSize: fc.constantFrom(4096, 65_536),
  commands: fc.array(command, { minLength: 8, maxLength: 40 }),
});
type Story = typeof stories extends fc.Arbitrary<infer T> ? T : never;

const seen = { points: 0, waitedMost: 0, lost: 0 };

async function tellOne(site: Site, answers: LateAnswers, now: Command): Promise<void> {
  seen.waitedMost = Math.max(seen.waitedMost, answers.waiting);
  switch (now.kind) {
    case 'write': {
      const { size } = site.disk(now.disk);
      const offset = now.where % size;
      const length = Math.min(now.bytes, size - offset);
      await site.write(now.disk, offset, now.fill % 5 === 0 ? length : Buffer.alloc(length, `${now.fill}/${offset}/`));
      return;
    }
    case 'send':
      site.agent?.agent.requestCycle();
      await systemClock.sleep(6);
      return;
    case 'tell':
      answers.tell(now.points);
      return;
    case 'merge':
      answers.tellMerged(Math.min(now.points, answers.came));
      return;
    case 'cut':
      answers.passPoints(now.passed);
      site.agent?.agent.requestCycle();
      await systemClock.sleep(8);
      seen.lost += answers.waiting;
      site.agentHop.cutAfter(0);
      return;
    case 'agent':
      answers.passPoints(now.passed);
      site.agent?.agent.requestCycle();
      await systemClock.sleep(8);
      seen.lost += answers.waiting;
      await site.endAgent(now.how);
      await site.startAgent();
      return;
    case 'target':
      await site.endTarget('crash');
      await site.startTarget();
      return;
    case 'drop':
      site.targetHop.cutAfter(now.frames);
      return;
    case 'pause':
      await systemClock.sleep(now.ms);
      return;
  }
}

async function tell(story: Story): Promise<void> {
  const site = new Site({ blockSize: story.blockSize, sizes: [900_096, 300_032] });
  const answers = new LateAnswers(site);
  try {
    answers.late = false;
    await site.startTarget();
    site.newProcessServer();
    await site.startAgent();
    await site.point();
    answers.late = true;
    for (const now of story.commands) {
      site.said.push(`-- ${JSON.stringify(now)}`);
      await tellOne(site, answers, now);
    }
    site.said.push('-- the dust settles');
    answers.passPoints(Infinity);
    answers.intime();
    // A wire on which the target hears nothing any more does not mend itself.
    site.agentHop.cutAfter(0);
    const last = await site.point();
    await site.proven(last);
    const report = site.agent?.agent.report();
    expect(report?.gaps.get('merged')).toBe(0);
    expect(site.said.filter((line) => line.includes('is compared with its replica'))).toEqual([]);
    expect(site.alarms).toEqual([]);
    await site.endAgent('close');
    await site.endTarget('close');
    seen.points += await readBack(site);
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.stack : String(error)}\n${site.story()}`, { cause: error });
  } finally {
    await site.remove();
  }
}

test(
  `any story of late answers and deaths ends in true points (seed ${seed})`,
  async () => {
    await fc.assert(fc.asyncProperty(stories, tell), { seed, numRuns, endOnFailure: true });
    console.info(`stories of late answers: ${JSON.stringify(seen)}`);
    expect(seen.points).toBeGreaterThan(numRuns);
    expect(seen.waitedMost).toBeGreaterThan(3);
    expect(seen.lost).toBeGreaterThan(numRuns / 5);
  },
  soak ? 3_600_000 : 600_000,
);

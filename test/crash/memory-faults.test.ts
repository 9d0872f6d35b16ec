/**
 * Every operation on what an agent remembers of a disk — leaf file and its overlay, state file — fails once, somewhere in a life of cycles, surveys
 * and restarts. It is heard within a second and ends the session or the start, with its reason; replication goes on by itself, and what is left after
 * that and a power failure is still true (`disk-memory.ts`, invariant 1). The change log has a test of its own (`log-faults.test.ts`); a soak fails
 * it here too.
 */
import { expect, test, vi } from 'vitest';
import { isProblem } from '../../src/kit/problem.ts';
import { Dice } from '../simulated-bytes.ts';
import { AgentRun } from './agent-run.ts';
import { soak } from './crash-points.ts';
import { allTurns, failAt } from './faults.ts';

type Limits = typeof import('../../src/limits.ts');
vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<Limits>();
  const { limits } = real;
  const agent = {
    ...limits.agent,
    lastRoundBytes: 8192,
    batchPayloadBytes: 16_384,
    surveyPieceBytes: 16 * 65_536,
    checkpointBytes: 2 * 65_536,
  };
  return { ...real, limits: { ...limits, agent } };
});

type Deed = (run: AgentRun) => Promise<void> | void;

const deeds: readonly Deed[] = [
  (run) => run.start(),
  (run) => run.cycle(),
  (run) => run.writeB(),
  (run) => run.cycle({ steps: 2 }),
  (run) => run.cycle(),
  (run) => run.writeA(),
  (run) => run.cycle({ steps: Infinity }, () => run.writeA()),
  (run) => run.reopen(),
  (run) => {
    run.disk.requestResync();
  },
  (run) => run.cycle(),
  (run) => run.writeB(),
  (run) =>
    run.reopen((image) => {
      image.resize(image.size + 70_144);
    }),
  (run) => run.cycle(),
];

function isAtStake(filePath: string): boolean {
  return filePath.startsWith('/state') && (soak || !filePath.includes('.hrl'));
}

/** Lives it with the n-th operation failing; null: there were fewer. */
async function lived(
  n: number,
  turn: number,
): Promise<{ run: AgentRun; what: string; kind: string; told: string | null } | null> {
  const run = new AgentRun();
  const failed = failAt(run.files, n, isAtStake, undefined, turn);
  run.door = failed.listener.at;
  let told: string | null = null;
  for (const deed of deeds) {
    try {
      await deed(run);
    } catch (error) {
      if (told !== null || (!isProblem(error) && !(error instanceof Error && 'code' in error))) throw error;
      told = String(error);
      await run.recover();
    }
  }
  if (failed.fired === null) return null;
  failed.expectHeard();
  return { run, what: `operation ${n}, ${failed.fired}, told ${told}`, kind: failed.kind, told };
}

async function expectTrue(run: AgentRun, what: string): Promise<void> {
  const { files } = run;
  expect(files.violations, what).toEqual([]);
  files.fault = () => null;
  const model = run.model();
  const survivors = Array.from({ length: soak ? 20 : 2 }, (_, lot) => files.afterPowerLoss(new Dice(lot)));
  // It goes on by itself.
  await run.cycle();
  run.expectReplicated();
  for (const survivor of survivors) {
    const after = AgentRun.after(survivor, model);
    await after.start();
    after.expectRemembered();
    await after.cycle();
    after.expectReplicated();
  }
}

test.each(soak ? allTurns : [0])(
  'what an agent remembers, the n-th operation of which fails: it is heard, and nothing is believed that is not so (turn %i)',
  async (turn) => {
    const failedOn = new Map<string, number>();
    let n = 1;
    for (; ; n += 1) {
      const tale = await lived(n, turn);
      if (tale === null) break;
      const { run, what, kind, told } = tale;
      failedOn.set(kind, (failedOn.get(kind) ?? 0) + 1);
      // Writers do not wait for the change log, and neither do points.
      if (kind !== 'hrl') expect(told, what).not.toBeNull();
      await expectTrue(run, what).catch((error: unknown) => {
        throw new Error(`${what}: ${error instanceof Error ? error.stack : String(error)}`, { cause: error });
      });
    }
    console.info(`an agent's memory whose operation fails, up to ${n}: ${JSON.stringify([...failedOn])}`);
    expect([...failedOn.keys()]).toEqual(expect.arrayContaining(['leaves', 'overlay', 'vda.json']));
    expect(n).toBeGreaterThan(100);
  },
  300_000,
);

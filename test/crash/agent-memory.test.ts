/**
 * The memory of an agent — image, change log, leaf file, state file together — loses power at every sync point (`disk-memory.ts`, invariant 1):
 * after the next start every block is what its leaf says, or marked in the pages in which it is not; leaves as of a point are the target's.
 * And the next point is the disk, whatever the target was through.
 */
import { expect, test, vi } from 'vitest';
import type { SimulatedFiles } from '../simulated-files.ts';
import { AgentRun, type AgentModel } from './agent-run.ts';
import { crashAll, noTotals, Recording, sequencesOf, soak, type Crash } from './crash-points.ts';

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
const core: Record<string, Deed> = {
  'write A': (run) => run.writeA(),
  cycle: (run) => run.cycle(),
  'cycle cut off': (run) => run.cycle({ steps: 2 }),
  request: (run) => {
    run.disk.requestResync();
  },
  kill: (run) => run.kill(),
};
const more: Record<string, Deed> = {
  'write B': (run) => run.writeB(),
  'root mismatch': (run) => run.cycle({ steps: Infinity, answer: 'root-mismatch' }),
  zero: (run) => run.zero(),
  flush: (run) => run.capture.flush(),
  'answer lost': (run) => run.cycle({ steps: Infinity, answer: 'lost' }),
  'cycle cut off, its batches lost': (run) => run.cycle({ steps: 1, loses: true }),
  'cycle under writers': (run) => run.cycle({ steps: Infinity }, () => run.writeA()),
  'session ends': (run) => {
    run.endSession();
  },
  repair: (run) => {
    run.repair();
  },
  reopen: (run) => run.reopen(),
  grow: (run) =>
    run.reopen((image) => {
      image.resize(image.size + 70_144);
    }),
  'changed behind': (run) =>
    run.reopen((image) => {
      image.write(Buffer.alloc(300, 77), 500_000);
    }),
  'the target loses a point': (run) => {
    run.endSession();
    run.replica.losePoint();
  },
  'another replica': (run) => {
    run.endSession();
    run.replica = run.replica.another();
  },
};
const alphabet: Record<string, Deed> = { ...core, ...more };

/** How often the leaf file was found as of a point, of none, and of no use. */
const found = new Map<string, number>();

let states = 0;
let judging: AgentRun | null = null;

async function judge(files: SimulatedFiles, model: AgentModel, crash: Crash): Promise<void> {
  const run = AgentRun.after(files, model);
  judging = run;
  await run.start();
  run.expectRemembered();
  if (crash === 'kill' && !model.blank) run.expectFound();
  const { capture, disk } = run;
  const kind = disk.knownPoint !== null ? 'of a point' : capture.currentBytes < capture.size ? 'of none' : 'all marked';
  found.set(kind, (found.get(kind) ?? 0) + 1);
  states += 1;
  if (states % 3 > 0) return;
  await run.cycle();
  run.expectReplicated();
  const again = AgentRun.after(files.afterPowerLoss(files.dice), run.model());
  await again.start();
  again.expectRemembered();
}

/** A point, and writes after it. */
async function lived(): Promise<AgentRun> {
  const run = new AgentRun();
  await run.start();
  await run.cycle();
  await run.writeB();
  await run.writeA();
  return run;
}

/** Another point after a kill, and a session. No region is hot: after a crash only what is marked is marked. */
async function begun(from: AgentRun): Promise<AgentRun> {
  const run = AgentRun.after(from.files.copy(), from.model());
  await run.start();
  await run.cycle();
  run.expectReplicated();
  return run;
}

/** All sequences of three take minutes on a quiet machine. */
const timeoutMs = soak ? 3_600_000 : 600_000;

test(
  'all sequences of up to three operations, crashed at every sync point of the last one',
  async () => {
    const totals = noTotals();
    const life = await lived();
    const sequences = sequencesOf(Object.keys(core), Object.keys(more));
    for (const [index, sequence] of sequences.entries()) {
      const run = await begun(life);
      for (const name of sequence.slice(0, -1)) await alphabet[name]?.(run);
      const recording = new Recording(() => run.model());
      recording.watch(() => run.files);
      // A disk that takes its time lets whoever does not wait for it be overtaken.
      run.files.turnsMax = index % 3;
      const slow = sequence.length < 3 ? '.hrl' : '.leaves';
      run.files.slow = (filePath) => (filePath.includes(slow) ? 60 : 0);
      await alphabet[sequence.at(-1) ?? '']?.(run);
      recording.add('the end', run.files);
      const meanwhile = (): AgentModel => (judging ?? run).model();
      const name = sequence.join(', ');
      await crashAll(recording, { name, lots: 1, againEvery: 600, judge, meanwhile, totals });
    }
    console.info(
      `agent's memory, ${sequences.length} sequences: ${JSON.stringify(totals)}, ${JSON.stringify([...found])}`,
    );
    expect(totals.states).toBeGreaterThan(2000);
  },
  timeoutMs,
);

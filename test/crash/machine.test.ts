/**
 * A machine at the target, whole: its directory, keys, segments, points, leaf files and `boot.json` lose power at every sync point, with the
 * index as it was, gone, or full of rubbish. Every acknowledged point is there and reads as the disk was, no disk is called incomplete,
 * and the next point commits. An export that was called done is whole.
 */
import { afterAll, expect, test, vi } from 'vitest';
import { isProblem } from '../../src/kit/problem.ts';
import { Dice } from '../simulated-bytes.ts';
import { crashAll, noTotals, Recording, soak } from './crash-points.ts';
import { allTurns, failAt } from './faults.ts';
import { judgeMachine, MachineRun, removeScratch, states } from './machine-run.ts';

type Limits = typeof import('../../src/limits.ts');
vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<Limits>();
  const { limits } = real;
  const target = { ...limits.target, segmentBytesMax: 65_536, groupBytesMax: 32_768 };
  return { ...real, limits: { ...limits, target } };
});

afterAll(removeScratch);

type Deed = (run: MachineRun) => Promise<void>;
const opening: Deed = (run) => run.open();

const deeds: readonly Deed[] = [
  opening,
  (run) => run.layer([{ block: 0 }, { block: 5, mask: 0x3 }]),
  (run) => run.layer([{ block: 1 }, { block: 5, mask: 0x10 }, { block: 1500 }]),
  (run) => run.commit(),
  (run) => run.prove(),
  (run) => run.layer(Array.from({ length: 12 }, (_, block) => ({ block }))),
  (run) => run.commit(),
  // Into the next segment.
  (run) => run.layer([{ block: 5, mask: 0x8000 }, ...Array.from({ length: 4 }, (_, at) => ({ block: 20 + at }))]),
  (run) => run.close(),
  opening,
  (run) => run.layer([{ block: 6, mask: 1 }]),
  (run) => run.commit(),
  (run) => run.prove(),
  (run) => run.close(),
];

test('a machine at the target', async () => {
  const totals = noTotals();
  const run = new MachineRun();
  const recording = new Recording(() => run.model());
  recording.watch(() => run.files);
  for (const deed of deeds) await deed(run);
  recording.add('the end', run.files);
  await crashAll(recording, {
    name: 'a machine',
    lots: soak ? 10 : 1,
    againEvery: soak ? 20 : 40,
    judge: judgeMachine,
    totals,
  });
  console.info(`a machine at the target: ${JSON.stringify(totals)}, points ${JSON.stringify([...states])}`);
  for (const kind of ['makeDirectory', 'create', 'datasync', 'rename', 'truncate', 'syncDirectory', 'close'])
    expect(totals.kinds[kind]).toBeGreaterThan(0);
  expect(states.get('proven')).toBeGreaterThan(0);
}, 300_000);

/** Counted, so that no file of the machine is forgotten. */
const durableFiles = [
  'vault.key',
  'tidemark.json',
  'machine.json',
  'points.log',
  'seg',
  'seg.spare',
  'leaves',
  'overlay',
  'boot.json',
];

test.each(soak ? allTurns : [0])(
  'a machine at the target whose n-th operation fails: it is heard, nothing acknowledged is lost, it goes on (turn %i)',
  async (turn) => {
    const told = new Map<string, number>();
    const failedOn = new Map<string, number>();
    /** Whoever asked for it can do without and says nothing. */
    const onlyHeard = new Map<string, number>();
    let n = 1;
    for (; ; n += 1) {
      const run = new MachineRun();
      const failed = failAt(run.files, n, undefined, undefined, turn);
      run.door = failed.listener.at;
      let refused = false;
      for (const deed of deeds) {
        try {
          await deed(run);
        } catch (error) {
          const code = isProblem(error)
            ? error.code
            : error instanceof Error && 'code' in error
              ? String(error.code)
              : 'none';
          refused = true;
          told.set(code, (told.get(code) ?? 0) + 1);
          // A target opens the machine anew, the source sends again what was not acknowledged.
          await run.reopen();
          if (deed !== opening) await deed(run);
        }
      }
      if (failed.fired === null) break;
      const what = `operation ${n}, ${failed.fired}`;
      failed.expectHeard();
      const { kind } = failed;
      failedOn.set(kind, (failedOn.get(kind) ?? 0) + 1);
      if (!refused) onlyHeard.set(kind, (onlyHeard.get(kind) ?? 0) + 1);
      expect(run.files.violations, what).toEqual([]);
      const model = run.model();
      run.files.fault = () => null;
      await judgeMachine(run.files.afterPowerLoss(new Dice(n)), model).catch((error: unknown) => {
        throw new Error(`${what}: ${error instanceof Error ? error.stack : String(error)}`, { cause: error });
      });
    }
    const counts = { told: [...told], failedOn: [...failedOn], onlyHeard: [...onlyHeard] };
    console.info(`a machine whose operation fails, up to ${n}: ${JSON.stringify(counts)}`);
    expect([...failedOn.keys()]).toEqual(expect.arrayContaining(durableFiles));
    expect(n).toBeGreaterThan(100);
  },
  300_000,
);

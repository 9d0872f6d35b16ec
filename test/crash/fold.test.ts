/**
 * A machine that retires, folds and compacts is killed, or loses power, at every sync point of it, with its index as it was, gone, or full of rubbish. Every
 * point that was not to be retired reads as the disk was, nothing is called damaged, the next point commits, and the next fold goes on. And when any
 * operation fails, it is heard, and the same holds.
 */
import { afterAll, expect, test, vi } from 'vitest';
import { Dice } from '../simulated-bytes.ts';
import { crashAll, noTotals, Recording, soak } from './crash-points.ts';
import { failAt } from './faults.ts';
import { judgeMachine, MachineRun, removeScratch } from './machine-run.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallSegments } = await import('../store/small-segments.ts');
  return smallSegments(await load(), 49_152);
});

afterAll(removeScratch);

type Deed = (run: MachineRun) => Promise<unknown>;
const blocks = (first: number, count: number): { block: number }[] =>
  Array.from({ length: count }, (_, at) => ({ block: first + at }));

const opening: Deed = (run) => run.open();

const before: readonly Deed[] = [
  opening,
  (run) => run.layer([...blocks(0, 8), { block: 9, mask: 0x3 }]),
  (run) => run.commit(),
  (run) => run.layer([{ block: 2, mask: 0xf0 }, { block: 5, zero: true }, { block: 9, mask: 0x10 }, ...blocks(12, 6)]),
  (run) => run.commit(),
  (run) => run.layer([...blocks(0, 4), { block: 5, mask: 0x700 }, { block: 9, mask: 0x8 }, ...blocks(12, 4)]),
  (run) => run.commit(),
  (run) => run.layer([...blocks(0, 3), { block: 9, mask: 0x1 }, ...blocks(10, 5)]),
  (run) => run.commit(),
  (run) => run.layer([...blocks(0, 3), { block: 9, mask: 0x100 }, ...blocks(10, 6)]),
  (run) => run.commit(),
  (run) => run.pin(2),
  (run) => run.prove(),
];
const folding: readonly Deed[] = [
  (run) => run.fold(),
  (run) => run.layer([{ block: 5, mask: 0x2 }, { block: 6, mask: 0x100 }, ...blocks(10, 5)]),
  (run) => run.commit(),
  (run) => run.prove(),
  (run) => run.fold(),
  (run) => run.close(),
  opening,
  (run) => run.fold(),
  (run) => run.close(),
];

test('a machine that folds', async () => {
  const totals = noTotals();
  const run = new MachineRun();
  for (const deed of before) await deed(run);
  const recording = new Recording(() => run.model());
  recording.watch(() => run.files);
  let removed = 0;
  for (const deed of folding) removed += Number((await deed(run)) ?? 0);
  recording.add('the end', run.files);
  await crashAll(recording, {
    name: 'a machine that folds',
    lots: soak ? 10 : 2,
    againEvery: soak ? 20 : 90,
    judge: judgeMachine,
    totals,
  });
  console.info(`a machine that folds: ${JSON.stringify(totals)}, ${removed} segments removed`);
  expect(removed).toBeGreaterThan(2);
  expect(totals.kinds['remove']).toBeGreaterThan(2);
}, 300_000);

test('a machine of which the n-th operation fails while it folds: nothing is lost, and the next fold goes on', async () => {
  let refusals = 0;
  let n = 1;
  for (; ; n += soak ? 1 : 5) {
    const run = new MachineRun();
    for (const deed of before) await deed(run);
    const failed = failAt(run.files, n);
    for (const deed of folding) {
      try {
        await deed(run);
      } catch {
        refusals += 1;
        await run.reopen();
        if (deed !== opening) await deed(run);
      }
    }
    if (failed.fired === null) break;
    const what = `operation ${n}, ${failed.fired}`;
    expect(run.files.violations, what).toEqual([]);
    const model = run.model();
    run.files.fault = () => null;
    await judgeMachine(run.files.afterPowerLoss(new Dice(n)), model).catch((error: unknown) => {
      throw new Error(`${what}: ${error instanceof Error ? error.stack : String(error)}`, { cause: error });
    });
  }
  console.info(`a machine that folds and fails: ${n} operations, ${refusals} refusals`);
  expect(refusals).toBeGreaterThan(10);
}, 300_000);

/**
 * Segments and `points.log` lose power at every sync point (C1, C2, C10): nothing acknowledged is lost, nothing is half, and a torn tail is
 * never called damage.
 */
import { expect, test } from 'vitest';
import { crashAll, noTotals, Recording, sequencesOf, soak } from './crash-points.ts';
import { judgeStore, StoreRun } from './store-log.ts';

type Deed = (store: StoreRun) => Promise<void>;
const core: Record<string, Deed> = {
  'begin layer': (store) => store.layer(),
  batch: (store) => store.batches(1),
  'big batch': (store) => store.batches(1, 1200),
  commit: (store) => store.point(),
  drop: (store) => store.drop(),
  gap: (store) => store.gap(),
  'killed midway': (store) => store.killedMidway(),
};
const more: Record<string, Deed> = {
  reopen: (store) => store.reopen(),
  'two batches': (store) => store.batches(2, 250),
  epoch: (store) => store.epoch(),
  'kill and reopen': (store) => store.killAndReopen(),
};
const alphabet: Record<string, Deed> = { ...core, ...more };

async function doIt(store: StoreRun, name: string | undefined): Promise<void> {
  await alphabet[name ?? '']?.(store);
}

test('all sequences of up to three operations, crashed at every sync point of the last one', async () => {
  const totals = noTotals();
  const sequences = sequencesOf(Object.keys(core), Object.keys(more));
  for (const sequence of sequences) {
    const store = new StoreRun();
    await store.open();
    for (const name of sequence.slice(0, -1)) await doIt(store, name);
    const recording = new Recording(() => store.model());
    recording.watch(() => store.files);
    await doIt(store, sequence.at(-1));
    recording.add('the end', store.files);
    const name = sequence.join(', ');
    await crashAll(recording, { name, lots: soak ? 10 : 1, againEvery: 60, judge: judgeStore, totals });
  }
  console.info(`segments and points, ${sequences.length} sequences: ${JSON.stringify(totals)}`);
  expect(totals.states).toBeGreaterThan(2000);
}, 300_000);

test('a long life over several segments', async () => {
  const totals = noTotals();
  const store = new StoreRun();
  const recording = new Recording(() => store.model());
  recording.watch(() => store.files);
  await store.open();
  for (const round of [0, 1, 2, 3]) {
    // The disk takes its time, so that whoever does not wait for it is overtaken by what comes next.
    store.files.turnsMax = round % 2 === 0 ? 3 : 0;
    await store.layer();
    await store.batches(3, 200);
    await store.batches(1, 900);
    await store.point();
    await store.batches(2);
    if (round === 0) await store.killedMidway();
    if (round === 1) await store.reopen();
    if (round === 2) await store.killAndReopen();
    await store.gap();
    await store.point();
  }
  await store.reopen();
  recording.add('the end', store.files);
  await crashAll(recording, { name: 'a long life', lots: soak ? 30 : 3, againEvery: 30, judge: judgeStore, totals });
  console.info(`segments and points, a long life: ${JSON.stringify(totals)}`);
  for (const kind of ['create', 'datasync', 'rename', 'truncate', 'syncDirectory', 'close'])
    expect(totals.kinds[kind]).toBeGreaterThan(0);
  expect(totals.again).toBeGreaterThan(0);
}, 300_000);

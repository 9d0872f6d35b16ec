/**
 * The change log `<disk>.hrl` and the image under it lose power at every sync point (C3): what is marked after the next start, hot regions
 * included, covers every page in which the image and the replica differ. The scratch file of copy-before-write takes part; nothing is
 * expected of it.
 */
import { expect, test } from 'vitest';
import { crashAll, noTotals, Recording, sequencesOf, soak } from './crash-points.ts';
import { expectCovered, expectFlushed, judgesPage, openCapture, Source, type SourceModel } from './log-source.ts';
import type { SimulatedFiles } from '../simulated-files.ts';

type Deed = (source: Source) => Promise<void> | void;
const core: Record<string, Deed> = {
  'write A': (source) => source.write(0),
  'write B': (source) => source.write(1),
  flush: (source) => source.flush(),
  commit: (source) => source.commit(),
  'cut and commit': (source) => source.cutAndCommit(),
  reopen: (source) => source.reopen(),
  'kill and reopen': (source) => source.killAndReopen(),
};
const more: Record<string, Deed> = {
  zero: (source) => source.zero(1),
  'give up': (source) => {
    source.giveUp();
  },
  mark: (source) => source.mark(),
};
const alphabet: Record<string, Deed> = { ...core, ...more };

async function doIt(source: Source, name: string | undefined): Promise<void> {
  await alphabet[name ?? '']?.(source);
}

/** How often each loss was found. */
const losses = new Map<string | null, number>();

async function judge(files: SimulatedFiles, model: SourceModel): Promise<void> {
  const capture = await openCapture(files, { hadLog: model.hadLog });
  expectCovered(files, capture, model);
  expectFlushed(files, model);
  const { logLoss } = capture;
  losses.set(logLoss, (losses.get(logLoss) ?? 0) + 1);
  // A power failure alone never costs the log. Times of the image may go back: then a clean stop is not believed.
  if (logLoss !== null && logLoss !== 'changed-behind' && (model.hadLog || logLoss !== 'new'))
    throw new Error(`the log was found ${logLoss}`);
  // And goes on from there.
  await capture.write(Buffer.alloc(512, 255), judgesPage * 4096 + 512, false);
  const killed = files.kill();
  const again = await openCapture(killed);
  if (again.logLoss !== null) throw new Error(`then the log was found ${again.logLoss}`);
  expectCovered(killed, again, model);
}

/** A log that is made and whose disk was committed once. */
async function begun(): Promise<Source> {
  const source = new Source();
  await source.open();
  await source.commit();
  return source;
}

test('all sequences of up to three operations, crashed at every sync point of the last one', async () => {
  const totals = noTotals();
  const sequences = sequencesOf(Object.keys(core), Object.keys(more));
  for (const sequence of sequences) {
    const source = await begun();
    for (const name of sequence.slice(0, -1)) await doIt(source, name);
    const recording = new Recording(() => source.model());
    recording.watch(() => source.files);
    await doIt(source, sequence.at(-1));
    recording.add('the end', source.files);
    await crashAll(recording, { name: sequence.join(', '), lots: soak ? 10 : 1, againEvery: 40, judge, totals });
  }
  console.info(`change log, ${sequences.length} sequences: ${JSON.stringify(totals)}`);
  expect(totals.states).toBeGreaterThan(1500);
}, 300_000);

test('a long life, from the making of the log on', async () => {
  const totals = noTotals();
  for (const hotRegionsMax of [1, 2]) {
    const source = new Source(hotRegionsMax);
    const recording = new Recording(() => source.model());
    recording.watch(() => source.files);
    await source.open();
    // The disk takes its time, so that whoever does not wait for it is overtaken by what comes next.
    source.files.turnsMax = hotRegionsMax - 1;
    for (const round of [0, 1, 2]) {
      await source.write(round);
      await Promise.all([source.write(0), source.write(1, true), source.write(2), source.zero(1)]);
      await source.commit();
      await source.zero(0);
      await source.cutAndCommit();
      await source.zero(2);
      await source.flush();
      if (round === 0) await source.reopen();
      if (round === 1) await source.killAndReopen();
    }
    await source.capture.close();
    recording.add('the end', source.files);
    await crashAll(recording, { name: 'a long life', lots: soak ? 40 : 4, againEvery: 20, judge, totals });
  }
  console.info(`change log, long lives: ${JSON.stringify(totals)}, found: ${JSON.stringify([...losses])}`);
  for (const kind of ['create', 'datasync', 'rename', 'remove', 'syncDirectory', 'close'])
    expect(totals.kinds[kind]).toBeGreaterThan(0);
  expect(totals.again).toBeGreaterThan(0);
}, 300_000);

/**
 * Every durable operation under a capture fails once, in every way: of the change log (writers go on, the failure is told at once, a crash then costs a
 * comparison), of the image (its writers hear of it, nothing they were told is durable is not), and of the scratch file. Then the power goes, or the process,
 * or the disk is well again and the agent is started anew: C3 holds each time. No handle is used after a failed sync, but for the
 * image's: its door refuses, and writers must hear that (C4).
 */
import { expect, test } from 'vitest';
import { isProblem } from '../../src/kit/problem.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { systemError } from '../simulated-file.ts';
import { Dice } from '../simulated-bytes.ts';
import { soak } from './crash-points.ts';
import { allTurns, failAt, Listener } from './faults.ts';
import { expectCovered, expectFlushed, imagePath, openCapture, Source } from './log-source.ts';

type Deed = (source: Source) => Promise<void>;

/** Who can not start says so, and is started again. */
async function reopen(source: Source): Promise<void> {
  const { capture } = source;
  await capture.close();
  const closing = capture.logFailure === null ? null : systemError('EIO', capture.logFailure);
  const opening = await source.open().then(
    () => null,
    (error: unknown) => (error instanceof Error ? error : new Error(String(error))),
  );
  if (opening !== null) await source.open();
  const failure = opening ?? closing;
  if (failure) throw failure;
}

/** The life of a disk; what its writers are refused does not end it. */
const deeds: readonly Deed[] = [
  (source) => source.write(0),
  (source) => source.commit(),
  (source) => source.write(1, true),
  (source) => source.zero(0),
  (source) => source.cutAndCommit(),
  (source) => source.flush(),
  (source) => source.write(0),
  (source) => source.flushTwice(),
  (source) => source.commit(),
  (source) => source.write(2),
  (source) => source.mark(),
  (source) => source.commit(),
  reopen,
  (source) => source.write(1),
  (source) => source.commit(),
  (source) => source.write(0),
];

interface Tale {
  readonly source: Source;
  /** What a writer, or the start of a capture, was told. */
  readonly told: string[];
  readonly disowned: boolean;
  /** From the fault until somebody heard of it, milliseconds; Infinity: nobody did. */
  readonly silentMs: number;
}

async function live(
  n: number,
  where: (filePath: string) => boolean,
  turn: number,
): Promise<Tale & { fired: string | null }> {
  const source = new Source();
  const listener = new Listener();
  source.door = listener.at;
  await source.open();
  await source.commit();
  const failed = failAt(source.files, n, where, listener, turn);
  const told: string[] = [];
  let disowned = false;
  const { fault } = source.files;
  const now = (): number => systemClock.monotonicMs();
  let [firedMs, heardMs] = [0, Infinity];
  source.files.fault = (operation, filePath) => {
    const found = fault(operation, filePath);
    if (found) firedMs = now();
    return found;
  };
  for (const deed of deeds) {
    try {
      await deed(source);
    } catch (error) {
      if (!isProblem(error) && !(error instanceof Error && 'code' in error)) throw error;
      told.push(String(error));
    }
    disowned ||= source.capture.logFailure !== null;
    if (disowned || told.length > 0) heardMs = Math.min(heardMs, now());
  }
  if (failed.fired !== null) failed.expectHeard();
  return { source, told, disowned, silentMs: heardMs - firedMs, fired: failed.fired };
}

/** Lives with every operation failing in every way, one after another; what each is called. */
async function* lives(
  where: (filePath: string) => boolean,
  operationsMin: number,
): AsyncGenerator<{ readonly tale: Tale; readonly what: string }> {
  for (const turn of allTurns) {
    for (let n = 1; ; n += 1) {
      const tale = await live(n, where, turn);
      if (tale.fired !== null) {
        yield { tale, what: `operation ${n}, ${tale.fired}` };
        continue;
      }
      expect(n).toBeGreaterThan(operationsMin);
      break;
    }
  }
}

async function expectCoveredAfter({ source, told }: Tale, what: string): Promise<void> {
  const model = source.model();
  const { files } = source;
  files.fault = () => null;
  const survivors = [files.afterPowerLoss(new Dice(1)), files.kill()];
  for (let lot = 2; lot < (soak ? 40 : 4); lot += 1) survivors.push(files.afterPowerLoss(new Dice(lot)));
  for (const [index, survivor] of survivors.entries()) {
    try {
      const capture = await openCapture(survivor, { hadLog: model.hadLog });
      expectCovered(survivor, capture, model);
      expectFlushed(survivor, model);
      // What is committed on what the page cache shows must be on the disk.
      const after = Source.continued(survivor, capture, model);
      await after.commit();
      const lost = survivor.afterPowerLoss(new Dice(index));
      expectCovered(lost, await openCapture(lost), after.model());
    } catch (error) {
      throw new Error(`${what}, told ${JSON.stringify(told)}, survivor ${index}: ${String(error)}`, { cause: error });
    }
  }
}

test('of the log: nothing is missed, and it is told', async () => {
  let disowned = 0;
  for await (const { tale, what } of lives((filePath) => filePath.startsWith('/state/vda.hrl'), 20)) {
    if (tale.disowned) disowned += 1;
    expect(tale.silentMs, what).toBeLessThan(1000);
    expect(tale.source.files.violations, what).toEqual([]);
    await expectCoveredAfter(tale, what);
  }
  expect(disowned).toBeGreaterThan(25);
}, 300_000);

test('of the image: writers hear of it, what is committed is on the disk', async () => {
  let told = 0;
  for await (const { tale, what } of lives((filePath) => filePath === imagePath, 10)) {
    if (tale.told.length > 0) told += 1;
    expect(tale.silentMs, what).toBeLessThan(1000);
    const others = tale.source.files.violations.filter((each) => !each.endsWith(imagePath));
    expect(others).toEqual([]);
    await expectCoveredAfter(tale, what);
  }
  expect(told).toBeGreaterThan(25);
}, 300_000);

test('of the scratch file: the cut is void and says why, no writer notices', async () => {
  let told = 0;
  for await (const { tale, what } of lives((filePath) => filePath === '/state/vda.scratch', 3)) {
    if (tale.told.length > 0) told += 1;
    for (const each of tale.told) expect(each, what).toMatch(/the cut is void: an old page could not be kept/);
    expect(tale.source.files.violations, what).toEqual([]);
    await expectCoveredAfter(tale, what);
  }
  expect(told).toBeGreaterThan(5);
}, 300_000);

/**
 * A change log that failed and comes back while writers go on: what is in the new one, what a crash finds at any moment of it, and what happens when
 * the new one fails too.
 */
import { expect, test } from 'vitest';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import type { Clock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import {
  commitAll,
  dirty,
  imagePath,
  kill,
  logPath,
  losePower,
  openSim,
  pageSize,
  peek,
  simWithImage,
  stillClock,
  turns,
  hold,
} from './setup.ts';
import type { Operation } from '../simulated-file.ts';
import type { SimulatedFiles } from '../simulated-files.ts';

const newPath = `${logPath}.new`;

interface Scene {
  readonly files: SimulatedFiles;
  readonly capture: NbdCapture;
  /** Pauses asked for so far, milliseconds. */
  readonly pausesMs: number[];
  /** Lets the pause end; answers when everything that can go on went on. */
  readonly retry: () => Promise<void>;
}

/** A disk of 12 MiB, all committed, whose log has just failed and can be written again. */
async function failed(more: Parameters<typeof openSim>[2] = {}, seed = 1): Promise<Scene> {
  const files = simWithImage(12 * MiB, seed);
  const pausesMs: number[] = [];
  let pause: (() => void) | null = null;
  const after: Clock['after'] = (ms, run) => {
    pausesMs.push(ms);
    pause = run;
    return { cancel: () => (pause = null) };
  };
  const capture = await openSim(files, false, { ...more, clock: { ...stillClock, after } });
  await commitAll(capture);
  files.fault = (operation, filePath) =>
    operation === 'write' && filePath.startsWith(logPath) ? { code: 'ENOSPC' } : null;
  await write(capture, 0, 1);
  await turns();
  expect(capture.logFailure).toContain('ENOSPC');
  files.fault = () => null;
  const retry = async (): Promise<void> => {
    const run = pause;
    pause = null;
    expect(run).not.toBeNull();
    run?.();
    await turns(200);
  };
  return { files, capture, pausesMs, retry };
}

const write = (capture: NbdCapture, at: number, byte: number, length = 100): Promise<void> =>
  capture.write(Buffer.alloc(length, byte), at, false);

async function foundAfterKill(files: SimulatedFiles): Promise<{ loss: string | null; dirty: Map<number, number> }> {
  const capture = await openSim(kill(files), true);
  return { loss: capture.logLoss, dirty: dirty(capture) };
}

/** Stops the next operation of a kind on one file until released. */
function stopNext(
  files: SimulatedFiles,
  operation: Operation,
  filePath: string,
): { reached: () => boolean; go: () => void } {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  let reached = false;
  hold(files, promise, (name, file) => {
    const stops = !reached && name === operation && file === filePath;
    if (stops) reached = true;
    return stops;
  });
  return {
    reached: () => reached,
    go: () => {
      resolve(undefined);
    },
  };
}

test('writable again: a new log, a kill is continued with what was dirty, and further writes are logged', async () => {
  const { files, capture, retry } = await failed();
  await write(capture, 4 * MiB, 2);
  await retry();
  expect(capture.logFailure).toBeNull();
  await write(capture, 8 * MiB, 3);
  const found = await foundAfterKill(files);
  expect(found.loss).toBeNull();
  // Region 2 was written to with the log in place: hot. Regions 0 and 1 are in the log as they were.
  expect([...found.dirty.keys()].filter((block) => block < 128)).toEqual([0, 64]);
  expect([...found.dirty.keys()].filter((block) => block >= 128)).toHaveLength(64);
});

test('what is forgotten and marked after the new log was begun gets into it', async () => {
  const { files, capture, retry } = await failed();
  const stop = stopNext(files, 'datasync', newPath);
  await retry();
  expect(stop.reached()).toBe(true);
  capture.mark(100, 0b11);
  capture.swap();
  capture.endSending();
  await capture.forget();
  capture.mark(101, 0b1);
  stop.go();
  await turns(200);
  // Both blocks lie in region 1, block 0 in region 0: they are hot from the start, and nothing else is marked.
  const found = (await foundAfterKill(files)).dirty;
  expect([found.size, found.has(101)]).toEqual([128, true]);
});

test('a write under way while the log comes back is in it as a hot region, even if its block is forgotten', async () => {
  const { files, capture, retry } = await failed();
  await commitAll(capture);
  stopNext(files, 'write', imagePath);
  void write(capture, 8 * MiB, 9);
  await turns();
  await retry();
  expect(capture.logFailure).toBeNull();
  const found = await foundAfterKill(files);
  expect([found.loss, found.dirty.size, found.dirty.has(128)]).toEqual([null, 64, true]);
});

test('power lost after the log came back: what the image takes back is marked, though it was forgotten before', async () => {
  let reverted = 0;
  for (let seed = 1; seed <= 30; seed += 1) {
    const { files, capture, retry } = await failed({}, seed);
    files.turnsMax = 2;
    // Into the page cache, committed elsewhere, forgotten; some before the new log's sync of the image, some behind it.
    const early = write(capture, 4 * MiB, 5, pageSize);
    const retrying = retry();
    await turns(seed % 9);
    const late = write(capture, 8 * MiB, 6, pageSize);
    await Promise.all([early, late]);
    const replica = peek(files, imagePath);
    await commitAll(capture);
    await retrying;
    if (capture.logFailure !== null) continue;
    const after = losePower(files);
    after.turnsMax = 0;
    const again = await openSim(after, true);
    const image = peek(after, imagePath);
    for (const at of [0, 4 * MiB, 8 * MiB]) {
      if (image[at] === replica[at]) continue;
      reverted += 1;
      expect(again.currentMask(at / 65_536) & 1).toBe(1);
    }
  }
  expect(reverted).toBeGreaterThan(3);
});

test.each(['open', 'write', 'datasync', 'rename', 'syncDirectory'])(
  'a %s that fails while the log comes back: nothing at its place, longer pauses, and the next try makes it',
  async (bad) => {
    const { files, capture, pausesMs, retry } = await failed();
    files.fault = (operation, filePath) =>
      operation === bad && filePath.startsWith('/state') ? { code: 'EIO' } : null;
    for (let round = 0; round < 8; round += 1) await retry();
    expect(capture.logFailure).not.toBeNull();
    expect(await files.list('/state')).not.toContain('vda.hrl');
    await write(capture, 4 * MiB, 3);
    expect(pausesMs[0]).toBeLessThanOrEqual(limits.capture.logRetryBaseMs);
    expect(pausesMs.at(-1)).toBeGreaterThanOrEqual(limits.capture.logRetryMaxMs / 2);
    expect(Math.max(...pausesMs)).toBeLessThanOrEqual(limits.capture.logRetryMaxMs);
    files.fault = () => null;
    await retry();
    expect(capture.logFailure).toBeNull();
    expect([...(await foundAfterKill(files)).dirty.keys()]).toEqual([0, 64]);
  },
);

test('the new log fails later: it is disowned like the first, and comes back again', async () => {
  const { files, capture, retry } = await failed();
  await retry();
  files.fault = (operation, filePath) =>
    operation === 'datasync' && filePath.startsWith(logPath) ? { code: 'EIO' } : null;
  await Promise.all([write(capture, 4 * MiB, 3), write(capture, 8 * MiB, 3)]);
  await turns();
  expect(capture.logFailure).toContain('sync failed');
  expect(await files.list('/state')).toEqual([]);
  files.fault = () => null;
  await retry();
  expect(capture.logFailure).toBeNull();
  await write(capture, 4 * MiB, 4);
  await capture.close();
  const again = await openSim(files, true);
  expect([again.logLoss, [...dirty(again).keys()]]).toEqual([null, [0, 64, 128]]);
});

test('a directory that could not be written at all refused writers; once it can, they go on without a restart', async () => {
  const files = simWithImage();
  let pause = (): void => undefined;
  const after: Clock['after'] = (_, run) => {
    pause = run;
    return { cancel: () => undefined };
  };
  const capture = await openSim(files, false, { clock: { ...stillClock, after } });
  await commitAll(capture);
  files.fault = (operation, filePath) =>
    filePath.startsWith('/state') && operation !== 'read' ? { code: 'EROFS' } : null;
  await expect(write(capture, 4 * MiB, 1)).rejects.toMatchObject({ code: 'EIO' });
  pause();
  await turns();
  await expect(write(capture, 4 * MiB, 1)).rejects.toMatchObject({ code: 'EIO' });
  files.fault = () => null;
  pause();
  await turns(200);
  await write(capture, 4 * MiB, 1);
  expect(capture.logFailure).toBeNull();
  expect((await foundAfterKill(files)).loss).toBeNull();
});

test('writers faster than the disk: the try is given up, a later one succeeds', async () => {
  const { files, capture, retry } = await failed({ hotRegionsMax: 2 });
  const begin = files.begin.bind(files);
  let busy = true;
  files.begin = async (name, file) => {
    if (busy && name === 'datasync' && file === imagePath)
      for (const at of [0, 4 * MiB, 8 * MiB]) await write(capture, at, 7);
    return begin(name, file);
  };
  await retry();
  expect(capture.logFailure).not.toBeNull();
  expect(await files.list('/state')).not.toContain('vda.hrl');
  busy = false;
  await retry();
  expect(capture.logFailure).toBeNull();
});

test('a stop while the log comes back waits for it and leaves a true log', async () => {
  const { files, capture, retry } = await failed();
  const stop = stopNext(files, 'datasync', newPath);
  await retry();
  const closing = capture.close();
  await turns();
  stop.go();
  await closing;
  const again = await openSim(files, true);
  expect([again.logLoss, [...dirty(again)]]).toEqual([null, [[0, 1]]]);
});

test('a mark that was settled while the new log was made is in it as soon as it is in place', async () => {
  const { files, capture, retry } = await failed();
  const made = stopNext(files, 'datasync', newPath);
  await retry();
  capture.mark(100, 0b11);
  // Whoever relies on the mark goes on from here: there is no log, so a crash marks everything.
  await capture.forgetSending(0, 0);
  const placed = stopNext(files, 'syncDirectory', '/state');
  made.go();
  await turns(200);
  expect([made.reached(), placed.reached()]).toEqual([true, true]);
  const found = await foundAfterKill(files);
  expect([found.loss, (found.dirty.get(100) ?? 0) & 0b11]).toEqual([null, 0b11]);
});

test('a mark is not settled while a log that failed is still there to be believed', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await commitAll(capture);
  files.fault = (operation, filePath) =>
    operation === 'write' && filePath.startsWith(logPath) ? { code: 'ENOSPC' } : null;
  const removal = stopNext(files, 'truncate', logPath);
  const writing = write(capture, 0, 1);
  await turns();
  expect([removal.reached(), capture.logFailure]).toEqual([true, expect.stringContaining('ENOSPC')]);
  capture.mark(100, 0b11);
  let settled = false;
  const settling = capture.forgetSending(0, 0).then(() => (settled = true));
  await turns();
  expect(settled).toBe(false);
  removal.go();
  await Promise.all([writing, settling]);
  expect((await foundAfterKill(files)).loss).toBe('lost');
});

test('a mark in a region whose activity slot is only being written is settled by its chunk', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await commitAll(capture);
  const activity = stopNext(files, 'write', newPath);
  void write(capture, 4 * MiB, 1);
  await turns();
  expect(activity.reached()).toBe(true);
  capture.mark(100, 0b11);
  let settled = false;
  const settling = capture.forgetSending(0, 0).then(() => (settled = true));
  await turns();
  expect(settled).toBe(false);
  activity.go();
  await settling;
  expect(((await foundAfterKill(files)).dirty.get(100) ?? 0) & 0b11).toBe(0b11);
});

test('marks that come one by one share the writing: what waits for a slow log does not grow with them', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await commitAll(capture);
  const slow = stopNext(files, 'write', newPath);
  capture.mark(1, 1);
  await turns();
  expect(slow.reached()).toBe(true);
  const before = process.memoryUsage().heapUsed;
  for (let mark = 0; mark < 100_000; mark += 1) capture.mark(mark % 128, 0xffff);
  await turns();
  expect(process.memoryUsage().heapUsed - before).toBeLessThan(8 * MiB);
  slow.go();
  await capture.forgetSending(0, 0);
  expect((await foundAfterKill(files)).dirty.size).toBe(128);
});

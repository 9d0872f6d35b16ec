/**
 * What a cut costs writers: which waits are inside the hold and which are not, step by step on a simulated disk; and 16 writers on the real file
 * system and through NBD while cuts go on. On a machine that others use too, what a hold waited for a processor is not counted.
 * TIDEMARK_TEST_SOAK=1 measures for longer.
 */
import { afterEach, describe, expect, test } from 'vitest';
import { makeCutAll } from '../../src/capture/cut.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { QuickReads } from '../../src/capture/quick-reads.ts';
import { QuickWrites } from '../../src/capture/quick-writes.ts';
import type { Clock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import type { File } from '../../src/posix/files.ts';
import { requireTool } from '../tools.ts';
import { commitAll, imagePath, logPath, openSim, peek, simWithImage, stillClock, turns, hold } from './setup.ts';
import type { Operation } from '../simulated-file.ts';
import type { SimulatedFiles } from '../simulated-files.ts';
import {
  capturedDisk,
  cutAgainAndAgain,
  imageBytes,
  measureWritePath,
  percentile,
  type WritePath,
  type WritePathLoad,
} from './write-path.ts';

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const heldMsMax = 1;

// ---- step by step -----------------------------------------------------------------------------------------------------------

const ends: (() => void)[] = [];
afterEach(() => ends.splice(0).forEach((end) => end()));

/** Stops the next operation of a kind on one file until released; later ones pass. */
function stopAt(files: SimulatedFiles, operation: Operation, filePath: string): () => void {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  let next = true;
  hold(files, promise, (name, file) => {
    const stops = next && name === operation && file.startsWith(filePath);
    if (stops) next = false;
    return stops;
  });
  const release = (): void => {
    resolve(undefined);
  };
  ends.push(release);
  return release;
}

async function quiet(): Promise<{ files: SimulatedFiles; capture: NbdCapture }> {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await commitAll(capture);
  return { files, capture };
}

/** Whether it has ended when everything that can go on went on. */
async function endsNow(work: Promise<unknown>): Promise<boolean> {
  let ended = false;
  void work.then(() => (ended = true));
  await turns();
  return ended;
}

const write = (capture: NbdCapture, at: number, fua = false): Promise<void> =>
  capture.write(Buffer.alloc(100, 7), at, fua);

test('while a write waits for the log a cut waits without holding anybody, and then holds nobody for it', async () => {
  const { files, capture } = await quiet();
  await write(capture, 0);
  const release = stopAt(files, 'datasync', logPath);
  const cold = write(capture, 4 * MiB);
  const cutting = makeCutAll(stillClock)([capture], 1000);
  expect(await endsNow(cutting)).toBe(false);
  expect(await endsNow(write(capture, 0))).toBe(true);
  release();
  const report = await cutting;
  await cold;
  expect(report?.writes).toEqual([3]);
});

test('a log that is never calm does not keep a cut from being made', async () => {
  const { files, capture } = await quiet();
  const release = stopAt(files, 'datasync', logPath);
  const cold = write(capture, 4 * MiB);
  let late = (): void => undefined;
  const after: Clock['after'] = (ms, run) => {
    if (ms === limits.capture.cutCalmMs) late = run;
    return { cancel: () => undefined };
  };
  const cutting = makeCutAll({ ...stillClock, after })([capture], 1000);
  await turns();
  late();
  await turns();
  // Now it holds, until the write it found has its log.
  const held = write(capture, 0);
  expect([await endsNow(cutting), await endsNow(held)]).toEqual([false, false]);
  release();
  expect((await cutting)?.writes).toEqual([1]);
  await Promise.all([cold, held]);
});

test('a disk closed while a cut waits for the log: no cut, and the other disks go on', async () => {
  const [one, two] = [await quiet(), await quiet()];
  const release = stopAt(one.files, 'datasync', logPath);
  const cold = write(one.capture, 4 * MiB);
  const cutting = makeCutAll(stillClock)([one.capture, two.capture], 1000);
  await turns();
  const closing = two.capture.close();
  release();
  expect(await cutting).toBeNull();
  await Promise.all([cold, closing, write(one.capture, 0)]);
});

test('a sync that a write asked for is not waited for by a cut, which has its data', async () => {
  const { files, capture } = await quiet();
  await write(capture, 0);
  await commitAll(capture);
  const release = stopAt(files, 'datasync', imagePath);
  const synced = write(capture, 0, true);
  await turns();
  const cutting = makeCutAll(stillClock)([capture], 1000);
  expect([await endsNow(cutting), await endsNow(synced)]).toEqual([true, false]);
  const into = Buffer.alloc(65_536);
  await capture.readBlocks(0, into);
  expect(into[0]).toBe(7);
  release();
  await synced;
});

test('a write is not ended by a close before its sync has ended', async () => {
  const { files, capture } = await quiet();
  await write(capture, 0);
  const release = stopAt(files, 'datasync', imagePath);
  const synced = write(capture, 0, true);
  await turns();
  const closing = capture.close();
  expect(await endsNow(closing)).toBe(false);
  release();
  await Promise.all([synced, closing]);
});

// ---- small writes on the calling thread -------------------------------------------------------------------------------------

/** `write` answers whether one of four KiB was taken, and took so long. */
function quickWrites(): { quick: QuickWrites; write: (tookMs: number) => boolean; pass: (ms: number) => void } {
  let nowMs = 1000;
  let nextTakesMs = 0;
  const image = { writeSync: () => void (nowMs += nextTakesMs) } as unknown as File;
  const quick = new QuickWrites(image, { ...stillClock, monotonicMs: () => nowMs });
  const write = (tookMs: number): boolean => {
    nextTakesMs = tookMs;
    const takes = quick.takes(4096, 0);
    if (takes) quick.write(Buffer.alloc(4096), 0);
    return takes;
  };
  return { quick, write, pass: (ms) => void (nowMs += ms) };
}

test.each([
  ['a page', 4096, 8192, true],
  ['four pages', 16_384, 4096, true],
  ['more', 20_480, 0, false],
  ['a part of a page', 512, 0, false],
  ['over the border of a page', 4096, 512, false],
])('%s: on the calling thread or not', (_, length, offset, quickly) => {
  expect(quickWrites().quick.takes(length, offset)).toBe(quickly);
});

test('calls that the system interrupts now and then hand nothing over', () => {
  const { write, pass } = quickWrites();
  for (let call = 0; call < 1000; call += 1) {
    expect(write(4)).toBe(true);
    pass(80);
  }
});

test('calls that compute for long, page after page of a large folio, hand nothing over', () => {
  const { write } = quickWrites();
  for (let call = 0; call < 1000; call += 1) expect(write(0.1)).toBe(true);
});

test('a slow disk holds the thread for its allowance, and for a twentieth of the time from then on', () => {
  const { write, pass } = quickWrites();
  let slowCalls = 0;
  while (write(3)) slowCalls += 1;
  expect(slowCalls).toBe(4);
  let moreCalls = 0;
  for (let ms = 0; ms < 6000; ms += 1) {
    if (write(3)) moreCalls += 1;
    pass(1);
  }
  expect(moreCalls * 3).toBeGreaterThan((6000 / 20) * 0.8);
  expect(moreCalls * 3).toBeLessThan((6000 / 20) * 1.2);
});

test('one call that takes very long hands over for twenty times as long', () => {
  const { write, pass } = quickWrites();
  expect([write(300), write(0.01)]).toEqual([true, false]);
  pass(20 * 290 - 1);
  expect(write(0.01)).toBe(false);
  pass(2);
  expect([write(0.01), write(0.01)]).toEqual([true, true]);
});

test('what misses the cache again and again is asked for more and more rarely, until it hits', () => {
  let cached = false;
  let asked = 0;
  const quick = new QuickReads({ readCachedSync: () => ((asked += 1), cached) } as unknown as File, 65_536);
  const read = (count: number): number => {
    asked = 0;
    for (let index = 0; index < count; index += 1) quick.tryRead(Buffer.alloc(4096), 0);
    return asked;
  };
  expect(read(1 + 1 + 1 + 3 + 1 + 7)).toBe(3);
  expect(read(10 * 64)).toBeLessThan(14);
  cached = true;
  expect(read(64)).toBeGreaterThan(0);
  expect(read(100)).toBe(100);
  cached = false;
  expect([read(1), read(1), read(1)]).toEqual([1, 0, 1]);
  cached = true;
  read(64);
  expect([4096, 128 * 1024].map((length) => quick.tryRead(Buffer.alloc(length), 0))).toEqual([true, false]);
});

test('a page written over the border of two regions, one of them cold: nothing is issued before both are hot', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false, { hotRegionsMax: 1 });
  await commitAll(capture);
  await write(capture, 0);
  const release = stopAt(files, 'datasync', logPath);
  const writing = capture.write(Buffer.alloc(16_384, 9), 4 * MiB - 8192, false);
  await turns();
  expect(peek(files, imagePath)[4 * MiB]).toBe(0);
  release();
  await writing;
  expect(peek(files, imagePath)[4 * MiB]).toBe(9);
});

test('an image that refuses a small write: the writer is told, the page stays marked', async () => {
  const { files, capture } = await quiet();
  const writeSync = stopSmallWrites(files);
  await expect(capture.write(Buffer.alloc(4096), 0, false)).rejects.toMatchObject({ code: 'ENOSPC' });
  expect(writeSync()).toBe(1);
  expect(capture.currentMask(0)).toBe(1);
  await write(capture, 4096);
});

/** Small writes of files opened so far and later fail. Answers how many did. */
function stopSmallWrites(files: SimulatedFiles): () => number {
  let refused = 0;
  const fault = files.fault;
  files.fault = (operation, filePath) => {
    if (operation !== 'writeSync') return fault(operation, filePath);
    refused += 1;
    return { code: 'ENOSPC' };
  };
  return () => refused;
}

// ---- under load -------------------------------------------------------------------------------------------------------------

test('16 writers of 4 KiB on two disks of the real file system: 99 of 100 holds are under 1 ms', async () => {
  const disks = [await capturedDisk(), await capturedDisk()];
  let stopped = false;
  const page = Buffer.alloc(4096, 3);
  const latencyMs: number[] = [];
  const writer = async (start: number): Promise<void> => {
    const capture = disks[start % 2]?.capture;
    for (let index = start; !stopped; index += 7919) {
      const startMs = performance.now();
      await capture?.write(page, ((index * 65_537) % (imageBytes / 4096)) * 4096, false);
      latencyMs.push(performance.now() - startMs);
      // Requests come from sockets, between them the loop turns.
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  try {
    const writers = Array.from({ length: 16 }, (_, index) => writer(index * 104_729));
    const enough = soak ? 3000 : 300;
    const captures = disks.map(({ capture }) => capture);
    let heldMs: readonly number[] = [];
    // What threads waited one after another in a hold is not all taken off: under a heavy load of others it may take a second and third try.
    for (let tries = 0; tries < 3 && !(percentile(heldMs, 0.99) < heldMsMax); tries += 1)
      heldMs = await cutAgainAndAgain(captures, (cuts) => cuts === enough);
    stopped = true;
    await Promise.all(writers);
    latencyMs.sort((a, b) => a - b);
    console.info(heldReport('16 writers', heldMs), `writers p99 ${percentile(latencyMs, 0.99).toFixed(3)} ms`);
    expect(latencyMs.length).toBeGreaterThan(10 * enough);
    expect(percentile(heldMs, 0.99)).toBeLessThan(heldMsMax);
  } finally {
    stopped = true;
    for (const disk of disks) await disk.end();
  }
}, 60_000);

const heldReport = (what: string, heldMs: readonly number[]): string =>
  `${what}: ${heldMs.length} cuts held writers ${percentile(heldMs, 0.5).toFixed(3)} ms (p50), ${percentile(heldMs, 0.99).toFixed(3)} (p99)`;

describe.skipIf(!requireTool('fio'))('through NBD', () => {
  test('16 writes of 4 KiB in flight from fio: the middle one of the holds is under 1 ms', async () => {
    const load: WritePathLoad = { blockBytes: 4096, depth: 16, rw: 'randwrite', seconds: soak ? 20 : 1 };
    const { heldMs, operationsPerSecond } = await measureWritePath('tracked and cut', load);
    if (soak) console.info(heldReport('fio', heldMs));
    expect(operationsPerSecond).toBeGreaterThan(100);
    expect(heldMs.length).toBeGreaterThan(4);
    expect(percentile(heldMs, soak ? 0.99 : 0.5)).toBeLessThan(heldMsMax);
  }, 60_000);

  test.runIf(soak)(
    'what tracking costs a writer',
    async () => {
      const ways: readonly WritePath[] = ['untracked', 'tracked', 'tracked and cut', 'few slots'];
      const loads: readonly WritePathLoad[] = [
        { blockBytes: 4096, depth: 16, rw: 'randwrite', seconds: 5 },
        { blockBytes: 4096, depth: 1, rw: 'randwrite', seconds: 5 },
        { blockBytes: 4096, depth: 16, rw: 'randwrite', seconds: 5, more: ['--fsync=64'] },
        { blockBytes: 262_144, depth: 16, rw: 'write', seconds: 5 },
      ];
      for (const load of loads) {
        for (const way of ways) {
          const found = await measureWritePath(way, load);
          const { operationsPerSecond, bytesPerSecond, p50Ms, p99Ms, heldMs } = found;
          const shape = `${load.rw} ${load.blockBytes} depth ${load.depth} ${load.more?.join(' ') ?? ''} ${way}`;
          const held = heldMs.length > 0 ? heldReport('', heldMs) : '';
          console.info(
            `${shape}: ${operationsPerSecond.toFixed(0)}/s ${(bytesPerSecond / 1e6).toFixed(0)} MB/s p50 ${p50Ms} p99 ${p99Ms} ms ${held}`,
          );
          expect(operationsPerSecond).toBeGreaterThan(100);
        }
      }
    },
    120_000,
  );
});

/**
 * Requests the splitter serves in the call itself: a small write to hot regions, a read from the page cache. They keep every rule of the long way, or
 * are left to it.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { expect, test } from 'vitest';
import { makeCutAll } from '../../src/capture/cut.ts';
import { HotRegions } from '../../src/capture/hot-regions.ts';
import { LoosePins } from '../../src/capture/loose-pins.ts';
import { openImage } from '../../src/capture/image.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { SimulatedFiles } from '../simulated-files.ts';
import {
  blockSize,
  commitAll,
  dirty,
  hold,
  imagePath,
  logPath,
  openSim,
  peek,
  simWithImage,
  stillClock,
  turns,
} from './setup.ts';

const cutAll = makeCutAll(stillClock);
const page = (byte: number): Buffer => Buffer.alloc(4096, byte);

/** Region 0 is hot, nothing is dirty. */
async function quiet(
  more: Parameters<typeof openSim>[2] = {},
): Promise<{ files: SimulatedFiles; capture: NbdCapture }> {
  const files = simWithImage();
  const capture = await openSim(files, false, more);
  await capture.write(page(1), 0, false);
  await commitAll(capture);
  return { files, capture };
}

test('a page of a hot region is written, marked before it is issued, and counted', async () => {
  const { files, capture } = await quiet();
  const before = capture.writesAccepted;
  const marks: number[] = [];
  files.fault = (operation) => {
    if (operation === 'writeSync') marks.push(capture.currentMask(1));
    return null;
  };
  expect(capture.writeNow(page(7), blockSize + 4096)).toBe(true);
  expect(peek(files, imagePath)[blockSize + 4096]).toBe(7);
  expect([marks, capture.writesAccepted - before]).toEqual([[0b10], 1]);
  expect([...dirty(capture)]).toEqual([[1, 0b10]]);
});

test.each([
  ['a cold region', 4 * MiB, 4096],
  ['over the border into a cold region', 4 * MiB - 4096, 8192],
  ['a part of a page', 512, 512],
  ['more than a few pages', 0, 128 * 1024],
])('%s: left alone', async (_, offset, length) => {
  const { files, capture } = await quiet();
  const before = capture.writesAccepted;
  expect(capture.writeNow(Buffer.alloc(length, 7), offset)).toBe(false);
  expect([capture.writesAccepted - before, capture.currentBlocks]).toEqual([0, 0]);
  expect(peek(files, imagePath).includes(7)).toBe(false);
});

test('while a cut holds the gate nothing is written, and what comes after it is not in it', async () => {
  const { files, capture } = await quiet();
  const before = capture.writesAccepted;
  capture.holdWrites();
  expect(capture.writeNow(page(7), 0)).toBe(false);
  expect(peek(files, imagePath)[0]).toBe(1);
  expect(capture.swapInCut() - before).toBe(0);
  capture.releaseWrites();
  expect(capture.writeNow(page(7), 0)).toBe(true);
  expect(capture.currentMask(0)).toBe(1);
});

test('a page of a block the cut has not read is left alone; once it is read, or another block, it is written', async () => {
  const { capture } = await quiet();
  expect(capture.writeNow(page(2), 4096)).toBe(true);
  await cutAll([capture], 1000);
  expect(capture.writeNow(page(3), 0)).toBe(false);
  expect(capture.writeNow(page(3), blockSize)).toBe(true);
  expect(capture.writeNow(Buffer.alloc(8192, 3), blockSize - 4096)).toBe(false);
  const into = Buffer.alloc(blockSize);
  await capture.readBlocks(0, into);
  expect([into[0], into[4096]]).toEqual([1, 2]);
  expect(capture.writeNow(page(3), 0)).toBe(true);
  capture.endSending();
  expect([...dirty(capture)]).toEqual([
    [0, 1],
    [1, 1],
  ]);
});

test('an image that refuses: the writer is told, the page stays marked', async () => {
  const { files, capture } = await quiet();
  files.fault = (operation) => (operation === 'writeSync' ? { code: 'ENOSPC' } : null);
  expect(() => capture.writeNow(page(7), 0)).toThrow(expect.objectContaining({ code: 'ENOSPC' }));
  expect(capture.currentMask(0)).toBe(1);
});

test('after close everything is left to the way that refuses it', async () => {
  const files = simWithImage();
  const open = files.open.bind(files);
  files.open = async (name, mode) => Object.assign(await open(name, mode), { readCachedSync: () => true });
  const capture = await openSim(files, false);
  await capture.write(page(1), 0, false);
  expect([capture.writeNow(page(7), 0), capture.readNow(page(0), 0)]).toEqual([true, true]);
  const closing = capture.close();
  expect([capture.writeNow(page(7), 0), capture.readNow(page(0), 0)]).toEqual([false, false]);
  await closing;
});

test('a use keeps a cooling region hot, and is newer than a sync that began before it', () => {
  const hot = new HotRegions(8, 2);
  hot.claim(3, 4);
  expect(hot.tryUse(3, 3)).toBe(false);
  hot.activated();
  hot.unpin(3, 4);
  expect(hot.beginCooling(2)).toEqual([3, 4]);
  const tick = hot.tick;
  expect(hot.tryUse(4, 4)).toBe(true);
  expect(hot.newestUse([4])).toBeGreaterThan(tick);
  expect(hot.endCooling([3, 4])).toBe(1);
  expect([hot.isCold(3), hot.isCold(4), hot.pinned().get(4)]).toEqual([true, false, undefined]);
  expect(hot.tryUse(3, 4)).toBe(false);
});

test('while there is no log a use is in the record of the next one', async () => {
  const pins = new LoosePins(8, new Map());
  pins.recordAnew();
  expect(pins.use(2, 3)).toBe(true);
  expect([pins.regionsRecorded(), pins.pins.size]).toEqual([[2, 3], 0]);
  const { files, capture } = await quiet();
  files.fault = (operation, filePath) =>
    filePath.startsWith(logPath) && operation === 'write' ? { code: 'EIO' } : null;
  await capture.write(page(7), 4 * MiB, false);
  await turns();
  expect(capture.logFailure).not.toBeNull();
  expect(capture.writeNow(page(7), 8 * MiB)).toBe(true);
  expect(capture.currentMask(128)).toBe(1);
});

test('a slow image is left alone after a few calls, and tried again later', async () => {
  let nowMs = 1000;
  const { files, capture } = await quiet({ clock: { ...stillClock, monotonicMs: () => nowMs } });
  files.fault = (operation) => {
    if (operation === 'writeSync') nowMs += 30;
    return null;
  };
  expect([capture.writeNow(page(7), 0), capture.writeNow(page(8), 0)]).toEqual([true, false]);
  await capture.write(page(9), 0, false);
  expect(nowMs).toBe(1030); // By way of another thread.
  nowMs += 30 * 20;
  expect(capture.writeNow(page(7), 0)).toBe(true);
});

test('what the page cache holds is read in the call; what it does not hold, or what lies past the end, is not', async () => {
  const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-at-once-'));
  try {
    const name = path.join(directory, 'vda.raw');
    await writeFile(name, Buffer.alloc(MiB, 5));
    const image = await openImage(posixFiles, name, 'write');
    const into = Buffer.alloc(5000);
    await image.datasync();
    expect(image.readCachedSync(into.subarray(100, 4900), 777)).toBe(true);
    expect([into[99], into[100], into[4899], into[4900]]).toEqual([0, 5, 5, 0]);
    expect(image.readCachedSync(into, MiB - 100)).toBe(false);
    image.dropCacheSync(0, MiB);
    expect(image.readCachedSync(into, 512 * 1024)).toBe(false);
    await image.read(into, 512 * 1024);
    expect(image.readCachedSync(into, 512 * 1024)).toBe(true);
    await image.close();
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});

test('syncs asked for while nothing more was written are one; a write in between asks for another', async () => {
  const { files, capture } = await quiet();
  const syncs = (): number => files.counts.get('datasync') ?? 0;
  expect(capture.writeNow(page(7), 0)).toBe(true);
  const before = syncs();
  await Promise.all(Array.from({ length: 16 }, () => capture.flush()));
  expect(syncs() - before).toBe(1);
  const first = capture.flush();
  expect(capture.writeNow(page(8), 0)).toBe(true);
  const second = capture.flush();
  expect(capture.writeNow(page(9), 4096)).toBe(true);
  await first;
  await second;
  const durable = files.durable(imagePath).bytes();
  expect([durable[0], syncs() - before]).toEqual([8, 3]);
});

test('a sync under way is not shared by who wrote since it began, by whichever way', async () => {
  const { files, capture } = await quiet();
  const { promise, resolve } = Promise.withResolvers<undefined>();
  let syncs = 0;
  hold(files, promise, (operation, name) => operation === 'datasync' && name === imagePath && (syncs += 1) === 1);
  const first = capture.flush();
  await capture.write(Buffer.alloc(100, 5), 0, false);
  const second = capture.flush();
  resolve(undefined);
  await Promise.all([first, second]);
  expect([syncs, files.durable(imagePath).bytes()[0]]).toEqual([2, 5]);
});

test('a sync that fails is heard of by all who share it, and by all who come later', async () => {
  const { files, capture } = await quiet();
  files.fault = (operation, name) => (operation === 'datasync' && name === imagePath ? { code: 'EIO' } : null);
  const outcomes = await Promise.allSettled([capture.flush(), capture.flush()]);
  expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  files.fault = () => null;
  await expect(capture.flush()).rejects.toMatchObject({ code: 'EIO' });
  expect(() => capture.writeNow(page(7), 0)).toThrow(expect.objectContaining({ code: 'EIO' }));
});

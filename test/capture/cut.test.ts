/** Cuts and copy-before-write, one rule at a time; the random walk over all of it is property.test.ts. */
import { expect, test } from 'vitest';
import { makeCutAll } from '../../src/capture/cut.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import {
  blockSize,
  commitAll,
  imagePath,
  openSim,
  pageSize,
  peek,
  simWithImage,
  stillClock,
  turns,
  hold,
} from './setup.ts';
import type { File } from '../../src/posix/files.ts';
import type { Fault, Operation } from '../simulated-file.ts';
import type { SimulatedFiles } from '../simulated-files.ts';

const cutAll = makeCutAll(stillClock);

/** Holds operations of one kind on the image until released. */
function holdImage(files: SimulatedFiles, operation: Operation): () => void {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  let holds = true;
  hold(files, promise, (name, filePath) => holds && name === operation && filePath === imagePath);
  return () => {
    holds = false;
    resolve(undefined);
  };
}

async function quiet(
  more: Parameters<typeof openSim>[2] = {},
  seed = 1,
): Promise<{ files: SimulatedFiles; capture: NbdCapture }> {
  const files = simWithImage(12 * MiB, seed);
  const capture = await openSim(files, false, more);
  await commitAll(capture);
  return { files, capture };
}

const write = (capture: NbdCapture, byte: number, at: number, length = 100): Promise<void> =>
  capture.write(Buffer.alloc(length, byte), at, false);

async function readBlock(capture: NbdCapture, block: number): Promise<Buffer> {
  const into = Buffer.alloc(blockSize);
  await capture.readBlocks(block, into);
  return into;
}

test('a write in flight across a swap is marked again when it ends', async () => {
  const { files, capture } = await quiet();
  const release = holdImage(files, 'write');
  const writing = write(capture, 7, 0);
  await turns();
  expect(capture.swap()).toBe(1);
  expect((await readBlock(capture, 0))[0]).toBe(0);
  capture.endSending();
  await capture.forget();
  expect(capture.currentMask(0)).toBe(1);
  release();
  await writing;
  expect(capture.currentMask(0)).toBe(1);
});

test('a cut waits for writes in flight, holds new ones, and counts what it contains', async () => {
  const { files, capture } = await quiet();
  const release = holdImage(files, 'write');
  const before = write(capture, 1, 0);
  await turns();
  const cutting = cutAll([capture], 1000);
  const after = write(capture, 2, 0);
  await turns();
  expect(capture.currentBlocks).toBe(1);
  release();
  const report = await cutting;
  await Promise.all([before, after]);
  expect(report?.writes).toEqual([1]);
  expect(capture.writesAccepted).toBe(2);
  expect((await readBlock(capture, 0))[0]).toBe(1);
  expect(peek(files, imagePath)[0]).toBe(2);
  expect(capture.currentMask(0)).toBe(1);
});

test('writes in flight past the deadline: no cut, nothing swapped on any disk, everybody goes on', async () => {
  const one = await quiet();
  const two = await quiet();
  await write(two.capture, 1, 0);
  const release = holdImage(one.files, 'write');
  const slow = write(one.capture, 1, 0);
  await turns();
  const report = await makeCutAll(systemClock)([one.capture, two.capture], 20);
  expect(report).toBeNull();
  expect([one.capture.currentBlocks, two.capture.currentBlocks]).toEqual([1, 1]);
  await write(two.capture, 2, blockSize);
  release();
  await slow;
  const next = await cutAll([one.capture, two.capture], 1000);
  expect(next?.writes).toEqual([1, 2]);
});

test('all disks are cut at one instant', async () => {
  const [one, two] = [await quiet(), await quiet()];
  const release = holdImage(two.files, 'write');
  const slow = write(two.capture, 1, 0);
  await turns();
  const cutting = cutAll([one.capture, two.capture], 1000);
  let ended = false;
  const held = write(one.capture, 1, 0).then(() => {
    ended = true;
  });
  await turns();
  expect(ended).toBe(false);
  release();
  await Promise.all([cutting, held, slow]);
  expect([one.capture.currentBlocks, two.capture.currentBlocks]).toEqual([1, 0]);
});

test.each([
  ['in memory', 64 * MiB, 0],
  ['in the scratch file', 0, 64 * MiB],
])('old pages are kept %s, and only until their block is read', async (_, memory, scratch) => {
  const { files, capture } = await quiet({ copyBeforeWriteMemoryBytes: memory, copyBeforeWriteScratchBytes: scratch });
  await write(capture, 1, 0, 3 * blockSize);
  await cutAll([capture], 1000);
  await Promise.all([
    write(capture, 2, 10),
    write(capture, 3, 10),
    write(capture, 4, pageSize - 5),
    capture.zero(blockSize, blockSize, false, true),
  ]);
  for (const block of [0, 1, 2])
    expect((await readBlock(capture, block)).equals(Buffer.alloc(blockSize, 1))).toBe(true);
  const reads = files.counts.get('read');
  await write(capture, 5, 0);
  expect(files.counts.get('read')).toBe(reads);
  capture.endSending();
  expect(await files.list('/state')).toEqual(['vda.hrl']);
});

test('the bound of copy-before-write: the cut is void, the writer goes on, giving up brings everything back', async () => {
  const { capture } = await quiet({ copyBeforeWriteMemoryBytes: pageSize, copyBeforeWriteScratchBytes: pageSize });
  await write(capture, 1, 0, blockSize);
  await cutAll([capture], 1000);
  await write(capture, 2, 0, pageSize);
  await write(capture, 2, 4 * pageSize, pageSize);
  expect(capture.cutVoid).toBeNull();
  await write(capture, 2, 8 * pageSize, pageSize);
  expect(capture.cutVoid).toContain('bound');
  await expect(readBlock(capture, 0)).rejects.toMatchObject({ code: 'cut-void' });
  expect(() => capture.endSending()).toThrow();
  capture.giveUp();
  expect([capture.cutVoid, capture.currentMask(0)]).toEqual([null, 0xffff]);
});

test.each<[string, Operation, Fault['code'], number]>([
  ['directory is read-only', 'open', 'EROFS', 1],
  ['disk is full', 'write', 'ENOSPC', 1],
  ['disk fails half-way', 'write', 'EIO', 3],
])(
  'a scratch file whose %s: cut void with the reason, log and writers fine, the next cut works',
  async (_, bad, code, from) => {
    const { files, capture } = await quiet({ copyBeforeWriteMemoryBytes: 0 });
    await write(capture, 1, 0, 4 * blockSize);
    await cutAll([capture], 1000);
    let calls = 0;
    files.fault = (operation, filePath) =>
      operation === bad && filePath.endsWith('.scratch') && (calls += 1) >= from ? { code: code } : null;
    for (let block = 0; block < 4; block += 1) {
      expect(capture.cutVoid === null).toBe(block < from);
      await write(capture, 2, block * blockSize);
    }
    expect(capture.cutVoid).toContain(code);
    await expect(readBlock(capture, 0)).rejects.toMatchObject({ code: 'cut-void' });
    expect(capture.logFailure).toBeNull();
    files.fault = () => null;
    capture.giveUp();
    await cutAll([capture], 1000);
    await write(capture, 3, 0);
    expect((await readBlock(capture, 0))[0]).toBe(2);
    expect(capture.cutVoid).toBeNull();
    capture.endSending();
  },
);

test.each(['fails', 'ends early'])(
  'an old page whose reading back %s: the cut is void, nobody gets another page for it, the next cut works',
  async (how) => {
    const { files, capture } = await quiet({ copyBeforeWriteMemoryBytes: 0 });
    const open = files.open.bind(files);
    const scratches: File[] = [];
    files.open = async (...what) => {
      const file = await open(...what);
      if (file.path.endsWith('.scratch')) scratches.push(file);
      return file;
    };
    await write(capture, 1, 0, 2 * blockSize);
    await cutAll([capture], 1000);
    await write(capture, 2, 0, blockSize);
    expect(capture.cutVoid).toBeNull();
    if (how === 'ends early') await scratches[0]?.truncate(blockSize - 1);
    else
      files.fault = (operation, filePath) =>
        operation === 'read' && filePath.endsWith('.scratch') ? { code: 'EIO' } : null;
    await expect(readBlock(capture, 0)).rejects.toMatchObject({ code: 'cut-void' });
    expect(capture.cutVoid).toContain('an old page could not be read back');
    await expect(readBlock(capture, 1)).rejects.toMatchObject({ code: 'cut-void' });
    expect(() => capture.endSending()).toThrow();
    expect(capture.logFailure).toBeNull();
    files.fault = () => null;
    capture.giveUp();
    expect([capture.cutVoid, capture.currentMask(0), capture.currentMask(1)]).toEqual([null, 0xffff, 0xffff]);
    await cutAll([capture], 1000);
    await write(capture, 3, 0);
    expect((await readBlock(capture, 0))[0]).toBe(2);
    capture.endSending();
  },
);

test('an image error reaches the writer, and the block stays marked', async () => {
  const { files, capture } = await quiet();
  files.fault = (operation, filePath) => (operation === 'write' && filePath === imagePath ? { code: 'ENOSPC' } : null);
  await expect(write(capture, 1, 0)).rejects.toMatchObject({ code: 'ENOSPC' });
  expect(capture.currentMask(0)).toBe(1);
});

test('after close every request is refused with ESHUTDOWN, and the lock is free again', async () => {
  let released = 0;
  const { capture } = await quiet({
    lock: () => Promise.resolve({ release: () => Promise.resolve(void (released += 1)) }),
  });
  await Promise.all([capture.close(), capture.close()]);
  await expect(write(capture, 1, 0)).rejects.toMatchObject({ code: 'ESHUTDOWN' });
  await expect(capture.read(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'ESHUTDOWN' });
  expect(released).toBe(1);
});

test('a write in flight across two swaps is in the mask of every round that may see its data', async () => {
  const { files, capture } = await quiet();
  const release = holdImage(files, 'write');
  // Its data is on the disk, its end is not known yet.
  const writing = write(capture, 7, 0);
  await turns();
  capture.swap();
  await readBlock(capture, 0);
  capture.endSending();
  const other = write(capture, 9, 2 * pageSize);
  await turns();
  expect(capture.swap()).toBe(1);
  const mask = [...capture.sending()][0]?.[1] ?? 0;
  await readBlock(capture, 0);
  expect((mask | capture.currentMask(0)) & 0b101).toBe(0b101);
  capture.endSending();
  release();
  await Promise.all([writing, other]);
});

test('what the leaf file took over leaves sending range by range; what was written since stays, in memory and in the log', async () => {
  const { files, capture } = await quiet();
  await write(capture, 1, 0, 12 * MiB);
  capture.swap();
  const seen: number[] = [];
  for (const [block] of capture.sending()) {
    seen.push(block);
    if (block === 70) await write(capture, 2, 3 * blockSize);
    if (block % 64 === 63) await capture.forgetSending(block - 63, block + 1);
    if (block === 100) await capture.forgetSending(120, 126);
  }
  expect(seen).toHaveLength(12 * 16 - 6);
  expect([...capture.sending()]).toEqual([]);
  expect([capture.currentBlocks, capture.currentMask(3)]).toEqual([1, 1]);
  capture.endSending();
  await capture.close();
  const again = await openSim(files, true);
  expect([again.logLoss, again.currentBlocks, again.currentMask(3)]).toEqual([null, 1, 1]);
});

test('the image fails while it is read and written: both are told, and it goes on when the image is back', async () => {
  const { files, capture } = await quiet();
  await write(capture, 1, 0);
  capture.swap();
  files.fault = (_, filePath) => (filePath === imagePath ? { code: 'EIO' } : null);
  await expect(write(capture, 2, 4 * MiB)).rejects.toMatchObject({ code: 'EIO' });
  await expect(readBlock(capture, 0)).rejects.toThrow('EIO');
  capture.giveUp();
  expect([capture.currentMask(0), capture.currentMask(64)]).toEqual([1, 1]);
  files.fault = () => null;
  await write(capture, 3, 4 * MiB);
});

/** Capture by comparison: what the agent marks is what it has, and what may happen to a source between and during cycles. */
import { expect, test } from 'vitest';
import { makeCutAll } from '../../src/capture/cut.ts';
import { openScanCapture, type ScanCapture } from '../../src/capture/scan.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { blockSize, imagePath, openSim, overwrite, peek, simWithImage, stillClock } from './setup.ts';
import type { SimulatedFiles } from '../simulated-files.ts';

const cutAll = makeCutAll(stillClock);

async function scanned(
  more: { frozen?: boolean; bytes?: number } = {},
): Promise<{ files: SimulatedFiles; capture: ScanCapture }> {
  const files = simWithImage(more.bytes ?? 12 * MiB);
  const capture = await openScanCapture({
    files,
    image: imagePath,
    name: 'vda',
    blockSize,
    frozen: more.frozen ?? false,
  });
  return { files, capture };
}

async function readBlock(capture: ScanCapture, block: number): Promise<Buffer> {
  const into = Buffer.alloc(blockSize, 0xee);
  await capture.readBlocks(block, into);
  return into;
}

const masks = (capture: ScanCapture): (readonly [number, number])[] => [...capture.sending()];

test('nothing is dirty but what was marked; it goes through the three sets as in any capture', async () => {
  const { capture } = await scanned();
  expect([capture.currentBlocks, capture.logLoss, capture.tracking]).toEqual([0, null, 'scan']);
  await capture.beginCycle();
  capture.mark(3, 0b11);
  capture.mark(70, 0xffff);
  expect(capture.swap()).toBe(2);
  expect(masks(capture)).toEqual([
    [3, 0b11],
    [70, 0xffff],
  ]);
  capture.endSending();
  capture.mark(5, 1);
  expect(capture.uncommittedBytes).toBe((2 + 16 + 1) * 4096);
  capture.giveUp();
  expect([capture.currentBlocks, capture.currentMask(3)]).toEqual([3, 0b11]);
  capture.swap();
  await capture.forgetSending(4, 71);
  expect(masks(capture)).toEqual([[3, 0b11]]);
  capture.endSending();
  await capture.forget();
  expect([capture.currentBlocks, capture.uncommittedBytes]).toEqual([0, 0]);
  capture.markAll();
  expect(capture.currentBlocks).toBe(capture.geometry.blockCount);
  await capture.close();
});

test('what a cut claims is what the operator declared', async () => {
  expect((await scanned()).capture.consistency).toBe('none');
  expect((await scanned({ frozen: true })).capture.consistency).toBe('crash');
  expect((await openSim(simWithImage(), false)).consistency).toBe('crash');
});

test('one cut takes scanned and split disks together; the scanned one holds nobody', async () => {
  const { capture } = await scanned();
  const split = await openSim(simWithImage(), false);
  capture.mark(1, 1);
  const report = await cutAll([capture, split], 1000);
  expect(report?.writes).toEqual([0, 0]);
  expect(masks(capture)).toEqual([[1, 1]]);
  capture.endSending();
});

test('a source declared frozen that is written to voids the cut; the next cycle makes one', async () => {
  const { files, capture } = await scanned({ frozen: true });
  await capture.beginCycle();
  capture.mark(0, 0xffff);
  await cutAll([capture], 1000);
  expect(capture.cutVoid).toBeNull();
  overwrite(files, imagePath, Buffer.alloc(12 * MiB, 5));
  expect(capture.cutVoid).toContain('declared frozen');
  await expect(readBlock(capture, 0)).rejects.toMatchObject({ code: 'cut-void' });
  expect(() => capture.endSending()).toThrow('declared frozen');
  capture.giveUp();
  expect([capture.cutVoid, capture.currentMask(0)]).toEqual([null, 0xffff]);
  expect(await capture.beginCycle()).toBe('same');
  await cutAll([capture], 1000);
  expect((await readBlock(capture, 0)).equals(Buffer.alloc(blockSize, 5))).toBe(true);
  capture.endSending();
});

test('a source written to between compare and cut voids the cut too, and one that is not declared frozen goes on', async () => {
  for (const frozen of [true, false]) {
    const { files, capture } = await scanned({ frozen });
    await capture.beginCycle();
    overwrite(files, imagePath, Buffer.alloc(12 * MiB, 5));
    capture.mark(0, 1);
    await cutAll([capture], 1000);
    expect(capture.cutVoid === null).toBe(!frozen);
  }
});

test('the next snapshot is another file of the same name: the cycle reads that one, the cycle before the one it began with', async () => {
  const { files, capture } = await scanned();
  const first = capture.source?.inode;
  await files.remove(imagePath);
  overwrite(files, imagePath, Buffer.alloc(12 * MiB, 9));
  expect((await readBlock(capture, 0))[0]).toBe(0);
  expect(await capture.beginCycle()).toBe('same');
  expect((await readBlock(capture, 0))[0]).toBe(9);
  expect(capture.source?.inode).not.toBe(first);
});

test('a source that grew: the old last block and all new ones are marked, marks stay', async () => {
  const { files, capture } = await scanned({ bytes: 4 * MiB + 512 });
  capture.mark(2, 0b1);
  overwrite(files, imagePath, Buffer.alloc(4 * MiB + 3 * blockSize));
  expect(await capture.beginCycle()).toBe('grown');
  expect(capture.geometry).toMatchObject({ size: 4 * MiB + 3 * blockSize, blockCount: 67 });
  capture.swap();
  expect(masks(capture)).toEqual([
    [2, 1],
    [64, 0xffff],
    [65, 0xffff],
    [66, 0xffff],
  ]);
});

test.each<[string, string, boolean, (files: SimulatedFiles) => Promise<void> | void]>([
  ['smaller', 'shrunk', false, (files: SimulatedFiles) => overwrite(files, imagePath, Buffer.alloc(4 * MiB))],
  ['gone', 'not-found', true, (files: SimulatedFiles) => files.remove(imagePath)],
  [
    'of an odd size',
    'bad-geometry',
    false,
    (files: SimulatedFiles) => overwrite(files, imagePath, Buffer.alloc(12 * MiB + 1)),
  ],
  [
    'unreadable',
    'bad-image',
    true,
    (files: SimulatedFiles) => void (files.fault = (name) => (name === 'open' ? { code: 'EACCES' } : null)),
  ],
])('a source that is %s: %s, nothing changed, and the next cycle goes on when it is back', async (...story) => {
  const [, code, retryable, happen] = story;
  const { files, capture } = await scanned();
  const before = peek(files, imagePath);
  capture.mark(7, 1);
  await happen(files);
  await expect(capture.beginCycle()).rejects.toMatchObject({ code, retryable });
  expect([capture.geometry.size, capture.currentMask(7)]).toEqual([12 * MiB, 1]);
  files.fault = () => null;
  overwrite(files, imagePath, before);
  expect(await capture.beginCycle()).toBe('same');
  expect(capture.currentMask(7)).toBe(1);
});

test('a source cut short while it is read: the read says so and the set stays', async () => {
  const { files, capture } = await scanned();
  capture.mark(100, 1);
  capture.swap();
  overwrite(files, imagePath, Buffer.alloc(4 * MiB));
  await expect(readBlock(capture, 100)).rejects.toMatchObject({ code: 'EIO' });
  capture.giveUp();
  expect(capture.currentMask(100)).toBe(1);
});

test('a short last block is padded with zeros; nothing is ever written, and no file made', async () => {
  const { files, capture } = await scanned({ bytes: 2 * blockSize + 512 });
  const before = peek(files, imagePath);
  capture.markAll();
  await cutAll([capture], 1000);
  expect((await readBlock(capture, 2)).equals(Buffer.alloc(blockSize))).toBe(true);
  capture.endSending();
  await capture.forget();
  await capture.close();
  expect(peek(files, imagePath).equals(before)).toBe(true);
  expect(await files.list('/state')).toEqual([]);
  for (const name of ['write', 'create', 'datasync', 'makeDirectory', 'rename'] as const)
    expect(files.counts.get(name)).toBeUndefined();
});

test('after close everything is refused with ESHUTDOWN', async () => {
  const { capture } = await scanned();
  await Promise.all([capture.close(), capture.close()]);
  await expect(capture.beginCycle()).rejects.toMatchObject({ code: 'ESHUTDOWN' });
  await expect(readBlock(capture, 0)).rejects.toMatchObject({ code: 'ESHUTDOWN' });
  expect(capture.canCut).toBe(false);
});

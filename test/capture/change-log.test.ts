/** Every way a change log can be found, by name; and what the log costs and does while it works. */
import { expect, test } from 'vitest';
import { digest } from '../../src/kernels/hash.ts';
import { HotRegions } from '../../src/capture/hot-regions.ts';
import { MiB } from '../../src/kit/sizes.ts';
import {
  commitAll,
  dirty,
  imagePath,
  kill,
  logPath,
  losePower,
  openSim,
  overwrite,
  peek,
  simWithImage,
  turns,
  hold,
} from './setup.ts';
import type { SimulatedFiles } from '../simulated-files.ts';

const chunksAt = 24_576;
const chunkBytes = 512;
const regions = 3;

/** A log after a clean stop with two dirty pages, in region 1. */
async function cleanLog(): Promise<SimulatedFiles> {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await commitAll(capture);
  await capture.write(Buffer.alloc(2, 1), 4 * MiB + 4095, false);
  await capture.close();
  return files;
}

/** A log whose agent was killed with region 1 hot and nothing else dirty. */
async function killedLog(): Promise<SimulatedFiles> {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await commitAll(capture);
  await capture.write(Buffer.alloc(2, 1), 4 * MiB + 4095, true);
  return kill(files);
}

function edit(files: SimulatedFiles, change: (bytes: Buffer) => Buffer | undefined): void {
  const bytes = peek(files, logPath);
  overwrite(files, logPath, change(bytes) ?? bytes);
}

function flip(...at: number[]): (bytes: Buffer) => undefined {
  return (bytes) => {
    for (const index of at) bytes[index] = (bytes[index] ?? 0) ^ 0x40;
  };
}

async function found(
  files: SimulatedFiles,
  more: Parameters<typeof openSim>[2] = {},
): Promise<{ loss: string | null; blocks: number }> {
  const capture = await openSim(files, true, more);
  return { loss: capture.logLoss, blocks: capture.currentBlocks };
}

const all = 12 * 16;

test('a clean stop is continued with exactly what was dirty', async () => {
  const capture = await openSim(await cleanLog(), true);
  expect(capture.logLoss).toBeNull();
  expect([...dirty(capture)]).toEqual([[64, 0b11]]);
});

test('after a kill all blocks of hot regions count, and no others', async () => {
  expect(await found(await killedLog())).toEqual({ loss: null, blocks: 64 });
});

test('a second start after a kill continues too', async () => {
  const files = await killedLog();
  await openSim(files, true);
  expect(await found(kill(files))).toEqual({ loss: null, blocks: 64 });
});

test('no file, never one known: new', async () => {
  const capture = await openSim(simWithImage(), false);
  expect([capture.logLoss, capture.currentBlocks]).toEqual(['new', all]);
});

test('no file though one existed: lost', async () => {
  const files = await cleanLog();
  await files.remove(logPath);
  expect(await found(files)).toEqual({ loss: 'lost', blocks: all });
});

test.each([
  ['cut off in the chunks', (bytes: Buffer) => bytes.subarray(0, chunksAt + chunkBytes)],
  ['cut off in the header', (bytes: Buffer) => bytes.subarray(0, 100)],
  ['empty', () => Buffer.alloc(0)],
  ['all zeros', (bytes: Buffer) => Buffer.alloc(bytes.byteLength)],
  ['both headers flipped', flip(200, 4096 + 200)],
  ['both activity slots gone', (bytes: Buffer) => (bytes.fill(0, 8192, chunksAt), undefined)],
  ['a chunk flipped', flip(chunksAt + 17)],
  ['a chunk zeroed', (bytes: Buffer) => (bytes.fill(0, chunksAt, chunksAt + chunkBytes), undefined)],
  [
    "another region's chunk",
    (bytes: Buffer) => (bytes.copyWithin(chunksAt, chunksAt + chunkBytes, chunksAt + 2 * chunkBytes), undefined),
  ],
])('%s: damaged, kept aside', async (_, damage) => {
  const files = await cleanLog();
  edit(files, damage);
  const planted = peek(files, logPath);
  expect(await found(files)).toEqual({ loss: 'damaged', blocks: all });
  expect(peek(files, `${logPath}.damaged`).equals(planted)).toBe(true);
});

test('one header slot flipped: the other counts, nothing is missed', async () => {
  for (const at of [200, 4096 + 200]) {
    const files = await cleanLog();
    edit(files, flip(at));
    const { loss, blocks } = await found(files);
    expect(loss === null ? blocks : all).toBeGreaterThanOrEqual(1);
    expect([null, 'changed-behind']).toContain(loss);
  }
});

test('a rotten sector in the newest activity slot does not bring the older one back', async () => {
  for (const at of [8192 + 64, 16_384 + 64, 8192 + 4096 + 64, 16_384 + 4096 + 64]) {
    const files = await killedLog();
    edit(files, flip(at));
    expect(await found(files)).toEqual({ loss: null, blocks: 64 });
  }
});

test('a torn chunk of a hot region is excused, of a cold one it is not', async () => {
  const hot = await killedLog();
  edit(hot, flip(chunksAt + chunkBytes + 20));
  expect(await found(hot)).toEqual({ loss: null, blocks: 64 });
  const cold = await killedLog();
  edit(cold, flip(chunksAt + 2 * chunkBytes + 20));
  expect((await found(cold)).loss).toBe('damaged');
});

test("another disk's log: foreign, kept aside", async () => {
  const files = await cleanLog();
  const theirs = peek(files, logPath);
  expect(await found(files, { owner: 'web2/vda' })).toEqual({ loss: 'foreign', blocks: all });
  expect(peek(files, `${logPath}.foreign`).equals(theirs)).toBe(true);
});

test('the image written behind a clean stop: changed-behind', async () => {
  const files = await cleanLog();
  overwrite(files, imagePath, peek(files, imagePath));
  expect(await found(files)).toEqual({ loss: 'changed-behind', blocks: all });
});

test('the image replaced by another file, even after a kill: changed-behind', async () => {
  const files = await killedLog();
  const bytes = peek(files, imagePath);
  await files.remove(imagePath);
  overwrite(files, imagePath, bytes);
  expect(await found(files)).toEqual({ loss: 'changed-behind', blocks: all });
});

test('the image grew: grown, all marked, the new size counts', async () => {
  const files = await cleanLog();
  overwrite(files, imagePath, Buffer.concat([peek(files, imagePath), Buffer.alloc(65_536)]));
  expect(await found(files)).toEqual({ loss: 'grown', blocks: all + 1 });
  expect((await found(kill(files))).loss).toBeNull();
});

test('the image shrank: refused as shrunk, the log untouched', async () => {
  const files = await cleanLog();
  const before = peek(files, logPath);
  overwrite(files, imagePath, peek(files, imagePath).subarray(0, 4 * MiB));
  await expect(openSim(files, true)).rejects.toMatchObject({ code: 'shrunk' });
  expect(peek(files, logPath).equals(before)).toBe(true);
});

test('another format version: refused, the log untouched', async () => {
  const files = await cleanLog();
  edit(files, (bytes) => {
    for (const at of [0, 4096]) {
      bytes.writeUInt16LE(2, at + 4);
      bytes.set(digest(bytes.subarray(at, at + 4064)), at + 4064);
    }
    return bytes;
  });
  const before = peek(files, logPath);
  await expect(openSim(files, true)).rejects.toMatchObject({ code: 'wrong-version' });
  expect(peek(files, logPath).equals(before)).toBe(true);
});

test('another block size: refused with the one that fits', async () => {
  await expect(openSim(await cleanLog(), true, { blockSize: 131_072 })).rejects.toMatchObject({ code: 'bad-geometry' });
});

test('images that can not be: missing, odd size, odd block size', async () => {
  const files = simWithImage();
  await expect(openSim(files, false, { image: '/images/none.raw' })).rejects.toMatchObject({ code: 'not-found' });
  await expect(openSim(files, false, { blockSize: 60_000 })).rejects.toMatchObject({ code: 'bad-geometry' });
  overwrite(files, imagePath, Buffer.alloc(1000));
  await expect(openSim(files, false)).rejects.toMatchObject({ code: 'bad-geometry' });
});

test('activations that come together share syncs; hot regions cost none', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await commitAll(capture);
  const syncs = (): number => files.counts.get('datasync') ?? 0;
  const before = syncs();
  await Promise.all([0, 1, 2].map((region) => capture.write(Buffer.alloc(512, 1), region * 4 * MiB, false)));
  expect(syncs() - before).toBe(1);
  for (let index = 0; index < 50; index += 1) await capture.write(Buffer.alloc(512, 1), index * 9000, false);
  expect(syncs() - before).toBe(1);
});

test('data is not issued before its region is durably hot', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await commitAll(capture);
  let release = (): void => undefined;
  const blocked = new Promise<void>((resolve) => {
    release = resolve;
  });
  hold(files, blocked, (operation, filePath) => operation === 'datasync' && filePath.startsWith(logPath));
  const write = capture.write(Buffer.alloc(512, 9), 0, false);
  await turns();
  expect(peek(files, imagePath)[0]).toBe(0);
  release();
  await write;
  expect(peek(files, imagePath)[0]).toBe(9);
});

test('the order in which a region leaves the set: image, chunk, then the slot without it, then the next data', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false, { hotRegionsMax: 1 });
  await commitAll(capture);
  const trace: string[] = [];
  files.fault = (operation, filePath) => {
    if (operation === 'write' || operation === 'datasync')
      trace.push(`${operation} ${filePath === imagePath ? 'image' : 'log'}`);
    return null;
  };
  await capture.write(Buffer.alloc(512, 9), 0, false);
  await turns();
  await capture.write(Buffer.alloc(512, 9), 4 * MiB, false);
  const activation = ['write log', 'datasync log', 'write image'];
  const cooling = ['datasync image', 'write log', 'datasync log'];
  expect(trace).toEqual([...activation, ...cooling, ...activation]);
});

test('opening syncs the image, so that what a killed agent left in the page cache is not committed and then lost', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await capture.write(Buffer.alloc(512, 9), 0, false);
  const after = kill(files);
  expect(after.durable(imagePath).bytes()[0]).toBe(0);
  await openSim(after, true);
  expect(after.durable(imagePath).bytes()[0]).toBe(9);
});

test('power lost while chunks of cold regions are rewritten: torn ones are excused', async () => {
  let caught = 0;
  for (let seed = 1; seed <= 20; seed += 1) {
    const files = simWithImage(12 * MiB, seed);
    const capture = await openSim(files, false);
    files.turnsMax = 3;
    capture.swap();
    capture.endSending();
    void capture.forget();
    const unsynced = (): number[] => files.content(logPath).differences(files.durable(logPath));
    const rewriting = (): boolean => unsynced().some((page) => page * 4096 >= chunksAt);
    for (let turn = 0; turn < 500 && !rewriting(); turn += 1) await turns(1);
    if (rewriting()) caught += 1;
    expect((await found(losePower(files))).loss).toBeNull();
  }
  expect(caught).toBeGreaterThan(5);
});

test('a region cools only after the image was synced behind it: power loss can not take back what was forgotten', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false, { hotRegionsMax: 1 });
  await commitAll(capture);
  await capture.write(Buffer.alloc(512, 9), 0, false);
  await commitAll(capture);
  await capture.write(Buffer.alloc(512, 9), 4 * MiB, false);
  await turns();
  expect(files.durable(imagePath).bytes()[0]).toBe(9);
});

test('forgotten changes do not come back after a kill, though their regions are cold', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await commitAll(capture);
  expect(await found(kill(files))).toEqual({ loss: null, blocks: 0 });
});

test('a mark by the target outlives a kill', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await commitAll(capture);
  capture.mark(70, 0xffff);
  await turns();
  expect([...dirty(await openSim(kill(files), true))]).toEqual([[70, 0xffff]]);
});

test('a log that can not be written is disowned: writers go on, a kill means lost, a stop in order leaves a true log', async () => {
  for (const orderly of [false, true]) {
    const files = simWithImage();
    const capture = await openSim(files, false);
    await commitAll(capture);
    files.fault = (operation, filePath) =>
      operation === 'write' && filePath.startsWith(logPath) ? { code: 'ENOSPC' } : null;
    await capture.write(Buffer.alloc(512, 9), 4 * MiB, false);
    await capture.write(Buffer.alloc(512, 9), 8 * MiB, false);
    expect(capture.logFailure).toContain('ENOSPC');
    files.fault = () => null;
    if (orderly) await capture.close();
    expect(await found(orderly ? files : kill(files))).toEqual(
      orderly ? { loss: null, blocks: 2 } : { loss: 'lost', blocks: all },
    );
  }
});

test('a log that can neither be written, removed nor emptied: better no write than a log that lies', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false);
  await commitAll(capture);
  files.fault = (operation, filePath) =>
    filePath.startsWith('/state') && operation !== 'read' ? { code: 'EROFS' } : null;
  await expect(capture.write(Buffer.alloc(512, 9), 4 * MiB, false)).rejects.toMatchObject({ code: 'EIO' });
  expect(peek(files, imagePath)[4 * MiB]).toBe(0);
});

test('a state directory that is read-only at start: refused, nothing changed; later the log is continued', async () => {
  const files = await cleanLog();
  const [log, image] = [peek(files, logPath), peek(files, imagePath)];
  const writes = new Set(['write', 'rename', 'remove', 'makeDirectory', 'truncate', 'create']);
  files.fault = (operation, filePath) =>
    writes.has(operation) && filePath.startsWith('/state') ? { code: 'EROFS' } : null;
  await expect(openSim(files, true)).rejects.toThrow('EROFS');
  expect([peek(files, logPath).equals(log), peek(files, imagePath).equals(image)]).toEqual([true, true]);
  files.fault = () => null;
  expect(await found(files)).toEqual({ loss: null, blocks: 1 });
});

test('one header slot of another version that checks: refused, the log untouched', async () => {
  const files = await cleanLog();
  edit(files, (bytes) => {
    bytes.writeUInt16LE(2, 4);
    bytes.set(digest(bytes.subarray(0, 4064)), 4064);
    return bytes;
  });
  await expect(openSim(files, true)).rejects.toMatchObject({ code: 'wrong-version' });
});

test('more regions under pinned writes than slots: all writers end, in order of arrival', async () => {
  const files = simWithImage();
  const capture = await openSim(files, false, { hotRegionsMax: 1 });
  files.turnsMax = 3;
  await Promise.all(
    Array.from({ length: 60 }, (_, index) =>
      capture.write(Buffer.alloc(512, 1), (index % regions) * 4 * MiB, index % 9 === 0),
    ),
  );
  await capture.zero(0, 12 * MiB, false, true);
  files.turnsMax = 0;
  await capture.close();
});

test('a pin on a cooling region keeps it; a pinned one does not start to cool', () => {
  const hot = new HotRegions(8, 2);
  expect(hot.claim(3, 4)).toBe('activating');
  expect(hot.tryPin(3, 3)).toBe(false);
  hot.activated();
  expect(hot.beginCooling(2)).toEqual([]);
  hot.unpin(3, 4);
  expect(hot.claim(5, 5)).toBe('no-room');
  expect(hot.beginCooling(2)).toEqual([3, 4]);
  expect(hot.tryPin(4, 4)).toBe(true);
  expect(hot.endCooling([3, 4])).toBe(1);
  expect([hot.isCold(3), hot.isCold(4), hot.used]).toEqual([true, false, 1]);
});

test('random writes over eight times more regions than slots: log and image are synced by the batch, not by the write', async () => {
  const [slots, over, inFlight, writes] = [16, 128, 16, 2000];
  const files = simWithImage(over * 4 * MiB);
  const capture = await openSim(files, false, { hotRegionsMax: slots });
  await commitAll(capture);
  const syncs = { log: 0, image: 0 };
  files.watch = (operation, filePath) => {
    if (operation === 'datasync') syncs[filePath === imagePath ? 'image' : 'log'] += 1;
  };
  const writer = async (): Promise<void> => {
    for (let each = 0; each < writes / inFlight; each += 1)
      await capture.write(Buffer.alloc(512, 1), files.dice.below(over) * 4 * MiB, false);
  };
  await Promise.all(Array.from({ length: inFlight }, writer));
  console.info(`${writes} writes: ${syncs.log} syncs of the log, ${syncs.image} of the image`);
  expect([syncs.log < 1600, syncs.image < 250, syncs.image > 50]).toEqual([true, true, true]);
});

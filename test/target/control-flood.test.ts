/** A peer that sends control frames faster than the disk makes them durable. */
import { afterEach, expect, test } from 'vitest';
import { limits } from '../../src/limits.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { frameHeaderBytes, frameType } from '../../src/wire/frame.ts';
import { blockSize, TargetSite } from './peer.ts';

const sites: TargetSite[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

/** Files whose syncs wait while `gate` is there. */
function slowFiles(gate: { until: Promise<unknown> | null }): Files {
  return {
    ...posixFiles,
    open: async (path, mode, permissions) => {
      const file = await posixFiles.open(path, mode, permissions);
      const datasync = file.datasync.bind(file);
      file.datasync = async () => {
        await gate.until;
        await datasync();
      };
      return file;
    },
  };
}

test('memory is taken for a frame only as far as it may be sealed bytes that were granted, or control', async () => {
  const gate: { until: Promise<unknown> | null } = { until: null };
  const site = await TargetSite.start({ files: slowFiles(gate) });
  sites.push(site);
  const { peer, disk } = await site.session();
  const { sessionWindowBytes } = limits.target;
  expect(peer.far.bytesMax()).toBe(sessionWindowBytes + frameHeaderBytes);
  const layer = peer.cycle(disk);
  const { promise, resolve } = Promise.withResolvers<undefined>();
  gate.until = promise;
  peer.sealed(disk, layer, 1);
  try {
    await expect.poll(() => peer.far.bytesMax()).toBeLessThan(sessionWindowBytes + frameHeaderBytes);
  } finally {
    resolve(undefined);
  }
  await peer.next(frameType.durable);
  expect(peer.far.bytesMax()).toBe(sessionWindowBytes + frameHeaderBytes);
});

test('batches that wait for a sync are not read without bound, however small they are', async () => {
  const gate: { until: Promise<unknown> | null } = { until: null };
  const site = await TargetSite.start({ files: slowFiles(gate) });
  sites.push(site);
  const frames = 2500;
  const { peer, disk } = await site.session('m1', null, { size: frames * blockSize });
  const layer = peer.cycle(disk);
  peer.sealed(disk, layer, 0);
  await peer.next(frameType.durable);
  const { promise, resolve } = Promise.withResolvers<undefined>();
  gate.until = promise;
  for (let each = 1; each < frames; each += 1) peer.sealed(disk, layer, each, each, 7);
  const { controlQueueBytesMax, queuedFrameBytes } = limits.target;
  try {
    await expect.poll(() => peer.far.paused).toBe(true);
    await new Promise((turn) => setTimeout(turn, 50));
    expect(site.target.counters.recordsIn).toBeLessThanOrEqual(controlQueueBytesMax / queuedFrameBytes + 1);
  } finally {
    resolve(undefined);
    gate.until = null;
  }
  await expect.poll(() => site.target.counters.batchesDurable, { timeout: 10_000 }).toBe(frames);
  expect(peer.far.paused).toBe(false);
}, 15_000);

test('incident 15: CYCLE frames that wait for a sync are not read without bound', async () => {
  const gate: { until: Promise<unknown> | null } = { until: null };
  const site = await TargetSite.start({ files: slowFiles(gate) });
  sites.push(site);
  const { peer, disk } = await site.session();
  const { promise, resolve } = Promise.withResolvers<undefined>();
  gate.until = promise;
  const frames = 2500;
  let last = 0;
  for (let each = 0; each < frames; each += 1) last = peer.cycle(disk);
  const before = peer.far.bytesIn;
  while (!peer.far.paused) await new Promise((turn) => setImmediate(turn));
  await new Promise((turn) => setTimeout(turn, 50));
  expect(peer.far.bytesIn - before).toBeLessThan(limits.target.controlQueueBytesMax);
  resolve(undefined);
  gate.until = null;
  // All of them were taken in the end: the last one takes a batch.
  peer.sealed(disk, last, 1);
  await peer.next(frameType.durable);
  expect(peer.far.paused).toBe(false);
}, 15_000);

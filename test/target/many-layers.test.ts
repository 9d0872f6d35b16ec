/** Very many layers without a point: cycles that begin, are cut off, and begin again. */
import { afterEach, expect, test } from 'vitest';
import type { LayerRun } from '../../src/kernels/layer-run.ts';
import { limits } from '../../src/limits.ts';
import { decodeErrorMessage } from '../../src/wire/error.ts';
import { frameHeaderBytes, frameType } from '../../src/wire/frame.ts';
import { decodeOpened, encodeOpened } from '../../src/wire/opened.ts';
import { decodePointMessage, encodePointMessage } from '../../src/wire/point.ts';
import { decodeRejected } from '../../src/wire/rejected.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { runOf } from '../layers.ts';
import { TargetSite, type OpenedDisk, type Peer } from './peer.ts';

let site: TargetSite | undefined;
afterEach(async () => {
  await site?.remove();
  site = undefined;
});

const rootNow = (of: TargetSite): string =>
  Buffer.from(of.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex');

/** A layer of one batch, durable when it resolves; answers its seq. */
async function layer(peer: Peer, disk: OpenedDisk, block: number): Promise<number> {
  const seq = peer.cycle(disk);
  peer.sealed(disk, seq, block);
  await peer.next(frameType.durable);
  return seq;
}

test('incident 8: layers that hold nothing count for nothing, not after a restart either', async () => {
  site = await TargetSite.start();
  const seqs: number[] = [];
  for (const run of [1, 2]) {
    const { peer, disk } = await site.session();
    for (let each = 0; each < 24; each += 1) peer.cycle(disk);
    seqs.push(await layer(peer, disk, run));
    expect(site.store().disks[0]?.pending).toEqual(runOf(seqs));
    site = await site.restarted();
  }
  const { peer, disk } = await site.session();
  expect(disk.opened.layers).toEqual(runOf(seqs));
  peer.point(rootNow(site), seqs);
  await peer.next(frameType.committed);
});

test('there is no number of layers without a point at which the target takes no more', async () => {
  site = await TargetSite.start();
  const seqs: number[] = [];
  for (const epoch of [1, 3]) {
    const { peer, disk } = await site.session();
    expect(disk.opened.epoch).toBe(epoch);
    expect(disk.opened.layers).toEqual(runOf(seqs));
    for (let each = 0; each < 200; each += 1) seqs.push(await layer(peer, disk, each % 60));
    // Another process server comes in between.
    await site.store().acquireEpoch('bb');
    site = await site.restarted();
  }
  const { peer, disk } = await site.session();
  expect(disk.opened.layers).toMatchObject({ first: seqOf(1, 1), last: seqOf(3, 200), count: 400 });
  seqs.push(await layer(peer, disk, 3));
  peer.point(rootNow(site), seqs);
  await peer.next(frameType.committed);
  expect(site.store().points.lastPoint?.disks[0]?.layers).toEqual(runOf(seqs));
  expect(site.store().disks[0]?.pending).toBeNull();
});

test('a layer that a point lists takes nothing more', async () => {
  site = await TargetSite.start();
  const { peer, disk } = await site.session();
  const seq = await layer(peer, disk, 1);
  peer.point(rootNow(site), [seq]);
  await peer.next(frameType.committed);
  peer.sealed(disk, seq, 2, 1);
  const told = decodeErrorMessage((await peer.next(frameType.error, frameType.durable)).body);
  expect(told).toMatchObject({ code: 'protocol-error', message: expect.stringMatching(/is not open/) as string });
});

test('a POINT of one layer too few, too many, or of another in its place is rejected, and changes nothing', async () => {
  site = await TargetSite.start();
  const { peer, disk } = await site.session();
  const seqs: number[] = [];
  for (let each = 0; each < 3; each += 1) {
    seqs.push(await layer(peer, disk, each));
    // A counter that another disk of the machine, or nobody, had.
    peer.cycle(disk);
  }
  const [first = 0, second = 0, third = 0] = seqs;
  const run = runOf(seqs);
  const wrong: readonly [string, Iterable<number> | LayerRun | null][] = [
    ['layer-incomplete', null],
    ['layer-incomplete', [first, third]],
    ['layer-incomplete', [second, third]],
    ['layer-unknown', [first, second, second + 1, third]],
    ['layer-unknown', [first, second + 1, third]],
    ['layer-unknown', run && { ...run, chain: '00'.repeat(32) }],
  ];
  for (const [reason, layers] of wrong) {
    peer.point(rootNow(site), layers);
    const rejected = decodeRejected((await peer.next(frameType.committed, frameType.rejected)).body);
    expect(rejected).toMatchObject({ reason, disk: 0, retryable: true });
    expect(rejected.detail).toMatch(/durable here are 3 layers/);
  }
  expect(site.store().points.points).toEqual([]);
  peer.point(rootNow(site), seqs);
  await peer.next(frameType.committed);
});

test('POINT and OPENED are of the same size however many layers they name, and fit into a control frame', () => {
  const most = Number.MAX_SAFE_INTEGER;
  const { perMachineMax } = limits.disk;
  // Of all disks in turn, from epoch to epoch, up to the largest seq there is.
  const layersOf = (disk: number, layers: number): LayerRun | null =>
    runOf(Array.from({ length: layers }, (_, at) => most - (layers - at) * 2 ** 32 + disk));
  const each = { size: most, root: 'ff'.repeat(32), kind: 'initial', records: most, payloadBytes: most } as const;
  const pointOf = (layers: number): Uint8Array => {
    const disks = Array.from({ length: perMachineMax }, (_, disk) => disk);
    return encodePointMessage({
      cutTimeMs: most,
      consistency: 'app',
      evidence: '\u0001'.repeat(1024),
      disks: disks.map((disk) => ({ disk, ...each, layers: layersOf(disk, layers), writes: most })),
    }).subarray(frameHeaderBytes);
  };
  const point = pointOf(4000);
  expect(point.byteLength).toBeLessThanOrEqual(limits.wire.controlBytesMax);
  expect(point.byteLength - pointOf(1).byteLength).toBeLessThan(perMachineMax * 40);
  const decoded = decodePointMessage(point).disks;
  expect(decoded).toHaveLength(perMachineMax);
  expect(decoded[63]?.layers).toEqual(layersOf(63, 4000));
  const opened = encodeOpened({
    disk: 63,
    diskId: 'ff'.repeat(16),
    epoch: 2 ** 21 - 1,
    nextCounter: 2 ** 32 - 1,
    committed: { point: most, cutTimeMs: most, size: most, root: 'ff'.repeat(32) },
    layers: layersOf(63, 4000),
    leaves: 'compare',
    leafKey: 'ff'.repeat(32),
    diskKey: 'ff'.repeat(32),
    keyVersion: 65_535,
  }).subarray(frameHeaderBytes);
  expect(opened.byteLength).toBeLessThan(1024);
  expect(decodeOpened(opened).layers?.count).toBe(4000);
});

/** Very many layers without a point: cycles that begin, are cut off, and begin again. */
import { afterEach, expect, test, vi } from 'vitest';
import type * as real from '../../src/limits.ts';
import { limits as all } from '../../src/limits.ts';
import { decodeErrorMessage } from '../../src/wire/error.ts';
import { frameHeaderBytes, frameType } from '../../src/wire/frame.ts';
import { decodeOpened, encodeOpened } from '../../src/wire/opened.ts';
import { decodePointMessage, encodePointMessage } from '../../src/wire/point.ts';
import { TargetSite } from './peer.ts';

const limit = vi.hoisted(() => ({ layers: 8 }));

vi.mock('../../src/limits.ts', async (load) => {
  const { limits, ...rest } = await load<typeof real>();
  return { ...rest, limits: { ...limits, wire: { ...limits.wire, layersPendingMax: limit.layers } } };
});

let site: TargetSite | undefined;
afterEach(async () => {
  await site?.remove();
  site = undefined;
});

test('incident 8: layers that hold nothing never wedge a machine, not after a restart either', async () => {
  site = await TargetSite.start();
  for (const run of [1, 2]) {
    const { peer, disk } = await site.session();
    for (let each = 0; each < limit.layers * 3; each += 1) peer.cycle(disk);
    const seq = peer.cycle(disk);
    peer.sealed(disk, seq, run);
    await peer.next(frameType.durable);
    expect(site.store().disks[0]?.pendingLayers()).toHaveLength(run);
    site = await site.restarted();
  }
  const { peer, disk } = await site.session();
  const layers = disk.opened.layers.map((layer) => layer.seq);
  expect(layers).toHaveLength(2);
  peer.point(Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex'), layers);
  await peer.next(frameType.committed);
});

test('incident 8: too many layers without a point is a refusal that tells to come back, not the end', async () => {
  site = await TargetSite.start();
  const { peer, disk } = await site.session();
  for (let each = 0; each < limit.layers; each += 1) {
    peer.sealed(disk, peer.cycle(disk), each);
    await peer.next(frameType.durable);
  }
  peer.cycle(disk);
  const told = decodeErrorMessage((await peer.next(frameType.error)).body);
  expect(told).toMatchObject({ code: 'overloaded', retryable: true });
  expect(told.message).toMatch(/vda has 8 layers that no point lists yet/);
  // The point over them is what helps.
  const { peer: again, disk: known } = await site.session();
  const layers = known.opened.layers.map((layer) => layer.seq);
  again.point(Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex'), layers);
  await again.next(frameType.committed);
  again.sealed(known, again.cycle(known), 60);
  await again.next(frameType.durable);
});

test('incident 8: POINT and OPENED that list all they may fit into a control frame', async () => {
  const { limits } = await vi.importActual<typeof real>('../../src/limits.ts');
  const most = Number.MAX_SAFE_INTEGER;
  const listed = (layers: number): number[] => Array.from({ length: layers }, (_, at) => most - at);
  const point = (disks: number, layers: number): Uint8Array => {
    const each = { size: most, root: 'ff'.repeat(32), kind: 'initial', records: most, payloadBytes: most } as const;
    const body = Array.from({ length: disks }, (_, disk) => ({ disk, ...each, layers: listed(layers), writes: most }));
    return encodePointMessage({ cutTimeMs: most, consistency: 'crash', disks: body }).subarray(frameHeaderBytes);
  };
  expect(decodePointMessage(point(8, limits.wire.layersPendingMax)).disks).toHaveLength(8);
  expect(decodePointMessage(point(all.disk.perMachineMax, 200)).disks).toHaveLength(all.disk.perMachineMax);
  const opened = encodeOpened({
    disk: 63,
    diskId: 'ff'.repeat(16),
    epoch: 2 ** 21 - 1,
    nextCounter: 2 ** 32 - 1,
    committed: { point: most, cutTimeMs: most, size: most, root: 'ff'.repeat(32) },
    layers: listed(limits.wire.layersListedMax).map((seq) => ({ seq, batches: 1_000_000 })),
    leaves: 'compare',
    leafKey: 'ff'.repeat(32),
    diskKey: 'ff'.repeat(32),
    keyVersion: 65_535,
  });
  expect(decodeOpened(opened.subarray(frameHeaderBytes)).layers).toHaveLength(limits.wire.layersListedMax);
});

/** Whose machine it is (C9): who is admitted, who is refused and with what evidence, and that nobody is harmed by a HELLO that is refused. */
import { afterEach, expect, test } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { StaleEpoch } from '../../src/store/epochs.ts';
import { decodeErrorMessage } from '../../src/wire/error.ts';
import { frameType } from '../../src/wire/frame.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { MortalFiles } from '../pipeline/mortal-files.ts';
import { MachineLife } from '../store/machine-fixture.ts';
import { TargetSite, type Peer } from './peer.ts';

const sites: TargetSite[] = [];
async function started(options: Parameters<typeof TargetSite.start>[0] = {}): Promise<TargetSite> {
  const site = await TargetSite.start(options);
  sites.push(site);
  return site;
}
async function restarted(site: TargetSite): Promise<TargetSite> {
  const next = await site.restarted();
  sites.splice(sites.indexOf(site), 1, next);
  return next;
}
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

const rootNow = (site: TargetSite): string =>
  Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex');
const [one, two, three] = ['11', '22', '33'].map((byte) => ({ instance: byte.repeat(16) }));
const lease = (epoch: number): { lease: { epoch: number } } => ({ lease: { epoch } });

/** The session still does everything a session does. */
async function stillWorks(site: TargetSite, peer: Peer): Promise<void> {
  const disk = await peer.openDisk();
  const seq = peer.cycle(disk);
  peer.sealed(disk, seq, 1);
  await peer.next(frameType.durable);
  peer.point(rootNow(site), [seq]);
  await peer.next(frameType.committed);
}

test('a HELLO with an older lease is refused with the evidence, and the session that is there does not notice', async () => {
  let site = await started();
  const owner = site.connect('ps-2');
  expect(await owner.greet({ ...two, ...lease(7) })).toEqual([]);
  const told = await site.connect('ps-1').greet({ ...one, ...lease(6) });
  expect(told).toMatchObject({ code: 'stale-epoch', retryable: true, epoch: 7 });
  const { atMs } = site.store().points.epoch ?? { atMs: 0 };
  const since = new Date(atMs).toISOString();
  expect(told).toMatchObject({
    message: `epoch 6 is refused: process server ps-2 (instance ${'22'.repeat(16)}) has had m1 since ${since} under epoch 7`,
  });
  expect(site.target.counters.staleRefused).toBe(1);
  await stillWorks(site, owner);
  // The evidence is the store's: another run of the target has it, too.
  site = await restarted(site);
  expect(await site.connect('ps-1').greet({ ...one, ...lease(6) })).toEqual(told);
});

test('a lease is taken over by a higher one alone, and goes on with the instance it was given to', async () => {
  const site = await started();
  const first = site.connect('ps-1');
  expect(await first.greet({ ...one, ...lease(3) })).toEqual([]);
  expect(await site.connect('ps-2').greet({ ...two, ...lease(3) })).toMatchObject({ code: 'stale-epoch', epoch: 3 });
  expect(await site.connect('ps-2').greet(two)).toMatchObject({ code: 'stale-epoch', epoch: 3 });
  expect((await site.connect('ps-2').greet(two)) as object).toMatchObject({
    message: expect.stringMatching(
      /^refused: process server ps-1 .* by a lease; this one has none\. If .*tidemark release m1, on the host/,
    ) as string,
  });
  expect(first.connection.isClosed).toBe(false);
  // Its own connection was lost: the same lease, and none at all, take up where it was.
  for (const more of [lease(3), {}]) {
    expect(await site.connect('ps-1').greet({ ...one, ...more })).toEqual([]);
    expect(site.store().points.epoch?.epoch).toBe(3);
  }
  expect(await site.connect('ps-2').greet({ ...two, ...lease(9) })).toEqual([]);
  expect(site.store().points.epoch).toMatchObject({ epoch: 9, server: 'ps-2', lease: true });
  expect(await site.connect('ps-1').greet({ ...one, ...lease(3) })).toMatchObject({ code: 'stale-epoch', epoch: 9 });
});

test('without leases whoever comes last has the machine', async () => {
  const site = await started();
  for (const [at, who] of [one, two, one, three].entries()) {
    expect(await site.connect().greet(who)).toEqual([]);
    expect(site.store().points.epoch?.epoch).toBe(at + 1);
    expect(site.store().points.epoch?.lease).toBeUndefined();
  }
  // A site that begins to use leases goes on above.
  expect(await site.connect().greet({ ...one, ...lease(4) })).toMatchObject({ code: 'stale-epoch', epoch: 4 });
  expect(await site.connect().greet({ ...one, ...lease(5) })).toEqual([]);
});

test.each([
  [2, 3],
  [3, 2],
])('of two HELLOs while the store opens slowly (leases %i and %i) the higher lease has the machine', async (a, b) => {
  const site = await started({ opening: () => systemClock.sleep(50) });
  const peers = [site.connect('ps-1'), site.connect('ps-2')] as const;
  const answers = await Promise.all([peers[0].greet({ ...one, ...lease(a) }), peers[1].greet({ ...two, ...lease(b) })]);
  const winner = a > b ? 0 : 1;
  expect(answers[winner]).toEqual([]);
  expect(site.store().points.epoch).toMatchObject({ epoch: 3, server: `ps-${winner + 1}` });
  expect(site.target.sessions()).toBe(1);
  const loser = peers[1 - winner];
  if (a > b) expect(answers[1]).toMatchObject({ code: 'stale-epoch', epoch: 3 });
  else expect((await loser?.connection.closed)?.reason).toBe('superseded');
  await stillWorks(site, peers[winner === 0 ? 0 : 1]);
});

test('the new epoch is durable before WELCOME, and until then the older session is what it was', async () => {
  const files = new MortalFiles(posixFiles);
  const site = await started({ files });
  const older = site.connect('ps-1');
  await older.greet(one);
  const disk = await older.openDisk();
  const held = Promise.withResolvers<undefined>();
  const syncing = Promise.withResolvers<undefined>();
  files.trouble = (operation, path) => {
    if (operation !== 'datasync' || !path.endsWith('points.log')) return undefined;
    syncing.resolve(undefined);
    return held.promise;
  };
  const newer = site.connect('ps-2');
  const welcome = newer.greet({ ...two, ...lease(2) });
  await syncing.promise;
  const seq = older.cycle(disk);
  older.sealed(disk, seq, 5);
  await older.next(frameType.durable);
  expect(newer.frames).toEqual([]);
  held.resolve(undefined);
  expect(await welcome).toEqual([]);
  expect((await older.connection.closed).reason).toBe('superseded');
  // It knew in time of all that was accepted before.
  expect((await newer.openDisk()).opened.layers).toMatchObject({ first: seq, last: seq });
});

test('an epoch that can not be written costs the newcomer alone', async () => {
  const files = new MortalFiles(posixFiles);
  const site = await started({ files });
  const older = site.connect('ps-1');
  await older.greet(one);
  files.trouble = (operation, path) => {
    if (operation !== 'write' || !path.endsWith('points.log')) return undefined;
    throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
  };
  expect(await site.connect('ps-2').greet(two)).toMatchObject({ code: 'full', retryable: true });
  files.trouble = () => undefined;
  expect(site.store().points.epoch?.epoch).toBe(1);
  await stillWorks(site, older);
});

test('what waited in a session when another took over is refused, one frame after the other', async () => {
  const files = new MortalFiles(posixFiles);
  const site = await started({ files });
  const older = site.connect('ps-1');
  await older.greet(one);
  const disk = await older.openDisk();
  const first = older.cycle(disk);
  older.sealed(disk, first, 1);
  await older.next(frameType.durable);
  const held = Promise.withResolvers<undefined>();
  files.trouble = (operation, path) =>
    operation === 'datasync' && path.endsWith('points.log') ? held.promise : undefined;
  // The takeover is being made durable; what the older one sends meanwhile waits behind it, or comes before it.
  const newer = site.connect('ps-2');
  const welcome = newer.greet(two);
  older.point(rootNow(site), [first]);
  const second = older.cycle(disk);
  older.sealed(disk, second, 2);
  older.point(rootNow(site), [second]);
  for (let turn = 0; turn < 20; turn += 1) await systemClock.turn();
  held.resolve(undefined);
  expect(await welcome).toEqual([]);
  const { opened } = await newer.openDisk();
  const { points } = site.store();
  expect(points.points.filter(({ epoch }) => epoch !== 1)).toEqual([]);
  expect(opened.committed?.point ?? 0).toBe(points.points.length);
  expect(opened.layers?.last ?? first).toBe(first);
  expect((await older.connection.closed).reason).toBe('superseded');
});

test('the store itself refuses what is of another epoch than the newest, whoever asks', async () => {
  const life = await MachineLife.begin();
  try {
    await life.point([{ block: 1 }]);
    const disk = await life.disk();
    const salt = Buffer.alloc(32, 9);
    const layer = { kind: 'delta', base: null, salt, keyVersion: disk.keys.version } as const;
    await disk.beginLayer({ ...layer, seq: seqOf(1, 7), epoch: 1 });
    expect(await life.store.acquireEpoch('bb', { server: 'ps-2' })).toBe(2);
    const before = [life.store.points.points.length, life.store.durableEnd, disk.pending];
    const refused = {
      code: 'stale-epoch',
      epoch: 2,
      message: expect.stringContaining('process server ps-2') as string,
    };
    await expect(disk.beginLayer({ ...layer, seq: seqOf(1, 8), epoch: 1 })).rejects.toMatchObject(refused);
    await expect(disk.beginLayer({ ...layer, seq: seqOf(1, 7), epoch: 1 }, true)).rejects.toMatchObject(refused);
    expect(() => disk.appendBatch(life.batch(disk, salt, seqOf(1, 7), [{ block: 2 }]))).toThrow(StaleEpoch);
    const { name, geometry } = disk;
    const wanted = { name, size: geometry.size + 4096, blockSize: geometry.blockSize, epoch: 1 };
    await expect(life.store.openDisk(wanted)).rejects.toMatchObject(refused);
    await expect(life.store.commit({ cutTimeMs: 9, consistency: 'crash', epoch: 1, disks: [] })).rejects.toMatchObject(
      refused,
    );
    expect([life.store.points.points.length, life.store.durableEnd, disk.pending]).toEqual(before);
  } finally {
    await life.remove();
  }
});

test('a session whose epoch was taken meanwhile writes nothing, not even under the newer one', async () => {
  const site = await started();
  const { peer, disk } = await site.session();
  await site.store().acquireEpoch('bb');
  peer.gap({ atMs: 1, points: 1, reason: 'merged', detail: '' });
  const told = decodeErrorMessage((await peer.next(frameType.error)).body);
  expect(told).toMatchObject({ code: 'stale-epoch', epoch: 2 });
  expect(site.target.counters.staleRefused).toBe(1);
  expect(disk.opened.epoch).toBe(1);
});

/** The target's side of a comparison by checksum, asked by a process server that is honest, late, or lies. */
import { afterEach, expect, test } from 'vitest';
import { geometryOf } from '../../src/disk/geometry.ts';
import { MerkleNodes, zeroLeaf } from '../../src/disk/merkle.ts';
import { merkleHashes } from '../../src/kernels/hash.ts';
import { invariant } from '../../src/kit/invariant.ts';
import { limits } from '../../src/limits.ts';
import { encodeAsk } from '../../src/wire/checksums.ts';
import { decodeCommitted } from '../../src/wire/committed.ts';
import { decodeErrorMessage } from '../../src/wire/error.ts';
import { frameType } from '../../src/wire/frame.ts';
import { decodeLeaves } from '../../src/wire/leaves.ts';
import { decodeRepair } from '../../src/wire/repair.ts';
import { blockSize, diskSize, TargetSite, type OpenedDisk, type Peer } from './peer.ts';
import { runOf } from '../layers.ts';

const sites: TargetSite[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

async function begin(): Promise<TargetSite> {
  const site = await TargetSite.start();
  sites.push(site);
  return site;
}

async function restarted(site: TargetSite): Promise<TargetSite> {
  sites.splice(sites.indexOf(site), 1);
  const next = await site.restarted();
  sites.push(next);
  return next;
}

const rootNow = (site: TargetSite): string =>
  Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex');

/** A layer of one block, durable. */
async function write(
  peer: Peer,
  disk: OpenedDisk,
  block: number,
  fill?: number,
): Promise<{ seq: number; leaf: Uint8Array }> {
  const seq = peer.cycle(disk);
  const leaf = peer.sealed(disk, seq, block, 0, fill);
  await peer.next(frameType.durable);
  return { seq, leaf };
}

async function commit(site: TargetSite, peer: Peer, layers: number[], size = diskSize): Promise<number> {
  peer.point(rootNow(site), layers, { size });
  return decodeCommitted((await peer.next(frameType.committed)).body).point;
}

/** The leaves as they should be, and the nodes over them, made from nothing. */
function model(size: number, leaves: ReadonlyMap<number, Uint8Array>): { leaves: Buffer; nodes: Buffer } {
  const geometry = geometryOf(size, blockSize);
  const bytes = Buffer.concat(Array.from({ length: geometry.blockCount }, (_, block) => leaves.get(block) ?? zeroLeaf));
  const nodes = new MerkleNodes(geometry, merkleHashes);
  const count = Math.ceil(geometry.blockCount / limits.disk.leavesPerNode);
  for (let node = 0; node < count; node += 1) nodes.set(node, bytes.subarray(node * 32 * 1024, (node + 1) * 32 * 1024));
  return { leaves: bytes, nodes: Buffer.concat(Array.from({ length: count }, (_, node) => nodes.node(node).slice())) };
}

test('no leaves are sent, all is to be compared: of a new disk, of an unknown point, and of one that is ahead', async () => {
  const site = await begin();
  for (const knownPoint of [null, 1, 7]) {
    const { peer, disk } = await site.session('m1', knownPoint);
    expect(disk.opened).toMatchObject({ leaves: 'compare', committed: null, layers: null });
    const { body } = await peer.next(frameType.leaves);
    expect(decodeLeaves(body, diskSize / blockSize)).toEqual({ last: true, pairs: [] });
  }
  const { peer, disk } = await site.session();
  const { seq } = await write(peer, disk, 3);
  expect((await site.session()).disk.opened).toMatchObject({
    leaves: 'compare',
    committed: null,
    layers: runOf([seq]),
  });
});

test('a client with a point the target knows is told what changed since, in a point or on top of the newest', async () => {
  const site = await begin();
  const { peer, disk } = await site.session();
  const first = await write(peer, disk, 3);
  expect(await commit(site, peer, [first.seq])).toBe(1);
  const second = await write(peer, disk, 60);
  expect(await commit(site, peer, [second.seq])).toBe(2);
  const third = await write(peer, disk, 5, 9);
  const told = async (knownPoint: number): Promise<[string, string[]]> => {
    const { peer: again, disk: known } = await site.session('m1', knownPoint);
    const { last, pairs } = decodeLeaves((await again.next(frameType.leaves)).body, diskSize / blockSize);
    expect(last).toBe(true);
    return [known.opened.leaves, pairs.map(([block, leaf]) => `${block} ${Buffer.from(leaf).toString('hex')}`)];
  };
  const [inPoint, onTop] = [
    `60 ${Buffer.from(second.leaf).toString('hex')}`,
    `5 ${Buffer.from(third.leaf).toString('hex')}`,
  ];
  expect(await told(1)).toEqual(['since', [inPoint, onTop]]);
  expect(await told(2)).toEqual(['since', [onTop]]);
  expect(await told(3)).toEqual(['compare', []]);
});

test('answers speak of the newest point and what is durable on top of it, in the order of the questions', async () => {
  const site = await begin();
  const { peer, disk } = await site.session();
  const first = await write(peer, disk, 3);
  await commit(site, peer, [first.seq]);
  const second = await write(peer, disk, 60, 9);
  const { peer: again, disk: opened } = await site.session();
  const wanted = model(
    diskSize,
    new Map([
      [3, first.leaf],
      [60, second.leaf],
    ]),
  );
  again.send(encodeAsk(0, { level: 'leaves', first: 60, count: 1 }));
  again.send(encodeAsk(0, { level: 'nodes', first: 0, count: 1 }));
  const answers = [(await again.next(frameType.checksums)).body, (await again.next(frameType.checksums)).body];
  expect(answers.map((body) => Buffer.from(body.subarray(16)))).toEqual([Buffer.from(second.leaf), wanted.nodes]);
  expect(await again.allLeaves(opened, 7)).toEqual(wanted.leaves);
});

test('a disk without any point is compared right after a restart, whatever its size', async () => {
  let site = await begin();
  const size = 2500 * blockSize;
  const { peer, disk } = await site.session('m1', null, { size });
  const leaves = new Map<number, Uint8Array>();
  for (const block of [0, 1, 1023, 1024, 2499]) leaves.set(block, (await write(peer, disk, block)).leaf);
  site = await restarted(site);
  const { peer: again, disk: opened } = await site.session('m1', null, { size });
  expect(opened.opened.layers?.count).toBe(5);
  const wanted = model(size, leaves);
  expect(Buffer.from(await again.checksums(opened, { level: 'nodes', first: 0, count: 3 }))).toEqual(wanted.nodes);
  expect(await again.allLeaves(opened)).toEqual(wanted.leaves);
});

test('a disk that is smaller than one block opens again after a restart', async () => {
  let site = await begin();
  const size = 1024;
  const { peer, disk } = await site.session('m1', null, { size });
  const { leaf } = await write(peer, disk, 0);
  site = await restarted(site);
  const { peer: again, disk: opened } = await site.session('m1', null, { size });
  expect(Buffer.from(await again.checksums(opened, { level: 'leaves', first: 0, count: 1 }))).toEqual(
    Buffer.from(leaf),
  );
});

test('a disk that grew is compared at its new size, and the next point has it', async () => {
  let site = await begin();
  const { peer, disk } = await site.session();
  const first = await write(peer, disk, 3);
  await commit(site, peer, [first.seq]);
  const size = 1500 * blockSize;
  const { peer: grown, disk: larger } = await site.session('m1', null, { size });
  expect(larger.opened).toMatchObject({ leaves: 'compare', committed: { point: 1, size: diskSize } });
  expect(await grown.allLeaves(larger)).toEqual(model(size, new Map([[3, first.leaf]])).leaves);
  const second = await write(grown, larger, 1499);
  // Before a point has the new size too.
  site = await restarted(site);
  const { peer: last, disk: opened } = await site.session('m1', null, { size });
  const wanted = model(
    size,
    new Map([
      [3, first.leaf],
      [1499, second.leaf],
    ]),
  );
  expect(await last.allLeaves(opened)).toEqual(wanted.leaves);
  expect(Buffer.from(await last.checksums(opened, { level: 'nodes', first: 0, count: 2 }))).toEqual(wanted.nodes);
  expect(await commit(site, last, [second.seq], size)).toBe(2);
  expect(site.store().points.points.map((point) => point.disks[0]?.size)).toEqual([diskSize, size]);
});

test('a disk that shrank is refused, below its newest point or below what is durable on top; the points are kept', async () => {
  let site = await begin();
  const { peer, disk } = await site.session();
  const { seq } = await write(peer, disk, 3);
  await commit(site, peer, [seq]);
  const size = 100 * blockSize;
  const { peer: grown, disk: larger } = await site.session('m1', 1, { size });
  await write(grown, larger, 99);
  const refused = (tried: number): Promise<string> =>
    site.session('m1', 1, { size: tried }).then(
      () => 'opened',
      (error: unknown) => String(error),
    );
  const sizes = [diskSize - 512, diskSize, size - blockSize];
  for (const tried of sizes) expect(await refused(tried)).toContain('shrunk');
  site = await restarted(site);
  for (const tried of sizes) expect(await refused(tried)).toContain('shrunk');
  expect(site.store().points.points).toHaveLength(1);
  expect((await site.session('m1', 1, { size })).disk.opened).toMatchObject({
    leaves: 'since',
    committed: { point: 1, size: diskSize },
  });
});

test('blocks to repair are named before the first answer; their leaves are what they ought to be', async () => {
  const site = await begin();
  const { peer, disk } = await site.session();
  const { seq, leaf } = await write(peer, disk, 3);
  await commit(site, peer, [seq]);
  const store = site.store();
  const [kept] = store.disks;
  invariant(kept, 'the disk is open');
  await store.markDamaged(1, kept, [3]);
  const { peer: again, disk: opened } = await site.session();
  expect(Buffer.from(await again.checksums(opened, { level: 'leaves', first: 3, count: 1 }))).toEqual(
    Buffer.from(leaf),
  );
  const [repair] = again.frames.filter(({ type }) => type === frameType.repair);
  expect(decodeRepair(repair?.body ?? new Uint8Array(), diskSize / blockSize)).toEqual([3]);
  // Sent whole with the leaf it had: nothing is left to repair, and the point commits.
  const mended = await write(again, opened, 3);
  expect(kept.blocksToRepair()).toEqual([]);
  expect(await commit(site, again, [mended.seq])).toBe(2);
});

test.each([
  ['behind the last leaf', 0, { level: 'leaves', first: 60, count: 5 }, 'ASK of leaves 60 to 64; the disk has 64'],
  ['behind the last node', 0, { level: 'nodes', first: 1, count: 1 }, 'ASK of nodes 1 to 1; the disk has 1'],
  ['nothing', 0, { level: 'leaves', first: 0, count: 0 }, 'ASK of 0 leaves'],
  ['too much', 0, { level: 'leaves', first: 0, count: limits.wire.checksumsPerFrameMax + 1 }, 'ASK of 32769 leaves'],
  ['a sum that overflows', 0, { level: 'leaves', first: 2 ** 32 - 1, count: 1 }, 'the disk has 64'],
  ['a disk that is not open', 1, { level: 'leaves', first: 0, count: 1 }, 'disk 1 is not open'],
] as const)('an ASK of %s ends the session', async (_, index, range, told) => {
  const site = await begin();
  const { peer } = await site.session();
  peer.send(encodeAsk(index, range));
  const error = decodeErrorMessage((await peer.next(frameType.error)).body);
  expect(error.code).toBe('protocol-error');
  expect(error.message).toContain(told);
  expect((await site.session()).disk.opened.leaves).toBe('compare');
});

test('a flood of ASK whose answers are not read is neither answered nor kept without bound', async () => {
  const site = await begin();
  const count = limits.wire.checksumsPerFrameMax;
  const { peer } = await site.session('m1', null, { size: count * blockSize });
  const before = peer.far.bytesOut;
  peer.far.hold();
  const asked = 5000;
  for (let each = 0; each < asked; each += 1) peer.send(encodeAsk(0, { level: 'leaves', first: 0, count }));
  while (!peer.far.paused) await new Promise((turn) => setImmediate(turn));
  await new Promise((turn) => setTimeout(turn, 50));
  // Two: one in the buffers of the connection, one that waits for room.
  expect(peer.far.bytesOut - before).toBeLessThan(3 * (count * 32 + 1024));
  expect(peer.far.bytesIn).toBeLessThan(limits.target.controlQueueBytesMax);
  peer.connection.cut();
});

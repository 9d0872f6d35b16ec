/** A layer that can not go on is refused, nothing of what is stored changes by that, and the next session goes on. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { posixFiles } from '../../src/posix/files.ts';
import { decodeDurable } from '../../src/wire/durable.ts';
import { decodeErrorMessage } from '../../src/wire/error.ts';
import { features } from '../../src/wire/features.ts';
import { encodeFrame, frameType } from '../../src/wire/frame.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { runOf } from '../layers.ts';
import { MortalFiles } from '../pipeline/mortal-files.ts';
import { cycleBytes } from './layer-stream.ts';
import { blockSize, sealedBody, TargetSite, type OpenedDisk, type Peer } from './peer.ts';

let site: TargetSite;
let files: MortalFiles;
beforeEach(async () => {
  files = new MortalFiles(posixFiles);
  site = await TargetSite.start({ files });
});
afterEach(() => site.remove());

async function session(can: readonly string[] = [features.continueLayers]): Promise<{ peer: Peer; disk: OpenedDisk }> {
  const peer = site.connect();
  expect(await peer.greet({ features: [...can] })).toEqual(can);
  return { peer, disk: await peer.openDisk() };
}

const seq = (counter: number, epoch = 1): number => seqOf(epoch, counter);
const rootNow = (): string => Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex');

function batch(disk: OpenedDisk, counter: number, number: number, block: number): Uint8Array {
  const pages = Buffer.alloc(blockSize, 1 + counter * 16 + number);
  const { body } = sealedBody(disk.opened, { seq: seq(counter), batch: number, block, pages });
  return encodeFrame(frameType.sealed, 0, body);
}

async function durable(peer: Peer): Promise<[number, number]> {
  const { type, body } = await peer.next(frameType.durable, frameType.error);
  if (type === frameType.error) throw new Error(JSON.stringify(decodeErrorMessage(body)));
  const answer = decodeDurable(body);
  return [answer.seq % 2 ** 32, answer.batches];
}

/** Layers 1 (two batches) and 2 (one), then a point of them; 3 (two batches) and 4 (two): what no point lists. */
async function written(): Promise<OpenedDisk> {
  const { peer, disk } = await session();
  for (const [counter, batches] of [
    [1, 2],
    [2, 1],
    [3, 2],
    [4, 2],
  ] as const) {
    peer.send(cycleBytes(0, seq(counter)));
    for (let number = 0; number < batches; number += 1) {
      peer.send(batch(disk, counter, number, 10 * number));
      expect(await durable(peer)).toEqual([counter, number + 1]);
    }
    if (counter !== 2) continue;
    peer.point(rootNow(), [seq(1), seq(2)]);
    await peer.next(frameType.committed);
  }
  peer.connection.cut();
  return disk;
}

const facts = (): unknown => {
  const store = site.store();
  return [store.points.points.length, store.durableEnd, store.disks[0]?.pending, rootNow()];
};

type Case = readonly [string, string, (disk: OpenedDisk) => readonly Uint8Array[]];
const refused: readonly Case[] = [
  ['another salt', 'has another salt', () => [cycleBytes(0, seq(4), { salt: '5b'.repeat(32) })]],
  ['another key version', 'key version', () => [cycleBytes(0, seq(4), { keyVersion: 2 })]],
  ['a hole', 'has 2 batches, not 3', (disk) => [cycleBytes(0, seq(4)), batch(disk, 4, 3, 30)]],
  ['more of an older layer', 'newer one was begun', (disk) => [cycleBytes(0, seq(3)), batch(disk, 3, 2, 30)]],
  ['a layer that a point lists', 'part of a point', () => [cycleBytes(0, seq(2))]],
];

test.each(refused)('%s', async (_, why, frames) => {
  const disk = await written();
  for (const run of ['same target', 'restarted']) {
    const before = run === 'same target' ? facts() : null;
    const { peer } = await session();
    for (const frame of frames(disk)) peer.send(frame);
    const told = decodeErrorMessage((await peer.next(frameType.error)).body);
    expect(told).toMatchObject({ code: 'layer-unknown', retryable: true });
    expect(told.message).toContain(why);
    if (before) expect(facts()).toEqual(before);
    else expect(site.store().disks[0]?.pending).toEqual(runOf([seq(3), seq(4)]));
    if (before) site = await site.restarted({ files });
  }
  // The source gives up what was spooled, and goes on in a layer of its own.
  const { peer } = await session();
  peer.send(cycleBytes(0, seq(5)));
  peer.send(batch(disk, 5, 0, 1));
  expect(await durable(peer)).toEqual([5, 1]);
  peer.point(rootNow(), [seq(3), seq(4), seq(5)]);
  await peer.next(frameType.committed);
});

test('what is there is passed over, also of a layer that is not the newest, and the newest goes on', async () => {
  const disk = await written();
  const { peer } = await session();
  const before = facts();
  const said = (counter: number, batches: number): Promise<void> =>
    durable(peer).then((answer) => {
      expect(answer).toEqual([counter, batches]);
    });
  peer.send(cycleBytes(0, seq(3)));
  await said(3, 2);
  for (const number of [0, 1]) {
    peer.send(batch(disk, 3, number, 10 * number));
    await said(3, 2);
  }
  peer.send(cycleBytes(0, seq(4)));
  await said(4, 2);
  peer.send(batch(disk, 4, 1, 10));
  await said(4, 2);
  expect(facts()).toEqual(before);
  const granted = peer.frames.filter(({ type }) => type === frameType.credit);
  expect(granted.length).toBeGreaterThanOrEqual(3);
  // Blocks ascend across the sessions.
  const { peer: wrong } = await session();
  wrong.send(cycleBytes(0, seq(4)));
  wrong.send(batch(disk, 4, 2, 10));
  const told = decodeErrorMessage((await wrong.next(frameType.error)).body);
  expect(told).toMatchObject({ code: 'protocol-error', message: 'block 10 after block 10 of the same layer' });
  const { peer: last } = await session();
  last.send(cycleBytes(0, seq(4)));
  last.send(batch(disk, 4, 2, 20));
  expect([await durable(last), await durable(last)]).toEqual([
    [4, 2],
    [4, 3],
  ]);
});

test('an empty layer goes on with 0, and one of which nothing came is begun', async () => {
  const first = await session();
  first.peer.send(cycleBytes(0, seq(1)));
  await first.peer.openDisk(null, { disk: 1, name: 'vdb' });
  first.peer.send(cycleBytes(1, seq(9)));
  await first.peer.openDisk(null, { disk: 2, name: 'vdc' });
  first.peer.connection.cut();
  const { peer, disk } = await session();
  await peer.openDisk(null, { disk: 1, name: 'vdb' });
  peer.send(cycleBytes(0, seq(1)));
  expect(await durable(peer)).toEqual([1, 0]);
  // Below what another disk had, and new all the same.
  peer.send(cycleBytes(0, seq(5)));
  peer.send(batch(disk, 5, 0, 3));
  expect(await durable(peer)).toEqual([5, 1]);
  peer.send(cycleBytes(0, seq(2)));
  const told = decodeErrorMessage((await peer.next(frameType.error)).body);
  expect(told).toMatchObject({
    code: 'layer-unknown',
    message: expect.stringContaining('there is no layer') as string,
  });
});

test('a batch that was acknowledged and is not there any more is no breach of the protocol', async () => {
  const disk = await written();
  for (const counter of [5, 5]) {
    // Not there at all, then there and empty.
    const { peer } = await session();
    peer.send(cycleBytes(0, seq(counter)));
    peer.send(batch(disk, counter, 2, 30));
    expect(decodeErrorMessage((await peer.next(frameType.error)).body).code).toBe('layer-unknown');
  }
  const { peer } = await session([]);
  peer.send(cycleBytes(0, seq(6)));
  peer.send(batch(disk, 6, 2, 30));
  expect(decodeErrorMessage((await peer.next(frameType.error)).body).code).toBe('protocol-error');
});

test('without the feature a layer is begun once', async () => {
  await written();
  const { peer } = await session([]);
  peer.send(cycleBytes(0, seq(4)));
  const told = decodeErrorMessage((await peer.next(frameType.error)).body);
  expect(told).toMatchObject({ code: 'protocol-error', message: `layer ${seq(4)} after layer ${seq(4)}` });
});

test('a layer of an earlier epoch is stale, whatever was spooled of it', async () => {
  await written();
  const other = site.connect('ps-2');
  await other.greet({ instance: 'bb'.repeat(16) });
  const { peer } = await session();
  peer.send(cycleBytes(0, seq(4)));
  expect(decodeErrorMessage((await peer.next(frameType.error)).body)).toMatchObject({ code: 'stale-epoch', epoch: 3 });
});

test.each(['EIO', 'ENOSPC'])(
  'a segment that could not be synced (%s) takes nothing of the layer along that was acknowledged',
  async (code) => {
    const disk = await written();
    const { peer } = await session();
    peer.send(cycleBytes(0, seq(4)));
    expect(await durable(peer)).toEqual([4, 2]);
    let failed = 0;
    files.trouble = (operation, file) => {
      if (operation !== 'datasync' || !file.includes('.seg') || failed > 0) return undefined;
      failed += 1;
      throw Object.assign(new Error('as told'), { code });
    };
    files.free = code === 'ENOSPC' ? 2 ** 40 : null;
    peer.send(batch(disk, 4, 2, 20));
    const told = decodeErrorMessage((await peer.next(frameType.error)).body);
    expect(told.code).toBe(code === 'EIO' ? 'store-failed' : 'full');
    for (const number of [2, 3]) {
      // The file was given up (C4): the batch goes into the next one, under the same layer.
      const { peer: again } = await session();
      again.send(cycleBytes(0, seq(4)));
      expect(await durable(again)).toEqual([4, number]);
      for (let each = 0; each <= number; each += 1) again.send(batch(disk, 4, each, 10 * each));
      for (let each = 0; each < number; each += 1) expect(await durable(again)).toEqual([4, number]);
      expect(await durable(again)).toEqual([4, number + 1]);
      again.connection.cut();
      if (number === 2) site = await site.restarted();
    }
    const { peer: last } = await session();
    last.point(rootNow(), [seq(3), seq(4)]);
    await last.next(frameType.committed);
  },
);

test('a layer whose own entry found no space is begun again', async () => {
  const disk = await written();
  const { peer } = await session();
  files.trouble = (operation, file) => {
    if (operation !== 'write' || !file.includes('.seg')) return undefined;
    throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
  };
  peer.send(cycleBytes(0, seq(5)));
  expect(decodeErrorMessage((await peer.next(frameType.error)).body).code).toBe('full');
  files.trouble = () => undefined;
  const { peer: again } = await session();
  again.send(cycleBytes(0, seq(5)));
  again.send(batch(disk, 5, 0, 1));
  expect(await durable(again)).toEqual([5, 1]);
});

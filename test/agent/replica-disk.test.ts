/** What an agent concludes from OPENED and LEAVES: which blocks it must look at again. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { nextStep } from '../../src/agent/plan.ts';
import { readDiskState } from '../../src/agent/disk-state.ts';
import { ReplicaDisk } from '../../src/agent/replica-disk.ts';
import { openNbdCapture } from '../../src/capture/nbd-open.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { digest } from '../../src/kernels/hash.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { limits } from '../../src/limits.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { Opened } from '../../src/wire/opened.ts';

const blockSize = 4096;
const blocks = 100;
const diskId = '11'.repeat(16);

let directory = '';
let capture: NbdCapture;
let disk: ReplicaDisk;

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-replica-'));
  const image = path.join(directory, 'vda.raw');
  const file = await posixFiles.open(image, 'create');
  await file.truncate(blocks * blockSize);
  await file.close();
  const common = { files: posixFiles, clock: systemClock, random: systemRandom, owner: 'm/vda', name: 'vda' };
  capture = await openNbdCapture({ ...common, image, blockSize, stateDirectory: directory, hadLog: false });
  const state = await readDiskState(posixFiles, directory, 'vda');
  disk = await ReplicaDisk.open({ capture, files: posixFiles, directory, state });
  // Everything up to point 5 is committed and forgotten.
  disk.opened(openedAt(null, 'compare'));
  expect([disk.comparisonDue, disk.kind, disk.resync]).toEqual([false, 'initial', null]);
  capture.swap();
  capture.endSending();
  disk.committed(5);
  await disk.fold();
  expect([capture.currentBlocks, disk.knownPoint]).toEqual([0, 5]);
});
afterEach(async () => {
  await disk.close();
  await rm(directory, { recursive: true, force: true });
});

function openedAt(point: number | null, leaves: Opened['leaves'], more: Partial<Opened> = {}): Opened {
  const root = Buffer.from(disk.leaves.committedRoot()).toString('hex');
  const committed = point === null ? null : { point, cutTimeMs: 1, size: blocks * blockSize, root };
  return {
    disk: 0,
    diskId,
    epoch: 1,
    nextCounter: 1,
    committed,
    layers: null,
    leaves,
    leafKey: '22'.repeat(32),
    ...more,
  };
}

test('a target where this agent left it changes nothing', () => {
  expect(disk.opened(openedAt(5, 'since'))).toBeNull();
  expect([capture.currentBlocks, disk.kind]).toEqual([0, 'delta']);
});

test('a host rolled back under its agent reads every block again', () => {
  expect(disk.opened(openedAt(7, 'since'))).toContain('rolled back');
  expect([capture.currentBlocks, disk.kind]).toEqual([blocks, 'resync']);
});

test('a host rolled back by one point reads again what the target knows since', () => {
  expect(disk.opened(openedAt(6, 'since'))).toBeNull();
  disk.lay({ last: true, pairs: [[42, new Uint8Array(32).fill(9)]] });
  expect([capture.currentBlocks, capture.currentMask(42)]).toEqual([1, 0xffff]);
});

describe('with points in flight', () => {
  /** A cut whose POINT was sent: so many wait with it. */
  async function sent(waiting: number): Promise<void> {
    capture.swap();
    capture.endSending();
    await disk.pointSent(waiting);
  }

  test.each([
    ['at this one', 5],
    ['at the newest that was sent', 8],
    ['as far as was noted', 13],
  ])('a target that is %s is no finding, also after a restart', async (_, point) => {
    for (const waiting of [1, 2, 3]) await sent(waiting);
    await restarted();
    expect(disk.opened(openedAt(point, 'since'))).toBeNull();
    expect([capture.currentBlocks, disk.kind, disk.resync]).toEqual([0, 'delta', null]);
  });

  test('a target that is further than was noted is compared', async () => {
    for (const waiting of [1, 2, 3]) await sent(waiting);
    await restarted();
    expect(disk.opened(openedAt(14, 'since'))).toContain('none behind 13');
    expect([capture.currentBlocks, disk.kind]).toEqual([blocks, 'resync']);
  });

  test('one POINT at a time costs no write; a second one says before it waits how far the target may come', async () => {
    const noted = async () => (await readDiskState(posixFiles, directory, 'vda'))?.ahead;
    await sent(1);
    expect(await noted()).toBe(0);
    await sent(2);
    expect(await noted()).toBe(8);
    await sent(9);
    expect(await noted()).toBe(64);
    disk.committed(14);
    await disk.fold();
    expect([await noted(), disk.knownPoint]).toEqual([0, 14]);
    expect(disk.opened(openedAt(16, 'since'))).toContain('none behind 15');
  });

  test('an answer that was lost, and then another one, is no finding either', async () => {
    await sent(1);
    disk.sessionEnded();
    expect(disk.opened(openedAt(6, 'since'))).toBeNull();
    await sent(1);
    await restarted();
    expect(disk.opened(openedAt(7, 'since'))).toBeNull();
  });

  test('a state file of before there were any still counts', async () => {
    await disk.close();
    const file = path.join(directory, 'vda.json');
    const { check: _, ahead, ...rest } = JSON.parse((await readFile(file)).toString()) as Record<string, unknown>;
    expect(ahead).toBe(0);
    const check = Buffer.from(digest(Buffer.from(JSON.stringify(rest)))).toString('hex');
    await writeFile(file, JSON.stringify({ ...rest, check }));
    expect(await readDiskState(posixFiles, directory, 'vda')).toMatchObject({ ahead: 0, point: 5, resync: null });
    await reopened();
    expect([disk.knownPoint, capture.logLoss]).toEqual([5, null]);
  });
});

test('a target that lost acknowledged points is compared; what was not written is not read', () => {
  expect(disk.opened(openedAt(4, 'compare'))).toContain('was told point 5');
  expect([capture.currentBlocks, disk.knownPoint, disk.comparisonDue]).toEqual([0, null, true]);
  expect([disk.kind, disk.resync?.reason]).toEqual(['resync', 'base-mismatch']);
});

test('a target with another root at the same point is compared, in a session opened anew', () => {
  const opened = openedAt(5, 'since');
  const committed = opened.committed && { ...opened.committed, root: '00'.repeat(32) };
  expect(disk.opened({ ...opened, committed })).toContain('root of point 5');
  expect([capture.currentBlocks, disk.reopeningDue, disk.knownPoint]).toEqual([blocks, true, null]);
  expect(disk.opened({ ...opened, committed, leaves: 'compare' })).toBeNull();
  expect([disk.reopeningDue, disk.comparisonDue, disk.surveyDue]).toEqual([false, true, true]);
});

test('another replica has another leaf key: the leaf file is worthless, also if it claims to know our point', () => {
  const other = '33'.repeat(16);
  disk.leaves.set(3, new Uint8Array(32).fill(1));
  expect(disk.opened(openedAt(5, 'since', { diskId: other }))).toContain('holds replica');
  expect([capture.currentBlocks, disk.reopeningDue, disk.knownPoint]).toEqual([blocks, true, null]);
  expect(disk.opened(openedAt(5, 'compare', { diskId: other }))).toBeNull();
  expect([disk.surveyDue, disk.comparisonDue, disk.resync?.reason]).toEqual([true, true, 'base-mismatch']);
});

test('another replica that is empty is no resync but an initial replication', () => {
  expect(disk.opened(openedAt(null, 'compare', { diskId: '33'.repeat(16) }))).toContain('holds replica');
  expect([capture.currentBlocks, disk.kind, disk.comparisonDue, disk.resync]).toEqual([blocks, 'initial', false, null]);
});

test('a target that does not know our point is compared, and nothing else is read', () => {
  expect(disk.opened(openedAt(5, 'compare'))).toBeNull();
  expect([capture.currentBlocks, disk.comparisonDue, disk.resync?.reason]).toEqual([0, true, 'base-mismatch']);
});

test('a request marks all between cycles, and is reported from the moment it came', () => {
  disk.opened(openedAt(5, 'since'));
  disk.requestResync();
  expect([disk.resync?.reason, disk.resync?.phase, capture.currentBlocks]).toEqual(['requested', 'waiting', 0]);
  disk.beginRequested();
  expect([disk.reopeningDue, disk.knownPoint, capture.currentBlocks]).toEqual([true, null, blocks]);
});

test('a request that is made again after a restart, before anything was heard, goes on with the one under way', async () => {
  disk.opened(openedAt(5, 'since'));
  disk.requestResync();
  disk.beginRequested();
  disk.opened(openedAt(5, 'compare'));
  await disk.settle();
  capture.swap();
  await disk.checkpoint(60);
  disk.sessionEnded();
  await restarted();
  expect(disk.resync).toMatchObject({ reason: 'requested', phase: 'waiting' });
  disk.requestResync();
  disk.opened(openedAt(5, 'compare'));
  disk.beginRequested();
  expect([capture.currentBlocks, disk.reopeningDue, disk.surveyDue]).toEqual([blocks - 60, false, true]);
});

test('a request during a comparison that reads nothing comes after it', () => {
  disk.opened(openedAt(5, 'compare'));
  disk.requestResync();
  expect(disk.resync?.reason).toBe('base-mismatch');
  disk.beginRequested();
  expect([disk.resync?.reason, capture.currentBlocks, disk.reopeningDue]).toEqual(['requested', blocks, true]);
});

/** The same disk after a restart of the agent in order. */
async function restarted(): Promise<void> {
  await disk.close();
  await reopened();
}

async function reopened(): Promise<void> {
  const common = { files: posixFiles, clock: systemClock, random: systemRandom, owner: 'm/vda', name: 'vda' };
  const image = path.join(directory, 'vda.raw');
  capture = await openNbdCapture({ ...common, image, blockSize, stateDirectory: directory, hadLog: true });
  disk = await ReplicaDisk.open({
    capture,
    files: posixFiles,
    directory,
    state: await readDiskState(posixFiles, directory, 'vda'),
  });
}

test('leaves of no point are folded with what was read, and the log forgets; a restart goes on from there', async () => {
  disk.opened(openedAt(5, 'since'));
  disk.requestResync();
  disk.beginRequested();
  disk.opened(openedAt(5, 'compare'));
  await disk.settle();
  capture.swap();
  disk.leaves.set(7, new Uint8Array(32).fill(7));
  await disk.checkpoint(40);
  disk.sessionEnded();
  expect(capture.currentBlocks).toBe(blocks - 40);
  await restarted();
  expect([capture.logLoss, capture.currentBlocks, disk.knownPoint]).toEqual([null, blocks - 40, null]);
  expect([disk.resyncReason, disk.leaves.get(7)[0]]).toEqual(['requested', 7]);
});

test.each([5, null] as const)(
  'a block asked for whole stays marked when it is hashed (leaves as of %s)',
  async (at) => {
    disk.opened(openedAt(5, 'since'));
    disk.requestResync();
    disk.beginRequested();
    disk.opened(openedAt(5, at === null ? 'compare' : 'since'));
    await disk.settle();
    disk.requestRepair([7, 60]);
    capture.swap();
    await disk.checkpoint(40);
    expect([capture.currentMask(7), capture.currentMask(8)]).toEqual([0xffff, 0]);
    disk.sessionEnded();
    expect(capture.currentMask(60)).toBe(0xffff);
  },
);

test.each(['before', 'after'] as const)('a stop %s the leaf file was changed leaves one that counts', async (when) => {
  disk.opened(openedAt(5, 'since'));
  disk.leaves.set(7, new Uint8Array(32).fill(7));
  const file = path.join(directory, 'vda.leaves');
  const old = await readFile(file);
  capture.swap();
  capture.endSending();
  disk.committed(6);
  await disk.fold();
  if (when === 'before') await writeFile(file, old);
  await restarted();
  expect([disk.knownPoint, capture.currentBlocks, disk.resyncReason]).toEqual([when === 'before' ? 5 : 6, 0, null]);
});

test('a leaf file that is neither the one before nor the one after is worth nothing: all is marked', async () => {
  await writeFile(path.join(directory, 'vda.leaves'), Buffer.alloc(blocks * 32, 3));
  await restarted();
  expect([disk.knownPoint, capture.currentBlocks, disk.resyncReason]).toEqual([null, blocks, 'leaves-lost']);
  expect(disk.leaves.get(1)).toEqual(new Uint8Array(32));
});

test('a leaf file that is lost while too much waits for the window is the greater loss: the disk is surveyed', async () => {
  disk.opened(openedAt(5, 'since'));
  disk.exceedLimit();
  await disk.settle();
  await writeFile(path.join(directory, 'vda.leaves'), Buffer.alloc(blocks * 32, 3));
  await restarted();
  disk.opened(openedAt(5, 'compare'));
  expect([disk.resyncReason, disk.surveyDue, disk.comparisonDue]).toEqual(['leaves-lost', true, true]);
});

test('lag counts what is being sent and what waits for its commit', async () => {
  await capture.write(Buffer.alloc(4096, 1), 0, false);
  capture.swap();
  await capture.write(Buffer.alloc(4096, 1), 40_960, false);
  expect(capture.uncommittedBytes).toBe(8192);
  capture.endSending();
  expect(capture.uncommittedBytes).toBe(8192);
});

test('rounds end in a cut when they are small, stop shrinking or are too many', () => {
  const { lastRoundBytes, roundsMax } = limits.agent;
  const big = lastRoundBytes * 10;
  const first = { round: 0, bytes: big, previousBytes: null };
  const second = { round: 1, bytes: big * 0.5, previousBytes: big };
  expect(nextStep(first)).toBe('round');
  expect(nextStep({ ...first, bytes: lastRoundBytes })).toBe('cut');
  expect(nextStep(second)).toBe('round');
  expect(nextStep({ ...second, bytes: big * 0.95 })).toBe('cut');
  expect(nextStep({ ...second, round: roundsMax })).toBe('cut');
});

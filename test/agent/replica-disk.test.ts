/** What an agent concludes from OPENED and LEAVES: which blocks it must look at again. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { nextStep } from '../../src/agent/plan.ts';
import { readDiskState } from '../../src/agent/disk-state.ts';
import { ReplicaDisk } from '../../src/agent/replica-disk.ts';
import { openNbdCapture } from '../../src/capture/nbd-open.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
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
  disk.opened(openedAt(null, 'full'));
  capture.swap();
  capture.endSending();
  await disk.committed(5);
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
    layers: [],
    leaves,
    leafKey: '22'.repeat(32),
    ...more,
  };
}

test('a target where this agent left it changes nothing', () => {
  expect(disk.opened(openedAt(5, 'since'))).toBeNull();
  expect([capture.currentBlocks, disk.kind]).toEqual([0, 'delta']);
});

test('a host rolled back under its agent compares every block', () => {
  expect(disk.opened(openedAt(7, 'since'))).toContain('rolled back');
  expect([capture.currentBlocks, disk.kind]).toEqual([blocks, 'resync']);
});

test('a host rolled back by one point reads again what the target knows since', () => {
  expect(disk.opened(openedAt(6, 'since'))).toBeNull();
  disk.lay({ last: true, pairs: [[42, new Uint8Array(32).fill(9)]] });
  expect([capture.currentBlocks, capture.currentMask(42)]).toEqual([1, 0xffff]);
});

test('a target that lost acknowledged points is caught by its number, and by its root', () => {
  expect(disk.opened(openedAt(4, 'since'))).toContain('was told point 5');
  expect(capture.currentBlocks).toBe(blocks);
});

test('a target with another root at the same point is caught', () => {
  const opened = openedAt(5, 'since');
  const committed = opened.committed && { ...opened.committed, root: '00'.repeat(32) };
  expect(disk.opened({ ...opened, committed })).toContain('root of point 5');
  expect(capture.currentBlocks).toBe(blocks);
});

test('another replica is noticed, and one that answers with leaves since is refused', () => {
  expect(() => disk.opened(openedAt(5, 'since', { diskId: '33'.repeat(16) }))).toThrow('another replica');
  expect(disk.opened(openedAt(null, 'full', { diskId: '33'.repeat(16) }))).toContain('holds replica');
});

test('lag counts what is being sent and what waits for its commit', async () => {
  await capture.write(Buffer.alloc(4096, 1), 0, false);
  capture.swap();
  await capture.write(Buffer.alloc(4096, 1), 40_960, false);
  expect(capture.uncommittedBytes).toBe(8192);
  capture.endSending();
  expect(capture.uncommittedBytes).toBe(8192);
});

test('rounds end in a cut when they are small, stop shrinking, are too many, or have left many layers', () => {
  const { lastRoundBytes, roundsMax } = limits.agent;
  const big = lastRoundBytes * 10;
  const first = { round: 0, bytes: big, previousBytes: null, layers: 0 };
  const second = { round: 1, bytes: big * 0.5, previousBytes: big, layers: 1 };
  expect(nextStep(first)).toBe('round');
  expect(nextStep({ ...first, bytes: lastRoundBytes })).toBe('cut');
  expect(nextStep(second)).toBe('round');
  expect(nextStep({ ...second, bytes: big * 0.95 })).toBe('cut');
  expect(nextStep({ ...second, round: roundsMax })).toBe('cut');
  expect(nextStep({ ...second, layers: limits.wire.layersPendingMax / 2 })).toBe('cut');
});

/** The agent's leaf file when something goes wrong beside it: a crash while the change log is slow, and a sync that fails. */
import { expect, test } from 'vitest';
import { readDiskState } from '../../src/agent/disk-state.ts';
import { ReplicaDisk } from '../../src/agent/replica-disk.ts';
import { openNbdCapture } from '../../src/capture/nbd-open.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import type { Opened } from '../../src/wire/opened.ts';
import { SparseBytes } from '../simulated-bytes.ts';
import { SimulatedFiles } from '../simulated-files.ts';

const blockSize = 4096;
const blocks = 100;
const image = '/images/vda.raw';
const stateDirectory = '/state';
const clock: Clock = { ...systemClock, after: () => ({ cancel: () => undefined }) };

async function started(files: SimulatedFiles): Promise<{ capture: NbdCapture; disk: ReplicaDisk }> {
  const state = await readDiskState(files, stateDirectory, 'vda');
  const common = { files, clock, random: systemRandom, owner: 'm/vda', name: 'vda', image, blockSize, stateDirectory };
  const lock = () => Promise.resolve({ release: () => Promise.resolve() });
  const capture = await openNbdCapture({ ...common, hadLog: state !== null, lock });
  return { capture, disk: await ReplicaDisk.open({ capture, files, directory: stateDirectory, state }) };
}

function openedAt(disk: ReplicaDisk, point: number | null): Opened {
  const root = Buffer.from(disk.leaves.committedRoot()).toString('hex');
  const committed = point === null ? null : { point, cutTimeMs: 1, size: blocks * blockSize, root };
  const [diskId, leafKey] = ['11'.repeat(16), '22'.repeat(32)];
  return { disk: 0, diskId, epoch: 1, nextCounter: 1, committed, layers: null, leaves: 'compare', leafKey };
}

test('a block the comparison named is in the change log before the leaf of the target is in the leaf file', async () => {
  const files = new SimulatedFiles(['/images', stateDirectory]);
  files.plant(image, new SparseBytes(undefined, blocks * blockSize));
  const { capture, disk } = await started(files);
  disk.opened(openedAt(disk, null));
  capture.swap();
  capture.endSending();
  disk.committed(5);
  await disk.fold();
  disk.opened(openedAt(disk, 5));
  await disk.settle();

  const survivors: SimulatedFiles[] = [];
  files.watch = () => survivors.push(files.copy());
  const step = files.step.bind(files);
  files.step = async (operation, filePath) => {
    for (let turn = 0; turn < 50 && filePath.includes('.hrl'); turn += 1) await systemClock.turn();
    await step(operation, filePath);
  };
  const theirs = new Uint8Array(32).fill(7);
  disk.differs(42, theirs);
  capture.swap();
  await disk.checkpoint(10);
  survivors.push(files.copy());

  const found: boolean[] = [];
  for (const survivor of survivors) {
    const after = await started(survivor);
    const taken = Buffer.compare(after.disk.leaves.get(42), theirs) === 0;
    if (taken) expect(after.capture.currentMask(42)).toBe(0xffff);
    found.push(taken);
  }
  expect([found[0], found.at(-1)]).toEqual([false, true]);
});

test('a leaf file whose sync failed once is replaced before the next session, and points go on', async () => {
  const files = new SimulatedFiles(['/images', stateDirectory]);
  files.plant(image, new SparseBytes(undefined, blocks * blockSize));
  const { capture, disk } = await started(files);
  const commit = (point: number): Promise<void> => {
    capture.swap();
    capture.endSending();
    disk.leaves.set(7, new Uint8Array(32).fill(point));
    disk.committed(point);
    return disk.fold();
  };
  disk.opened(openedAt(disk, null));
  await commit(1);
  let faults = 1;
  files.fault = (operation, filePath) => {
    if (operation !== 'datasync' || !filePath.endsWith('.leaves') || faults === 0) return null;
    faults -= 1;
    return { code: 'EIO' };
  };
  await expect(commit(2)).rejects.toMatchObject({ code: 'sync-failed' });
  disk.sessionEnded();

  await disk.mend();
  expect([disk.knownPoint, disk.resync?.reason, capture.currentBlocks]).toEqual([null, 'leaves-lost', blocks]);
  disk.opened(openedAt(disk, 2));
  expect([disk.comparisonDue, disk.surveyDue]).toEqual([true, true]);
  await disk.settle();
  await commit(3);
  expect([disk.knownPoint, disk.resync, files.violations]).toEqual([3, null, []]);
  await disk.close();
  const again = await started(files);
  expect([again.disk.knownPoint, again.capture.currentBlocks]).toEqual([3, 0]);
});

/** A sync of the agent's leaf file fails: it is a cache, so it is made anew and the disk compared, without a restart. */
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
  const root = Buffer.from(disk.leaves.workingRoot()).toString('hex');
  const committed = point === null ? null : { point, cutTimeMs: 1, size: blocks * blockSize, root };
  const [diskId, leafKey] = ['11'.repeat(16), '22'.repeat(32)];
  return { disk: 0, diskId, epoch: 1, nextCounter: 1, committed, layers: [], leaves: 'compare', leafKey };
}

test('a leaf file whose sync failed once is replaced before the next session, and points go on', async () => {
  const files = new SimulatedFiles(['/images', stateDirectory]);
  files.plant(image, new SparseBytes(undefined, blocks * blockSize));
  const { capture, disk } = await started(files);
  const commit = (point: number): Promise<void> => {
    capture.swap();
    capture.endSending();
    disk.leaves.set(7, new Uint8Array(32).fill(point));
    return disk.committed(point);
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

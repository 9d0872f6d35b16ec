/** A real block device under capture: who wrote to it while the agent was away, and whether it is the same one, is seen by what Linux counts. */
import { spawnSync } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, open, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { makeCutAll } from '../../src/capture/cut.ts';
import { openNbdCapture } from '../../src/capture/nbd-open.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { openScanCapture } from '../../src/capture/scan.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { requireRoot, requireTool, runToolOk } from '../tools.ts';
import { blockSize, commitAll } from './setup.ts';

const diskBytes = 16 * MiB;
const blocks = diskBytes / blockSize;

let home = '';
const attached = new Set<string>();

async function attach(name: string, device?: string): Promise<string> {
  const file = path.join(home, name);
  await writeFile(file, '', { flag: 'a' });
  await truncate(file, diskBytes);
  const to = device === undefined ? ['--find', '--show', '--partscan', file] : [device, file];
  const printed = (await runToolOk('losetup', to)).trim();
  const found = device ?? printed;
  attached.add(found);
  return found;
}

async function detach(device: string): Promise<void> {
  if (attached.delete(device)) await runToolOk('losetup', ['--detach', device]);
}

beforeEach(async () => {
  home = await mkdtemp(path.join(tmpdir(), 'tidemark-device-'));
});
afterEach(async () => {
  for (const device of attached) await detach(device);
  await rm(home, { recursive: true, force: true });
});
process.on('exit', () => {
  for (const device of attached) spawnSync('losetup', ['--detach', device]);
});

function openDevice(image: string, state = 'state'): Promise<NbdCapture> {
  return openNbdCapture({
    files: posixFiles,
    clock: systemClock,
    random: systemRandom,
    image,
    name: 'vda',
    owner: 'web1/vda',
    blockSize,
    stateDirectory: path.join(home, state),
    hadLog: true,
  });
}

/** What a start finds. */
async function found(device: string, state?: string): Promise<[loss: string | null, blocks: number]> {
  const capture = await openDevice(device, state);
  const said = [capture.logLoss, capture.currentBlocks] as [string | null, number];
  await capture.close();
  return said;
}

/** Protected, written to, all of it committed, stopped in order. */
async function stopped(device: string): Promise<void> {
  const capture = await openDevice(device);
  await commitAll(capture);
  await capture.write(Buffer.alloc(4096, 9), 2 * MiB, false);
  await commitAll(capture);
  await capture.close();
}

async function writeSector(device: string, at: number): Promise<void> {
  const handle = await open(device, 'r+');
  await handle.write(Buffer.alloc(512, 7), 0, 512, at);
  await handle.close();
}

const changed = ['changed-behind', blocks];

describe.skipIf(!requireTool('losetup', 'addpart', 'blkdiscard', 'mke2fs') || !requireRoot('loop devices'))(
  'a block device',
  () => {
    test('that nobody touched goes on where it was, as often as it is asked; its own writes are not held against it', async () => {
      const device = await attach('disk');
      await stopped(device);
      expect(await found(device)).toEqual([null, 0]);
      await stopped(device);
      expect(await found(device)).toEqual([null, 0]);
    });

    test('that was mounted and written to while the agent was stopped is compared', async () => {
      const device = await attach('disk');
      await runToolOk('mke2fs', ['-q', '-F', device]);
      await stopped(device);
      const mount = path.join(home, 'mount');
      await mkdir(mount);
      await runToolOk('mount', [device, mount]);
      await writeFile(path.join(mount, 'new'), Buffer.alloc(300_000, 7));
      await runToolOk('umount', [mount]);
      expect(await found(device)).toEqual(changed);
      expect(await found(device)).toEqual([null, blocks]);
    });

    test.each<[string, (device: string) => Promise<unknown>]>([
      ['one sector', (device) => writeSector(device, 0)],
      ['a discard', (device) => runToolOk('blkdiscard', ['--length', '4096', device])],
    ])('%s while the agent was stopped is enough', async (_what, change) => {
      const device = await attach('disk');
      await stopped(device);
      await change(device);
      expect(await found(device)).toEqual(changed);
    });

    test('is told from another one of its size under its name, whether the agent was stopped or killed', async () => {
      const device = await attach('disk');
      const running = await openDevice(device);
      await commitAll(running);
      await running.write(Buffer.alloc(4096, 9), 15 * MiB, true);
      for (const each of ['killed', 'killed-and-replaced']) {
        await mkdir(path.join(home, each));
        await copyFile(path.join(home, 'state/vda.hrl'), path.join(home, each, 'vda.hrl'));
      }
      await commitAll(running);
      await running.close();
      const hotRegion = 64;
      expect(await found(device, 'killed')).toEqual([null, hotRegion]);
      await detach(device);
      await attach('another', device);
      expect(await found(device)).toEqual(changed);
      expect(await found(device, 'killed-and-replaced')).toEqual(changed);
    });

    test('that is scanned as frozen and is written to in the cycle voids the cut', async () => {
      const device = await attach('disk');
      const capture = await openScanCapture({ files: posixFiles, image: device, name: 'vda', blockSize, frozen: true });
      // Written before the cycle, and still in the page cache: none of its business.
      await writeSector(device, 0);
      await capture.beginCycle();
      capture.mark(0, 1);
      await makeCutAll(systemClock)([capture], 1000);
      const into = Buffer.alloc(blockSize);
      await capture.readBlocks(0, into);
      expect(capture.cutVoid).toBeNull();
      await writeSector(device, MiB);
      await expect(capture.readBlocks(0, into)).rejects.toThrow('declared frozen');
      await capture.close();
    });

    test('that is a partition can be changed through the disk it is part of; a scan minds only its own', async () => {
      const whole = await attach('disk');
      await runToolOk('addpart', [whole, '1', '2048', '8192']);
      await runToolOk('addpart', [whole, '2', '16384', '8192']);
      const [first, second] = [`${whole}p1`, `${whole}p2`];
      await stopped(first);
      expect(await found(first)).toEqual([null, 0]);
      await writeSector(whole, 2048 * 512);
      expect(await found(first)).toEqual(['changed-behind', 64]);
      const capture = await openScanCapture({ files: posixFiles, image: first, name: 'a', blockSize, frozen: true });
      await capture.beginCycle();
      await makeCutAll(systemClock)([capture], 1000);
      const into = Buffer.alloc(blockSize);
      await writeSector(second, 0);
      await capture.readBlocks(0, into);
      await writeSector(first, 0);
      await expect(capture.readBlocks(0, into)).rejects.toThrow('declared frozen');
      await capture.close();
    });
  },
);

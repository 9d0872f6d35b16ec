/** The leaf file, a cache, can not be written at the commit of a point. */
import { afterEach, expect, test } from 'vitest';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { Problem } from '../../src/kit/problem.ts';
import { decodeCommitted } from '../../src/wire/committed.ts';
import { frameType } from '../../src/wire/frame.ts';
import { blockSize, diskSize, TargetSite, type OpenedDisk, type Peer } from './peer.ts';
import { runOf } from '../layers.ts';

const sites: TargetSite[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

/** Files that take no leaves while `space.none`. */
function filesWithoutLeaves(space: { none: boolean }): Files {
  return {
    ...posixFiles,
    open: async (path, mode, permissions) => {
      const file = await posixFiles.open(path, mode, permissions);
      const writeSync = file.writeSync.bind(file);
      const truncate = file.truncate.bind(file);
      const refuse = (): void => {
        if (space.none && path.includes('/leaves/'))
          throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
      };
      file.writeSync = (part, position) => {
        refuse();
        writeSync(part, position);
      };
      file.truncate = async (size) => {
        refuse();
        await truncate(size);
      };
      return file;
    },
  };
}

/**
 * Files of which the leaf file fails a sync while `disk.failing`, as Linux does it: what was to be written is forgotten, and reads give what was there
 * before, as they do once the page has left the cache.
 */
function filesThatForget(disk: { failing: boolean }): Files {
  return {
    ...posixFiles,
    open: async (path, mode, permissions) => {
      const file = await posixFiles.open(path, mode, permissions);
      if (!path.endsWith('/leaves/0')) return file;
      const writeSync = file.writeSync.bind(file);
      const datasync = file.datasync.bind(file);
      let unsynced: { before: Uint8Array; position: number }[] = [];
      let failed = false;
      const refuse = (): never => {
        failed = true;
        for (const { before, position } of unsynced.splice(0)) writeSync(before, position);
        throw new Problem('sync-failed', 'EIO: i/o error, fdatasync');
      };
      file.writeSync = (part, position) => {
        if (failed) refuse();
        const before = new Uint8Array(part.byteLength);
        file.readSync(before, position);
        unsynced.push({ before, position });
        writeSync(part, position);
      };
      file.datasync = async () => {
        if (failed || disk.failing) refuse();
        unsynced = [];
        await datasync();
      };
      return file;
    },
  };
}

async function leafHex(peer: Peer, disk: OpenedDisk, block: number): Promise<string> {
  return Buffer.from(await peer.checksums(disk, { level: 'leaves', first: block, count: 1 })).toString('hex');
}

/** A point over one more block. */
async function pointOver(
  site: TargetSite,
  peer: Peer,
  disk: OpenedDisk,
  block: number,
): Promise<{ point: number; leaf: Uint8Array }> {
  const seq = peer.cycle(disk);
  const leaf = peer.sealed(disk, seq, block);
  await peer.next(frameType.durable);
  peer.point(Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex'), [seq]);
  return { point: decodeCommitted((await peer.next(frameType.committed)).body).point, leaf };
}

test('incident 20: a durable point is answered COMMITTED though the leaf file failed, and the disk is compared', async () => {
  const space = { none: false };
  const site = await TargetSite.start({ files: filesWithoutLeaves(space) });
  sites.push(site);
  const { peer, disk } = await site.session();
  const first = await pointOver(site, peer, disk, 1);
  space.none = true;
  const second = await pointOver(site, peer, disk, 2);
  expect([first.point, second.point]).toEqual([1, 2]);
  expect(site.logged.filter((line) => line.includes('leaf file could not be written'))).toHaveLength(1);
  const { peer: again, disk: known } = await site.session('m1', 2);
  expect(known.opened).toMatchObject({ leaves: 'compare', committed: { point: 2 }, layers: null });
  // What it says is that of its newest point, though the file does not have it.
  const wanted = Buffer.alloc((diskSize / blockSize) * 32);
  wanted.set(first.leaf, 32);
  wanted.set(second.leaf, 2 * 32);
  expect(await again.allLeaves(known)).toEqual(wanted);
  space.none = false;
  expect((await pointOver(site, again, known, 3)).point).toBe(3);
  expect((await site.session('m1', 3)).disk.opened.leaves).toBe('since');
});

test('a leaf file whose sync failed is made anew from the index, at the next opening or the next start', async () => {
  const disk = { failing: false };
  let site = await TargetSite.start({ files: filesThatForget(disk) });
  sites.push(site);
  const { peer, disk: opened } = await site.session();
  const written: string[] = [];
  const write = async (from: Peer, to: OpenedDisk, fill: number): Promise<void> => {
    const seq = from.cycle(to);
    written.push(Buffer.from(from.sealed(to, seq, 3, 0, fill)).toString('hex'));
    await from.next(frameType.durable);
    from.point(Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex'), [seq]);
    await from.next(frameType.committed);
  };
  await write(peer, opened, 1);
  disk.failing = true;
  await write(peer, opened, 2);
  disk.failing = false;
  const { peer: again, disk: known } = await site.session('m1', 2);
  expect(known.opened).toMatchObject({ leaves: 'since', committed: { point: 2 } });
  expect(await leafHex(again, known, 3)).toBe(written[1]);
  disk.failing = true;
  await write(again, known, 4);
  disk.failing = false;
  sites.pop();
  site = await site.restarted();
  sites.push(site);
  const { peer: last, disk: found } = await site.session();
  expect(await leafHex(last, found, 3)).toBe(written[2]);
  await write(last, found, 5);
});

test('a durable batch whose leaves could not be laid is compared by its leaves all the same', async () => {
  const space = { none: false };
  const site = await TargetSite.start({ files: filesWithoutLeaves(space) });
  sites.push(site);
  const { peer, disk } = await site.session();
  await pointOver(site, peer, disk, 1);
  space.none = true;
  await pointOver(site, peer, disk, 2);
  const { peer: comparing, disk: compared } = await site.session('m1', 2);
  expect(compared.opened).toMatchObject({ leaves: 'compare', committed: { point: 2 }, layers: null });
  const before = await leafHex(comparing, compared, 2);
  expect(before).not.toBe('00'.repeat(32));
  // The chunk it goes to still waits to be written.
  const seq = comparing.cycle(compared);
  const leaf = Buffer.from(comparing.sealed(compared, seq, 2, 0, 77)).toString('hex');
  await comparing.next(frameType.error);
  space.none = false;
  const { peer: last, disk: known } = await site.session('m1', 2);
  expect(known.opened.layers).toEqual(runOf([seq]));
  expect(await leafHex(last, known, 2)).toBe(leaf);
  expect(await leafHex(last, known, 1)).not.toBe('00'.repeat(32));
});

test('a disk whose leaf file could not follow its growth is opened again at the new size', async () => {
  const space = { none: false };
  const site = await TargetSite.start({ files: filesWithoutLeaves(space) });
  sites.push(site);
  const { peer, disk } = await site.session();
  await pointOver(site, peer, disk, 1);
  const more = { size: 3000 * blockSize };
  space.none = true;
  await expect(site.session('m1', null, more)).rejects.toThrow('closed');
  await expect(site.session('m1', null, more)).rejects.toThrow('closed');
  space.none = false;
  const { peer: last, disk: known } = await site.session('m1', null, more);
  expect(known.opened).toMatchObject({ leaves: 'compare', committed: { point: 1 } });
  expect(await leafHex(last, known, 1)).not.toBe('00'.repeat(32));
  expect(await leafHex(last, known, 2999)).toBe('00'.repeat(32));
});

/** The leaf file, a cache, can not be written at the commit of a point. */
import { afterEach, expect, test } from 'vitest';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { decodeCommitted } from '../../src/wire/committed.ts';
import { frameType } from '../../src/wire/frame.ts';
import { TargetSite, type OpenedDisk, type Peer } from './peer.ts';

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
      file.writeSync = (part, position) => {
        if (space.none && path.includes('/leaves/')) {
          throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
        }
        writeSync(part, position);
      };
      return file;
    },
  };
}

async function pointOver(site: TargetSite, peer: Peer, disk: OpenedDisk, block: number): Promise<number> {
  const seq = peer.cycle(disk);
  peer.sealed(disk, seq, block);
  await peer.next(frameType.durable);
  peer.point(Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex'), [seq]);
  return decodeCommitted((await peer.next(frameType.committed)).body).point;
}

test('incident 20: a durable point is answered COMMITTED though the leaf file failed, and the disk opens in full', async () => {
  const space = { none: false };
  const site = await TargetSite.start({ files: filesWithoutLeaves(space) });
  sites.push(site);
  const { peer, disk } = await site.session();
  expect(await pointOver(site, peer, disk, 1)).toBe(1);
  space.none = true;
  expect(await pointOver(site, peer, disk, 2)).toBe(2);
  expect(site.logged.filter((line) => line.includes('leaf file could not be written'))).toHaveLength(1);
  const { peer: again, disk: known } = await site.session('m1', 2);
  expect(known.opened).toMatchObject({ leaves: 'full', committed: { point: 2 }, layers: [] });
  space.none = false;
  expect(await pointOver(site, again, known, 3)).toBe(3);
  expect((await site.session('m1', 3)).disk.opened.leaves).toBe('since');
});

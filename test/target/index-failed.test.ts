/** The index of one machine can not be written (its file system is full): the others go on, and it goes on when there is space. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type * as reader from '../../src/store/index-reader.ts';
import { decodeErrorMessage } from '../../src/wire/error.ts';
import { frameType } from '../../src/wire/frame.ts';
import { TargetSite } from './peer.ts';
import { withLayer } from '../../src/kernels/layer-run.ts';

const space = vi.hoisted(() => ({ none: false }));

/** As LMDB rejects writes whose transaction failed: each promise, and a promise within each error. */
function commitFailed(): Promise<never> {
  const commitError = Promise.reject(new Error('No space left on device'));
  return Promise.reject(Object.assign(new Error('Commit failed (see commitError for details)'), { commitError }));
}

vi.mock('../../src/store/index-reader.ts', async (load) => {
  const real = await load<typeof reader>();
  return {
    ...real,
    openStores: (directory: string, readOnly: boolean) => {
      const stores = real.openStores(directory, readOnly);
      for (const store of [stores.records, stores.batches, stores.layers, stores.state]) {
        const put = store.put.bind(store) as (...args: unknown[]) => Promise<boolean>;
        store.put = (...args: unknown[]) => (space.none ? commitFailed() : put(...args));
        const ifVersion = store.ifVersion.bind(store) as (...args: unknown[]) => Promise<boolean>;
        (store as { ifVersion: unknown }).ifVersion = (key: unknown, version: unknown, puts: () => void) => {
          if (!space.none) return ifVersion(key, version, puts);
          puts();
          return commitFailed();
        };
      }
      return stores;
    },
  };
});

const unheard: unknown[] = [];
const note = (reason: unknown): void => void unheard.push(reason);
const sites: TargetSite[] = [];

beforeEach(() => {
  unheard.splice(0);
  process.on('unhandledRejection', note);
});
afterEach(async () => {
  space.none = false;
  for (const site of sites.splice(0)) await site.remove();
  process.off('unhandledRejection', note);
});

test('incident 10: a full file system under one index ends neither the process nor the machine for good', async () => {
  const site = await TargetSite.start();
  sites.push(site);
  const { peer, disk } = await site.session();
  const first = site.store();
  const seq = peer.cycle(disk);
  peer.sealed(disk, seq, 1);
  await peer.next(frameType.durable);
  await first.disks[0]?.leavesSince(0).next();
  space.none = true;
  peer.sealed(disk, peer.cycle(disk), 2);
  const told = decodeErrorMessage((await peer.next(frameType.error)).body);
  expect(told).toMatchObject({ code: 'store-failed', retryable: true });
  space.none = false;

  // The next session opens the store again; what was durable is known again, indexed or not.
  const { peer: again, disk: known } = await site.session();
  expect(site.store()).not.toBe(first);
  expect(known.opened.layers?.first).toBe(seq);
  const last = again.cycle(known);
  again.sealed(known, last, 3);
  await again.next(frameType.durable);
  again.point(
    Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex'),
    withLayer(known.opened.layers, last),
  );
  await again.next(frameType.committed);
  expect(site.target.counters.storesFailed).toBe(1);
  expect(unheard).toEqual([]);
});

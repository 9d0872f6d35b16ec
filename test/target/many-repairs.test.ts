/** A proof that finds very many damaged blocks at once. */
import { afterEach, expect, test } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { invariant } from '../../src/kit/invariant.ts';
import { limits } from '../../src/limits.ts';
import { FrameMemory } from '../../src/kit/frame-memory.ts';
import { SlabPool } from '../../src/kit/slab-pool.ts';
import { TargetSession } from '../../src/target/session.ts';
import { frameType } from '../../src/wire/frame.ts';
import { decodeRepair } from '../../src/wire/repair.ts';
import { memoryPair, testPeer } from '../transport/memory-connection.ts';
import { Peer, silent, TargetSite } from './peer.ts';

const sites: TargetSite[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

test('incident 9: more damaged blocks than one REPAIR may name are asked for in several', async () => {
  const site = await TargetSite.start();
  sites.push(site);
  await site.session();
  const store = site.store();
  const { client, server } = memoryPair(testPeer('process-server', 'ps-1'), testPeer('target', 't-1'));
  const peer = new Peer(client, server);
  const session = new TargetSession(server, {
    version: 'test',
    clock: systemClock,
    logger: silent(),
    counters: site.target.counters,
    memory: new FrameMemory(new SlabPool(0)),
    admit: () => Promise.resolve({ store, epoch: 1 }),
    committed: () => undefined,
    gap: () => undefined,
    ended: () => undefined,
  });
  peer.hello('m1');
  await peer.openDisk();
  const blocks = Array.from({ length: limits.wire.repairsPerFrameMax * 2 + 1 }, (_, block) => block);
  const disk = store.disks[0];
  invariant(disk, 'the disk is open');
  session.requestRepair(disk, blocks);
  const asked: number[] = [];
  while (asked.length < blocks.length) {
    asked.push(...decodeRepair((await peer.next(frameType.repair)).body, blocks.length));
  }
  expect(asked).toEqual(blocks);
  client.close(1000, 'done');
});

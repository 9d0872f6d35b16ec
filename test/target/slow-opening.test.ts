/** Opening a store can take longer than a peer is given for its first frame. */
import { afterEach, expect, test, vi } from 'vitest';
import type * as real from '../../src/limits.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { frameType } from '../../src/wire/frame.ts';
import { TargetSite } from './peer.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { limits, ...rest } = await load<typeof real>();
  return { ...rest, limits: { ...limits, wire: { ...limits.wire, firstFrameMs: 50 } } };
});

const sites: TargetSite[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

test('incident 17: a store that opens slowly does not end the session that said HELLO in time', async () => {
  const site = await TargetSite.start({ opening: () => systemClock.sleep(200) });
  sites.push(site);
  const peer = site.connect();
  peer.hello('m1');
  await peer.next(frameType.welcome);
});

test('a peer that says nothing is closed', async () => {
  const site = await TargetSite.start();
  sites.push(site);
  expect(await site.connect().connection.closed).toMatchObject({ reason: 'timeout' });
});

/** A survey with several pieces under way, one of which can not be read, or not be judged: what lies behind it was hashed, and it itself was not. */
import { afterEach, expect, test, vi } from 'vitest';
import { inlineHasher, type BlockHasher } from '../../src/agent/hash-blocks.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { changeBehind, lose } from './losses.ts';
import { readBack } from './read-back.ts';
import { Site } from './site.ts';
import { clock } from './surroundings.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  return smallLimits(await load());
});

const blockSize = 4096;
const size = 3000 * blockSize;

const sites: Site[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

test('a piece that could not be read is read again, though the one behind it was hashed', async () => {
  const failing = { first: -1 };
  const inline = inlineHasher(clock);
  const site = await Site.started({
    blockSize,
    sizes: [size],
    hasher: {
      width: 3,
      hash: async (capture, key, runs) => {
        await systemClock.sleep(1);
        if (runs[0]?.first !== failing.first) return inline.hash(capture, key, runs);
        failing.first = -1;
        throw new Problem('EIO', 'not now', { retryable: true });
      },
    },
  });
  sites.push(site);
  await site.point();
  await site.endAgent('close');
  changeBehind(site);
  lose(site, 'log');
  failing.first = 96; // With block 107, which was changed.
  await site.startAgent();
  await site.until(() => failing.first === -1, 'a piece fails');
  await site.proven(await site.point(20_000));
  await site.endAgent('close');
  await site.endTarget('close');
  expect(site.alarms).toEqual([]);
  await readBack(site);
});

test.each(['log', 'both'] as const)('a piece that could not be judged is judged again (%s lost)', async (loss) => {
  const inline = inlineHasher(clock);
  const hash: BlockHasher['hash'] = async (...what) => {
    await systemClock.sleep(1);
    return inline.hash(...what);
  };
  const site = await Site.started({ blockSize, sizes: [size], hasher: { width: 3, hash } });
  sites.push(site);
  await site.point();
  await site.endAgent('close');
  changeBehind(site);
  lose(site, loss);
  await site.startAgent();
  const [replica] = site.agent?.replicas ?? [];
  if (!replica) throw new Error('an agent has a disk');
  const { leaves } = replica;
  const leavesOf = leaves.leavesOf.bind(leaves);
  let failed = false;
  vi.spyOn(leaves, 'leavesOf').mockImplementation((first, count) => {
    if (failed || first !== 96) return leavesOf(first, count);
    failed = true;
    throw new Problem('EIO', 'not now', { retryable: true });
  });
  await site.until(() => failed, 'the leaf file can not be read');
  await site.proven(await site.point(20_000));
  await site.endAgent('close');
  await site.endTarget('close');
  expect(site.alarms).toEqual([]);
  await readBack(site);
});

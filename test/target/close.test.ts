/** A target that ends waits for nobody's turn: what is stored of many machines is checked one step at a time, with pauses in between. */
import { expect, it } from 'vitest';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import { TargetSite } from './peer.ts';

it('ends all checks at once, whoever is in front in their queue', async () => {
  const starts: (() => void)[] = [];
  let sleeping = 0;
  const clock: Clock = {
    ...systemClock,
    sleep: (ms, signal) =>
      new Promise((resolve, reject) => {
        if (ms === limits.target.scrubFirstMs) starts.push(resolve);
        if (ms === limits.target.scrubPauseMs) sleeping += 1;
        signal?.addEventListener('abort', () => {
          reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'));
        });
      }),
  };
  const site = await TargetSite.start({ clock });
  try {
    await site.session('m1');
    await site.session('m2');
    // Checks give way for ever: the one of the second machine with its turn, that of the first behind it.
    site.target.counters.queuedBytes = 1;
    starts[1]?.();
    await expect.poll(() => sleeping).toBe(1);
    starts[0]?.();
    await systemClock.sleep(20);
  } finally {
    await site.remove();
  }
  expect([starts.length, sleeping]).toEqual([2, 1]);
});

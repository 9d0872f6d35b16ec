/** One session ends, another begins: what the older one left under way must neither be lost nor spoil what the newer one does. */
import { afterEach, expect, test, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { readBack } from './read-back.ts';
import { Site, type SiteOptions } from './site.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  return smallLimits(await load());
});

const sites: Site[] = [];
async function started(more: Partial<SiteOptions> = {}): Promise<Site> {
  const site = await Site.started({ blockSize: 4096, sizes: [300_032, 200_192], ...more });
  sites.push(site);
  return site;
}

afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

async function over(site: Site): Promise<number> {
  const last = await site.point();
  for (let point = 1; point <= last; point += 1) await site.proven(point);
  await site.endAgent('close');
  await site.endTarget('close');
  expect(site.alarms).toEqual([]);
  return readBack(site);
}

/** The next sync of `points.log` takes `ms`, as on a real disk; `begun` is called when it begins. */
function slowPoint(site: Site, ms: number, begun: () => void): void {
  const { target } = site;
  if (!target) return;
  let armed = true;
  target.files.trouble = (operation, path) => {
    if (!armed || operation !== 'datasync' || !path.endsWith('points.log')) return undefined;
    armed = false;
    begun();
    return systemClock.sleep(ms);
  };
}

test('a session that opens while its predecessor commits waits for the commit', async () => {
  const site = await started();
  await site.proven(await site.point());
  let cut = false;
  // The point is being made durable; its agent is cut off, and comes back at once with more to send.
  slowPoint(site, 100, () => {
    cut = true;
    void site.write(0, 8192, Buffer.alloc(30_000, 'after'));
    site.agentHop.cutAfter(0);
  });
  await site.write(0, 4096, Buffer.alloc(20_000, 'before'));
  await site.write(1, 4096, Buffer.alloc(20_000, 'before'));
  await site.point();
  expect(cut).toBe(true);
  expect(await over(site)).toBeGreaterThanOrEqual(4);
});

test('a leaf file without space costs a session, and no disk lists a layer twice', async () => {
  const site = await started();
  await site.proven(await site.point());
  const { target } = site;
  let failed = 0;
  if (target)
    target.files.trouble = (operation, path) => {
      if (operation !== 'writeSync' || failed > 0 || !path.endsWith('leaves/0')) return undefined;
      failed += 1;
      throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
    };
  await site.write(0, 4096, Buffer.alloc(20_000, 'one'));
  await site.write(1, 4096, Buffer.alloc(20_000, 'two'));
  await site.point();
  expect(failed).toBe(1);
  site.alarms.length = 0;
  await over(site);
});

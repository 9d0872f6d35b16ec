/** Bits that rot in the target's segments while everything runs: found by the scrub, healed from the source where it has the content still. */
import { rmSync } from 'node:fs';
import * as path from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { flipBit } from '../../scripts/demo/damage.ts';
import type { ReportReply, TargetReport } from '../../src/control/report-schemas.ts';
import { systemClock } from '../../src/kit/clock.ts';
import type { Parts } from '../../src/main/parts.ts';
import { TargetReporter } from '../../src/main/target-report.ts';
import { segmentName } from '../../src/store/segment-format.ts';
import { readBack } from './read-back.ts';
import { Site } from './site.ts';

type Limits = typeof import('../../src/limits.ts');
vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  const small = smallLimits(await load()) as Limits;
  const { limits } = small;
  const often = { scrubFirstMs: 5, scrubEveryMs: 10, scrubPauseMs: 1, scrubYieldMs: 5, scrubCpuShare: 0.5 };
  return { ...small, limits: { ...limits, target: { ...limits.target, ...often } } };
});

const sites: Site[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

const blockSize = 65_536;

async function started(): Promise<Site> {
  const site = await Site.started({ blockSize, sizes: [10 * blockSize] });
  sites.push(site);
  return site;
}

/** Flips a bit of the content of the block that the point's own layers hold. */
async function rot(site: Site, block: number, point: number): Promise<void> {
  const store = site.target?.store;
  const layers = store?.points.point(point)?.disks[0]?.layers;
  const records = store?.storedRecords();
  for (let seq = layers?.last ?? 0; records && seq >= (layers?.first ?? 0); seq -= 1) {
    const entry = records.entry(0, block, seq);
    if (!entry) continue;
    await flipBit(path.join(site.store, 'segments', segmentName(entry.segment)), entry.payloadOffset + 5, 1);
    return;
  }
  throw new Error(`point ${point} has no record of block ${block}`);
}

/** Every point that is not damaged reads as the disk was. */
async function over(site: Site, mayBeDamaged: boolean): Promise<void> {
  await site.endAgent('close');
  await site.endTarget('close');
  expect(site.alarms).toEqual([]);
  // By the segments and points.log alone.
  rmSync(path.join(site.store, 'index'), { recursive: true });
  await readBack(site, { mayBeDamaged, rotten: true });
}

/** What control is told of points, which then knows them. */
function told(reporter: TargetReporter, { target }: Site): TargetReport['machines'][number]['points'] {
  if (!target) return [];
  const parts = { clock: systemClock, version: 'test' } as Parts;
  const [report] = reporter.make(parts, target.target, true, 1).machines;
  if (!report) return [];
  reporter.answered({ machines: [{ name: report.name, newestPoint: 2 }] } as unknown as ReportReply);
  return report.points;
}

test('old points are healed from a source that did not change the block since', async () => {
  const site = await started();
  await site.proven(await site.point());
  await site.write(0, 5 * blockSize, Buffer.alloc(blockSize, 'second'));
  await site.proven(await site.point());
  const reporter = new TargetReporter();
  expect(told(reporter, site).length).toBe(2);
  await rot(site, 0, 1);
  await site.until(() => site.stateOf(1) === 'damaged', 'the damage is found');
  await site.until(() => site.stateOf(2) === 'damaged', 'so is who took it over');
  await site.until(() => (site.agent?.replicas[0]?.repair.size ?? 0) > 0, 'the agent was asked');
  expect(told(reporter, site).filter(({ damaged }) => damaged).length).toBe(2);
  await site.point();
  for (const point of [1, 2, 3]) await site.proven(point);
  expect(told(reporter, site)).toMatchObject([1, 2, 3].map((point) => ({ point, damaged: false })));
  expect(told(reporter, site).filter(({ point }) => point < 3)).toEqual([]);
  await over(site, false);
});

test('where the source has it no longer, exactly the points that had it are damaged', async () => {
  const site = await started();
  await site.proven(await site.point());
  await site.write(0, 0, Buffer.alloc(blockSize, 'second'));
  await site.proven(await site.point());
  await site.write(0, 8192, Buffer.alloc(4096, 'third'));
  await site.proven(await site.point());
  await site.write(0, 0, Buffer.alloc(blockSize, 'fourth'));
  await site.proven(await site.point());
  await rot(site, 0, 2);
  await site.until(() => site.stateOf(2) === 'damaged', 'the damage is found');
  await site.until(() => site.stateOf(3) === 'damaged', 'so is who leans on it');
  await site.proven(await site.point());
  await site.until(() => site.stateOf(4) === 'proven', 'what came after is looked at again');
  expect([1, 2, 3, 4, 5].map((point) => site.stateOf(point))).toEqual([
    'proven',
    'damaged',
    'damaged',
    'proven',
    'proven',
  ]);
  expect(site.agent?.replicas[0]?.repair.size).toBe(0);
  await over(site, true);
});

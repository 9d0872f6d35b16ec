/**
 * A link that drops in every cycle. Each attempt makes a little durable and so adds a layer that no point lists yet; there is no number of
 * them at which replication stands still, and what is durable is not sent again.
 */
import { afterEach, expect, test, vi } from 'vitest';
import { frameType } from '../../src/wire/frame.ts';
import { readBack } from './read-back.ts';
import { Site } from './site.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  const small = smallLimits(await load()) as typeof import('../../src/limits.ts');
  // A batch per block, and no more than one on its way.
  const agent = { ...small.limits.agent, batchPayloadBytes: 4096, reconnectMaxMs: 4 };
  const window = 4160;
  const processServer = { ...small.limits.processServer, sessionWindowBytes: window, sessionWindowBytesMin: window };
  return { ...small, limits: { ...small.limits, agent, processServer } };
});

const blockSize = 4096;
const blocks = 48;
let site: Site | undefined;

afterEach(async () => {
  await site?.remove();
  site = undefined;
});

/** Breaks the wire to the target whenever a batch became durable, before anybody is told. */
function dropAtEachBatch(of: Site): { drops: number } {
  const seen = { drops: 0 };
  of.targetHop.tap = (frame) => {
    if (frame[0] !== frameType.durable) return undefined;
    seen.drops += 1;
    return 'cut';
  };
  return seen;
}

async function writeAll(to: Site, what: string): Promise<void> {
  const content = (block: number): Buffer => Buffer.from(`${what} ${block};`.repeat(blockSize)).subarray(0, blockSize);
  for (let block = 0; block < blocks; block += 1) await to.write(0, block * blockSize, content(block));
}

test('a link that drops after each batch: every attempt adds a layer, and the points come', async () => {
  site = new Site({ blockSize, sizes: [blocks * blockSize] });
  await site.startTarget();
  site.newProcessServer();
  const link = dropAtEachBatch(site);
  await site.startAgent();
  await writeAll(site, 'first');
  await site.point();
  await writeAll(site, 'second');
  const second = await site.point();
  expect(link.drops).toBeGreaterThanOrEqual(2 * blocks);
  const listed = site.target?.store?.points.points.map(({ disks }) => disks[0]?.layers?.count ?? 0) ?? [];
  expect(listed.filter((count) => count >= blocks)).toHaveLength(2);
  await site.proven(second);
  await site.endAgent('close');
  await site.endTarget('close');
  await readBack(site);
});

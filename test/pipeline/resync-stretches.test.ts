/**
 * A resync that compares and sends while the rest of the disk is hashed (`agent/resync-stretches.ts`): that it does, and that nothing is lost or sent
 * twice, whatever is interrupted or written while blocks travel and leaves are still being judged.
 */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterEach, expect, test, vi } from 'vitest';
import { inlineHasher, type BlockHasher } from '../../src/agent/hash-blocks.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { frameType } from '../../src/wire/frame.ts';
import { changeBehind, lose } from './losses.ts';
import { readBack } from './read-back.ts';
import { Site, type SiteOptions } from './site.ts';
import { clock } from './surroundings.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  return smallLimits(await load());
});

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const seed = Number(process.env['TIDEMARK_TEST_SEED'] ?? (soak ? Date.now() % 2 ** 31 : 20_261_122));
const numRuns = Number(process.env['TIDEMARK_TEST_RUNS'] ?? (soak ? 200 : 12));
const replay = process.env['TIDEMARK_TEST_PATH'];

const blockSize = 4096;
const blocks = 3 * 1024 - 100;
const size = blocks * blockSize;

const sites: Site[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

/** As threads do it: several pieces at a time, beside everything else. */
function hasherBeside(before: (first: number) => Promise<void> = () => systemClock.sleep(1)): BlockHasher {
  const inline = inlineHasher(clock);
  return {
    width: 3,
    hash: async (capture, key, runs) => {
      await before(runs[0]?.first ?? 0);
      return inline.hash(capture, key, runs);
    },
  };
}

async function replicated(hasher: BlockHasher, more: Partial<SiteOptions> = {}): Promise<Site> {
  const site = await Site.started({ blockSize, sizes: [size], hasher, ...more });
  sites.push(site);
  await site.point();
  await site.endAgent('close');
  return site;
}

/** Frames the agent sent since, and the blocks of its batches. */
function watch(site: Site): { readonly types: number[]; readonly sentBlocks: number[]; hashedAtFirst: number | null } {
  const seen = { types: new Array<number>(), sentBlocks: new Array<number>(), hashedAtFirst: null as number | null };
  site.agentHop.tap = (frame, way) => {
    const type = frame[0] ?? 0;
    if (way === 'back') return undefined;
    seen.types.push(type);
    if (type !== frameType.batch) return undefined;
    const count = frame.readUInt32LE(8 + 12);
    for (let row = 0; row < count; row += 1) seen.sentBlocks.push(frame.readUInt32LE(8 + 16 + row * 48));
    seen.hashedAtFirst ??= site.agent?.agent.report().counters.blocksHashed ?? 0;
    return undefined;
  };
  return seen;
}

async function over(site: Site): Promise<void> {
  await site.proven(await site.point(20_000));
  await site.endAgent('close');
  await site.endTarget('close');
  expect(site.alarms).toEqual([]);
  await readBack(site); // Nothing is lost, and nothing was stored twice.
}

test('blocks that differ travel while the rest is hashed, in one layer, and the point says so', async () => {
  const site = await replicated(hasherBeside());
  const changed = changeBehind(site);
  lose(site, 'leaves');
  const seen = watch(site);
  await site.startAgent();
  const point = await site.point();
  expect(seen.hashedAtFirst).toBeGreaterThanOrEqual(1024);
  expect(seen.hashedAtFirst).toBeLessThan(2 * 1024);
  // Of the second stretch nodes are asked for when blocks of the first are on their way.
  expect(seen.types.lastIndexOf(frameType.checksums)).toBeGreaterThan(seen.types.indexOf(frameType.batch));
  expect(seen.types.filter((type) => type === frameType.cycle)).toHaveLength(1);
  const [disk] = site.target?.store?.points.point(point)?.disks ?? [];
  expect([disk?.kind, disk?.records]).toEqual(['resync', changed]);
  await over(site);
  // Nodes of three stretches, leaves of two of them; the next cycle asks nothing.
  expect(seen.types.filter((type) => type === frameType.checksums)).toHaveLength(5);
});

test('a block that becomes what the target has before its turn comes is not sent, and the root is right', async () => {
  const [block, at] = [107, 107 * blockSize + 99];
  const pending: Promise<void>[] = [];
  const site: Site = await replicated(
    hasherBeside(async (first) => {
      await systemClock.sleep(1);
      // When the last piece of the stretch is begun, that of the block has long been hashed.
      if (first === 1008 && site.resyncOf()?.phase === 'hashing') pending.push(site.write(0, at, original));
    }),
  );
  const original = readFileSync(site.disk(0).image).subarray(at, at + 6);
  changeBehind(site);
  lose(site, 'leaves');
  const seen = watch(site);
  await site.startAgent();
  await site.point();
  await Promise.all(pending);
  expect(pending).toHaveLength(1);
  expect(seen.sentBlocks).not.toContain(block);
  expect(site.agent?.agent.report().counters.pointsRejected).toBe(0);
  await over(site);
});

const deeds = [
  'cut agent',
  'cut target',
  'process-server',
  'target close',
  'target crash',
  'agent close',
  'agent crash',
  'resync',
  'write what was sent',
  'write what was sent',
  'write',
  'write',
] as const;
type Deed = (typeof deeds)[number];

async function act(site: Site, deed: Deed, where: number, sentBlocks: readonly number[]): Promise<void> {
  if (deed === 'cut agent') site.agentHop.cutAfter(where % 3);
  if (deed === 'cut target') site.targetHop.cutAfter(where % 3);
  if (deed === 'process-server') await site.restartProcessServer(where % 2 === 0 ? 'close' : 'crash');
  if (deed === 'target close' || deed === 'target crash') {
    await site.endTarget(deed === 'target close' ? 'close' : 'crash');
    await site.startTarget();
  }
  if (deed === 'agent close' || deed === 'agent crash') {
    await site.endAgent(deed === 'agent close' ? 'close' : 'crash');
    await site.startAgent();
  }
  if (deed === 'resync') site.agent?.agent.requestResync({ now: true });
  if (deed === 'write' || deed === 'write what was sent') {
    const block = deed === 'write' ? where % blocks : (sentBlocks.at(-1) ?? where % blocks);
    // Across the border of two blocks, but for the last.
    const at = Math.min(block * blockSize + (where % blockSize), size - 700);
    await site.write(0, at, Buffer.alloc(700, where % 256));
  }
}

test(
  'random stories around blocks that travel while others are hashed',
  { timeout: soak ? 1_800_000 : 120_000 },
  async () => {
    const step = fc.record({ frames: fc.nat(6), deed: fc.constantFrom(...deeds), where: fc.nat(size) });
    const story = fc.record({
      loss: fc.constantFrom('leaves' as const, 'both' as const),
      spool: fc.boolean(),
      steps: fc.array(step, { minLength: 2, maxLength: 8 }),
    });
    const told = async ({
      loss,
      spool,
      steps,
    }: {
      loss: 'leaves' | 'both';
      spool: boolean;
      steps: readonly { frames: number; deed: Deed; where: number }[];
    }): Promise<void> => {
      const site = await replicated(hasherBeside(), spool ? { spoolBytes: 64 * 1024 * 1024 } : {});
      changeBehind(site);
      lose(site, loss);
      const { types, sentBlocks } = watch(site);
      await site.startAgent();
      for (const { frames, deed, where } of steps) {
        const [from, endMs] = [types.length, clock.monotonicMs() + 300];
        while (types.length < from + frames && clock.monotonicMs() < endMs) await systemClock.sleep(1);
        await act(site, deed, where, sentBlocks);
      }
      await over(site);
      await site.remove();
      sites.splice(sites.indexOf(site), 1);
    };
    await fc.assert(fc.asyncProperty(story, told), {
      seed,
      numRuns,
      ...(replay === undefined ? {} : { path: replay }),
      endOnFailure: true,
    });
  },
);

/**
 * Resync over the whole data path: whatever the agent lost, old points stay, what differs travels and nothing else does, and what was read or
 * sent once is neither read nor sent again, whoever is interrupted where.
 */
import { afterEach, describe, expect, test, vi } from 'vitest';
import { registerAgentSeries } from '../../src/agent/metrics.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { createRegistry } from '../../src/observe/registry.ts';
import { frameType } from '../../src/wire/frame.ts';
import { changeBehind, lose, segmentReads, type Loss } from './losses.ts';
import { readBack } from './read-back.ts';
import { Site, type SiteOptions } from './site.ts';
import { clock } from './surroundings.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  return smallLimits(await load());
});

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';

const blockSize = 4096;
const nodes = 3;
const blocks = nodes * 1024 - 100;
const size = blocks * blockSize;

const sites: Site[] = [];
async function started(more: Partial<SiteOptions> = {}): Promise<Site> {
  const site = await Site.started({ blockSize, sizes: [size], ...more });
  sites.push(site);
  return site;
}

afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

/** Bytes of bodies between agent and process server, by frame type. */
class Traffic {
  readonly bytes = new Map<number, number>();
  readonly frames = new Map<number, number>();

  constructor(site: Site) {
    site.agentHop.tap = (frame) => {
      const type = frame[0] ?? 0;
      this.bytes.set(type, this.of(type) + frame.byteLength - 8);
      this.frames.set(type, (this.frames.get(type) ?? 0) + 1);
      return undefined;
    };
  }

  of(type: number): number {
    return this.bytes.get(type) ?? 0;
  }
}

/** CHECKSUMS of all nodes of the disk, each a stretch. */
const nodesBytes = nodes * (16 + 32);

/** One more point of each, proven; then everything is read back. */
async function over(site: Site): Promise<void> {
  await site.proven(await site.point());
  await site.endAgent('close');
  await site.endTarget('close');
  expect(site.alarms).toEqual([]);
  await readBack(site);
}

function kindOf(site: Site, point: number): string | undefined {
  return site.target?.store?.points.point(point)?.disks[0]?.kind;
}

function hashed(site: Site): number {
  return site.agent?.agent.report().counters.blocksHashed ?? 0;
}

describe('what is lost while the agent is away', () => {
  const cases: [Loss, string, 'compares' | 'knows'][] = [
    ['leaves', 'leaves-lost', 'compares'],
    ['log', 'log-lost', 'knows'],
    ['both', 'log-lost', 'compares'],
    ['json', 'leaves-lost', 'compares'],
    ['state', 'log-new', 'compares'],
    ['touched', 'changed-behind', 'knows'],
    ['header', 'log-damaged', 'knows'],
    ['activity', 'log-damaged', 'knows'],
    ["another disk's log", 'log-foreign', 'knows'],
    ['half the leaves', 'leaves-lost', 'compares'],
    ['too small a disk', 'grown', 'knows'],
  ];

  test.each(cases)('%s: an unchanged disk is read, and no block travels', async (loss, reason, how) => {
    const site = await started();
    const first = await site.point();
    await site.proven(first);
    await site.endAgent('close');
    lose(site, loss);
    const traffic = new Traffic(site);
    const reads = segmentReads(site);
    await site.startAgent();
    await site.until(() => site.resyncOf() !== null || site.acknowledged.size > 1, 'the loss is noticed');
    expect(site.resyncOf()?.reason ?? reason).toBe(reason);
    const point = await site.point();
    expect([kindOf(site, point), kindOf(site, first)]).toEqual(['resync', 'initial']);
    expect(traffic.of(frameType.batch)).toBe(0);
    expect(traffic.of(frameType.leaves)).toBeLessThanOrEqual(8);
    expect(traffic.of(frameType.checksums)).toBe(how === 'compares' ? nodesBytes : 0);
    expect(hashed(site)).toBe(site.disk(0).size / blockSize);
    expect(reads()).toBe(0);
    expect(site.resyncOf()).toBeNull();
    await over(site);
  });

  test.each(cases)('%s: nodes, then leaves, then blocks that changed', async (loss, _, how) => {
    const site = await started();
    await site.point();
    await site.endAgent('close');
    const changed = changeBehind(site);
    lose(site, loss);
    const traffic = new Traffic(site);
    await site.startAgent();
    const reads = segmentReads(site);
    await site.proven(await site.point());
    // To prove what was changed the target reads it: they are counted.
    expect(reads()).toBeGreaterThan(0);
    const leavesBytes = 2 * (16 + 1024 * 32);
    expect(traffic.of(frameType.checksums)).toBe(how === 'compares' ? nodesBytes + leavesBytes : 0);
    const batches = traffic.frames.get(frameType.batch) ?? 0;
    expect(traffic.of(frameType.batch)).toBe(batches * 16 + changed * (48 + blockSize));
    // Once to find them, once to send them.
    expect(hashed(site)).toBe(site.disk(0).size / blockSize + changed);
    await over(site);
  });
});

/** Calls `then` at the n-th read of a block from now on. */
function atRead(site: Site, n: number, then: () => void): void {
  const { agent } = site;
  if (!agent) throw new Error('an agent runs');
  const capture = agent.captureOf(site.disk(0));
  const read = capture.readBlocks.bind(capture);
  let reads = 0;
  capture.readBlocks = (first, into) => {
    const before = reads;
    reads += into.byteLength / blockSize;
    if (before < n && reads >= n) then();
    return read(first, into);
  };
}

/** What may be read again: a checkpoint's worth, and what was read ahead or under way. */
const slackBlocks = (256 * 1024 + 2 * 64 * 1024) / blockSize + 4 * 16;

describe('what interrupts it', () => {
  const interruptions = ['session', 'process-server', 'agent close', 'agent crash'] as const;
  const moments = [40, blocks - 40];
  const all = interruptions.flatMap((what) => [...moments, blocks / 2].map((at) => [what, Math.floor(at)] as const));
  // One of each kind at each of the moments; the long run tries all.
  const cases = soak ? all : all.filter((_, index) => index % 4 === 0);

  /** Resolves when the interruption is over; then the blocks hashed by the agents that are gone. */
  async function interrupted(site: Site, what: (typeof interruptions)[number], at: number): Promise<number> {
    const reached = Promise.withResolvers<number>();
    atRead(site, at, () => {
      reached.resolve(hashed(site));
      if (what === 'session') site.agentHop.cutAfter(0);
      if (what === 'process-server') site.newProcessServer();
      if (what === 'agent crash') site.agent?.files.die().catch(() => undefined);
    });
    site.agent?.agent.requestCycle();
    await reached.promise;
    if (what !== 'agent close' && what !== 'agent crash') return 0;
    const before = site.agent;
    await site.endAgent(what === 'agent close' ? 'close' : 'crash');
    const gone = before?.agent.report().counters.blocksHashed ?? 0;
    await site.startAgent();
    return gone;
  }

  test.each(cases)(
    'an initial replication, %s at block %i: nothing is sent twice, little is read twice',
    async (what, at) => {
      const site = new Site({ blockSize, sizes: [size] });
      sites.push(site);
      await site.startTarget();
      const traffic = new Traffic(site);
      await site.startAgent();
      const reading = interrupted(site, what, at);
      site.newProcessServer();
      const gone = await reading;
      await site.point();
      const stored = site.target?.store?.points.point(1)?.disks[0];
      expect(stored?.kind).toBe('initial');
      expect(gone + hashed(site)).toBeLessThanOrEqual(blocks + slackBlocks);
      expect(traffic.of(frameType.batch)).toBeGreaterThan(size / 3);
      await over(site); // readBack: nothing was stored twice
    },
  );

  test.each(cases)('a survey, %s at block %i: what was hashed is not hashed again', async (what, at) => {
    const site = await started();
    await site.point();
    await site.endAgent('close');
    const changed = changeBehind(site);
    lose(site, 'both');
    await site.startAgent();
    const gone = await interrupted(site, what, at);
    const point = await site.point();
    expect(kindOf(site, point)).toBe('resync');
    expect(gone + hashed(site)).toBeGreaterThanOrEqual(blocks);
    expect(gone + hashed(site)).toBeLessThanOrEqual(blocks + changed + slackBlocks);
    await over(site);
  });

  test.each(soak ? [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16] : [3, 5, 8])(
    'a wire cut at frame %i of a resync',
    async (frames) => {
      const site = await started();
      await site.point();
      await site.endAgent('close');
      const changed = changeBehind(site);
      lose(site, 'leaves');
      site.agentHop.cutAfter(frames);
      await site.startAgent();
      await site.point();
      expect(hashed(site)).toBeLessThanOrEqual(blocks + 2 * changed + slackBlocks);
      await over(site);
    },
  );
});

describe('what goes on meanwhile', () => {
  test('writers write through a survey, a comparison and the sending', async () => {
    const site = await started();
    await site.point();
    await site.endAgent('close');
    changeBehind(site);
    lose(site, 'both');
    await site.startAgent();
    const writing = { on: true };
    const writer = async (seed: number): Promise<void> => {
      for (let turn = 0; writing.on && turn < 1000; turn += 1) {
        const at = (turn * 7_654_321 + seed * 999_999) % (size - 20_000);
        await site.write(0, at, Buffer.alloc(1 + ((turn * 313) % 20_000), `${seed}/${turn};`));
        await systemClock.sleep(2);
      }
    };
    const writers = [writer(1), writer(2)];
    const point = await site.point(20_000);
    writing.on = false;
    await Promise.all(writers);
    expect(kindOf(site, point)).toBe('resync');
    await over(site);
  });

  test('a target with layers that no point lists is compared as it is', async () => {
    const site = await started();
    await site.point();
    for (let at = 0; at < 40; at += 1) await site.write(0, at * 200_000, Buffer.alloc(30_000, `layer ${at}`));
    // A round is sent; the cut behind it is given up, for a write does not end.
    const { agent } = site;
    if (!agent) throw new Error('an agent runs');
    const slowAt = size - 2 * 1024 * 1024;
    agent.files.late = (operation, path, position) =>
      operation === 'write' && path.endsWith('vd0.raw') && position === slowAt ? agent.dead : undefined;
    void site.write(0, slowAt, Buffer.alloc(1024 * 1024, 'slow'));
    agent.agent.requestCycle();
    const given = (): boolean => agent.agent.report().counters.cutsGivenUp > 0;
    await site.until(() => given() && agent.agent.report().inFlightBytes === 0, 'all is durable');
    expect(site.target?.store?.disks[0]?.pending?.count).toBeGreaterThan(0);
    await site.endAgent('crash');
    lose(site, 'leaves');
    const traffic = new Traffic(site);
    await site.startAgent();
    await site.point();
    // But for the write that was under way.
    expect(traffic.of(frameType.batch)).toBeLessThanOrEqual(1.02 * 1024 * 1024);
    await over(site);
  });

  test('a resync that was asked for reads everything, sends nothing of a good replica, and repairs a bad one', async () => {
    const site = await started();
    await site.point();
    const before = hashed(site);
    const traffic = new Traffic(site);
    site.agent?.agent.requestResync({ now: true });
    expect(site.resyncOf()).toMatchObject({ reason: 'requested', phase: 'waiting' });
    await site.until(() => site.resyncOf() === null, 'the resync is over');
    expect(hashed(site) - before).toBe(blocks);
    expect([traffic.of(frameType.batch), traffic.of(frameType.checksums)]).toEqual([0, nodesBytes]);
    expect(kindOf(site, 2)).toBe('resync');
    await over(site);
  });
});

async function seriesOf(site: Site): Promise<string> {
  const registry = createRegistry();
  if (site.agent) registerAgentSeries(registry, site.agent.agent);
  return (await registry.expose()).text;
}

describe('the window', () => {
  const closed = (site: Site, ms = 3_600_000): void => {
    site.resyncOpensAtMs = clock.wallMs() + ms;
  };

  test('a resync waits for it, tracks what is written, and begins when it opens', async () => {
    const site = await started();
    await site.proven(await site.point());
    await site.endAgent('close');
    lose(site, 'leaves');
    closed(site);
    const traffic = new Traffic(site);
    await site.startAgent();
    await site.until(() => site.resyncOf()?.opensAtMs !== null && site.resyncOf() !== null, 'it waits');
    expect(site.resyncOf()).toMatchObject({ reason: 'leaves-lost', phase: 'waiting', opensAtMs: site.resyncOpensAtMs });
    const exposed = await seriesOf(site);
    expect(exposed).toContain('tidemark_disk_resync{machine="m1",disk="vd0",reason="leaves-lost",stage="waiting"} 1');
    expect(exposed).toContain(
      `tidemark_disk_resync_opens_timestamp_seconds{machine="m1",disk="vd0"} ${(site.resyncOpensAtMs ?? 0) / 1000}`,
    );
    expect(hashed(site)).toBe(0);
    await site.write(0, 5000, Buffer.alloc(10_000, 'while it waits'));
    site.agent?.agent.requestCycle();
    await systemClock.sleep(50);
    expect([traffic.of(frameType.checksums), traffic.of(frameType.batch), site.acknowledged.size]).toEqual([0, 0, 1]);
    expect(site.stateOf(1)).toBe('proven');
    closed(site, 100);
    site.agent?.agent.requestCycle();
    await site.until(() => site.acknowledged.size > 1, 'the window opens');
    expect(clock.wallMs()).toBeGreaterThanOrEqual(site.resyncOpensAtMs ?? Infinity);
    expect(await seriesOf(site)).not.toContain('tidemark_disk_resync{');
    await over(site);
  });

  test('`now` does not wait, also for one that waits already', async () => {
    const site = await started();
    await site.point();
    await site.endAgent('close');
    lose(site, 'log');
    closed(site);
    await site.startAgent();
    await site.until(() => site.resyncOf()?.opensAtMs !== null && site.resyncOf() !== null, 'it waits');
    site.agent?.agent.requestResync({ now: false });
    await systemClock.sleep(30);
    expect(site.resyncOf()).toMatchObject({ reason: 'log-lost', phase: 'waiting' });
    site.agent?.agent.requestResync({ now: true });
    await site.until(() => site.acknowledged.size > 1, 'a point');
    // The next one waits again.
    site.agent?.agent.requestResync({ now: false });
    await site.until(() => site.resyncOf()?.opensAtMs === site.resyncOpensAtMs, 'it waits');
    site.resyncOpensAtMs = null;
    site.agent?.agent.requestCycle();
    await site.until(() => site.resyncOf() === null, 'it is done');
    await over(site);
  });

  test('a change log above the limit waits for it, and is sent as a resync without a survey', async () => {
    const site = await started();
    await site.point();
    site.resyncAtDirtyRatio = 0.5;
    closed(site);
    for (let at = 0; at < size * 0.6; at += 100_000) await site.write(0, at, Buffer.alloc(100_000, `over ${at}`));
    const before = hashed(site);
    site.agent?.agent.requestCycle();
    await site.until(() => site.resyncOf() !== null, 'it waits');
    expect(site.resyncOf()).toMatchObject({ reason: 'log-over-limit', phase: 'waiting' });
    expect(hashed(site)).toBe(before);
    site.resyncOpensAtMs = null;
    const point = await site.point();
    expect([kindOf(site, point), site.resyncOf()]).toEqual(['resync', null]);
    expect(hashed(site) - before).toBeLessThan(blocks * 0.62);
    await over(site);
  });

  test('one that closes stops the reading where it is', async () => {
    const site = await started();
    await site.point();
    await site.endAgent('close');
    lose(site, 'both');
    await site.startAgent();
    atRead(site, 1000, () => closed(site, 200));
    await site.until(() => site.resyncOf()?.phase === 'waiting' && hashed(site) > 900, 'it stops');
    expect(hashed(site)).toBeLessThan(1100);
    await site.until(() => site.acknowledged.size > 1, 'it goes on');
    expect(hashed(site)).toBeLessThanOrEqual(blocks + slackBlocks);
    await over(site);
  });
});

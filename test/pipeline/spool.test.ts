/**
 * The spool over the whole data path, against plain memory: targets that die, go away and stall, process servers that are restarted, spools that are lost or
 * whose disk refuses. After each story every committed point is the disks as of its cut, none that was acknowledged is lost, no role met a bug, one more
 * cycle commits, every point is proven, and nothing is left in the spool.
 */
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import fc from 'fast-check';
import { afterEach, expect, test, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { decodeFrame, frameType } from '../../src/wire/frame.ts';
import { decodeOpened } from '../../src/wire/opened.ts';
import { readBack } from './read-back.ts';
import { Site } from './site.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  const small = smallLimits(await load()) as typeof import('../../src/limits.ts');
  return {
    ...small,
    limits: {
      ...small.limits,
      agent: { ...small.limits.agent, pointsPerWait: 2, batchPayloadBytes: 16_384 },
      processServer: {
        ...small.limits.processServer,
        targetRetryBaseMs: 4,
        targetRetryMaxMs: 20,
        spoolAfterMs: 12,
        spoolTailBytes: 64 * 1024,
        spoolFileBytes: 512 * 1024,
        spoolRetryMs: 5,
        spoolLookMs: 20,
      },
    },
  };
});

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const seed = Number(process.env['TIDEMARK_TEST_SEED'] ?? (soak ? Date.now() % 2 ** 31 : 20_261_206));
const numRuns = Number(process.env['TIDEMARK_TEST_RUNS'] ?? (soak ? 300 : 8));
const replay = process.env['TIDEMARK_TEST_PATH'];
const blockSize = 4096;

const sites: Site[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

async function started(spoolBytes: number, intervalMs = 3_600_000): Promise<Site> {
  const site = await Site.started({ blockSize, sizes: [1_000_448, 300_032], intervalMs, spoolBytes });
  sites.push(site);
  await site.point();
  return site;
}

const spooled = (site: Site): number => site.processServer?.spoolReport().usedBytes ?? 0;

/** Points that gaps of the target say were merged. */
function gapsMerged(site: Site): number {
  const gaps = site.target?.store?.points.gaps ?? [];
  return gaps.filter(({ reason }) => reason === 'merged').reduce((sum, { points }) => sum + points, 0);
}

/** Everything is delivered, one more point commits and all are proven, every point is its cut. Answers how many there are. */
async function over(site: Site): Promise<number> {
  site.intervalMs = 3_600_000;
  await site.point(20_000);
  const last = await site.point(20_000);
  for (let point = 1; point <= last; point += 1) await site.proven(point);
  await site.until(() => spooled(site) === 0, 'the spool is empty');
  expect(site.alarms).toEqual([]);
  await site.endAgent('close');
  site.processServer?.close();
  await site.processServer?.settled();
  await site.endTarget('close');
  return readBack(site);
}

/** Some blocks of both disks; then a cut. */
async function cycle(site: Site, what: number): Promise<void> {
  await site.write(0, (what % 40) * 5 * blockSize, Buffer.alloc(4 * blockSize + 700, `${what};`));
  await site.write(1, (what % 7) * 9 * blockSize, Buffer.alloc(300, `${what}.`));
  site.agent?.agent.requestCycle();
}

async function cyclesForMs(site: Site, ms: number, first = 1): Promise<number> {
  let what = first;
  for (const endMs = systemClock.monotonicMs() + ms; systemClock.monotonicMs() < endMs; what += 1) {
    await cycle(site, what);
    await systemClock.sleep(15);
  }
  return what;
}

test('target away: the agent goes on making points, and all of them are there afterwards', async () => {
  const site = await started(64 * 1024 * 1024, 5);
  const before = site.acknowledged.size;
  await site.endTarget('crash');
  await cyclesForMs(site, 400);
  await site.until(() => (site.processServer?.spoolReport().machines[0]?.points ?? 0) >= 5, 'points wait');
  expect(spooled(site)).toBeGreaterThan(0);
  expect(site.processServer?.spoolReport().machines[0]).toMatchObject({
    targetSinceMs: null,
    draining: false,
    failure: null,
  });
  expect(site.acknowledged.size).toBe(before);
  const cuts = site.cuts.size;
  await site.startTarget();
  await site.until(() => spooled(site) === 0, 'drained');
  await site.until(() => site.acknowledged.size >= before + 1, 'told');
  expect(site.said.filter((line) => /read and hashed|was dropped|session.*ended/.test(line))).toEqual([]);
  const points = await over(site);
  expect(points).toBeGreaterThanOrEqual(cuts);
});

test('restarted while the target is away: what was spooled goes out first, under the old instance', async () => {
  for (const how of ['close', 'crash'] as const) {
    const site = await started(64 * 1024 * 1024, 5);
    await site.endTarget('crash');
    await cyclesForMs(site, 300);
    await site.until(() => (site.processServer?.spoolReport().machines[0]?.points ?? 0) >= 3, 'points wait');
    const { points } = site.processServer?.spoolReport().machines[0] ?? { points: 0 };
    await site.restartProcessServer(how);
    await site.until(() => site.processServer?.spoolReport().machines[0]?.draining === true, 'found');
    await site.until(() => site.said.some((line) => line.includes('draining')), 'the agent is refused');
    const committed = (): number => site.target?.store?.points.points.length ?? 0;
    await site.startTarget();
    await site.until(() => spooled(site) === 0, 'drained');
    await site.until(() => committed() >= points, `${how}: its points are committed`);
    expect(site.said.filter((line) => line.includes('was dropped'))).toEqual([]);
    await over(site);
  }
});

test('above its mark: points that wait together become one, and the gap says so', async () => {
  const site = await started(400 * 1024, 5);
  await site.endTarget('crash');
  const report = () => site.processServer?.spoolReport();
  let what = 1;
  while (!['throttling', 'full'].includes(report()?.level ?? '')) what = await cyclesForMs(site, 15, what);
  await site.until(() => (report()?.machines[0]?.points ?? 0) >= 4, 'points wait');
  await site.startTarget();
  await site.until(() => spooled(site) === 0, 'drained');
  const merged = site.processServer?.totals().get('m1')?.pointsMerged ?? 0;
  expect(merged).toBeGreaterThan(0);
  await site.point();
  await site.until(() => gapsMerged(site) === merged, 'gaps tell of all that were merged');
  await over(site);
});

test('holds no key and nothing that anybody wrote', async () => {
  const keys: string[] = [];
  const site = new Site({ blockSize, sizes: [1_000_448, 300_032], intervalMs: 5, spoolBytes: 64 * 1024 * 1024 });
  sites.push(site);
  site.targetHop.tap = (frame) => {
    if (frame[0] !== frameType.opened) return undefined;
    const { leafKey, diskKey } = decodeOpened(decodeFrame(frame).body);
    keys.push(leafKey, diskKey ?? '');
    return undefined;
  };
  await site.startTarget();
  site.newProcessServer();
  await site.startAgent();
  await site.point();
  await site.endTarget('crash');
  await site.write(0, 0, Buffer.alloc(20_000, 'nobody but the owner may read this '));
  site.agent?.agent.requestCycle();
  await site.until(() => (site.processServer?.spoolReport().machines[0]?.points ?? 0) >= 1, 'a point waits');
  await site.until(() => spooled(site) > 0, 'spooled');
  await systemClock.sleep(50);
  const bytes = readdirSync(`${site.spool}/m1`).map((name) => readFileSync(`${site.spool}/m1/${name}`));
  const all = Buffer.concat(bytes);
  expect(all.includes('CYCLE') || all.includes('"seq"')).toBe(true);
  expect(all.includes('nobody but the owner')).toBe(false);
  expect(keys.length).toBeGreaterThanOrEqual(4);
  for (const key of keys) for (const form of [key, Buffer.from(key, 'hex')]) expect(all.includes(form)).toBe(false);
  await site.startTarget();
  await over(site);
});

type Command =
  | { kind: 'cycles'; count: number; what: number }
  | { kind: 'write'; disk: number; where: number; bytes: number; fill: number }
  | { kind: 'target'; how: 'close' | 'crash'; awayMs: number; lost: boolean; restart: boolean }
  | { kind: 'cut'; hop: 'agent' | 'target'; frames: number }
  | { kind: 'stall'; ms: number }
  | { kind: 'process-server'; how: 'close' | 'crash' }
  | { kind: 'lost' }
  | { kind: 'agent'; how: 'close' | 'crash' }
  | { kind: 'trouble'; code: 'ENOSPC' | 'EIO'; ms: number }
  | { kind: 'pause'; ms: number };

const how = fc.constantFrom('close' as const, 'crash' as const);
const oneIn = (many: number) => fc.nat(many - 1).map((each) => each === 0);
const kind = <K extends string>(name: K) => fc.constant(name);
const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ kind: kind('cycles'), count: fc.integer({ min: 1, max: 6 }), what: fc.nat(200) }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: kind('write'),
      disk: fc.nat(1),
      where: fc.nat(),
      bytes: fc.integer({ min: 1, max: 200_000 }),
      fill: fc.nat(255),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: kind('target'),
      how,
      awayMs: fc.constantFrom(0, 60, 150, 300),
      lost: oneIn(6),
      restart: oneIn(4),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: kind('cut'),
      hop: fc.constantFrom('agent' as const, 'target' as const, 'target' as const),
      frames: fc.nat(25),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: kind('stall'), ms: fc.constantFrom(20, 80) }) },
  { weight: 2, arbitrary: fc.record({ kind: kind('process-server'), how }) },
  { weight: 1, arbitrary: fc.record({ kind: kind('lost') }) },
  { weight: 1, arbitrary: fc.record({ kind: kind('agent'), how }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: kind('trouble'),
      code: fc.constantFrom('ENOSPC' as const, 'EIO' as const),
      ms: fc.constantFrom(10, 60),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: kind('pause'), ms: fc.integer({ min: 0, max: 40 }) }) },
);
const stories = fc.record({
  intervalMs: fc.constantFrom(4, 25),
  /** The smallest are full at once. */
  spoolBytes: fc.constantFrom(128 * 1024, 600 * 1024, 8 * 1024 * 1024),
  commands: fc.array(command, { minLength: 4, maxLength: 18 }),
});

const seen = new Map<string, number>();
function count(what: string, by = 1): void {
  seen.set(what, (seen.get(what) ?? 0) + by);
}

/** Of the process server that runs; the next one begins anew. */
function countTotals(site: Site): void {
  const totals = site.processServer?.totals().get('m1');
  count('spooled KiB', Math.round((totals?.spooledBytes ?? 0) / 1024));
  count('merged', totals?.pointsMerged ?? 0);
  count('losses', totals?.targetLosses ?? 0);
  count('dropped', totals?.spoolsDropped ?? 0);
}

async function tell(site: Site, now: Command): Promise<void> {
  switch (now.kind) {
    case 'cycles':
      for (let each = 0; each < now.count; each += 1) {
        await cycle(site, now.what + each);
        await systemClock.sleep(4);
      }
      return;
    case 'write': {
      const { size } = site.disk(now.disk);
      const offset = now.where % size;
      const length = Math.min(now.bytes, size - offset);
      await site.write(now.disk, offset, Buffer.alloc(length, `${now.fill}/${offset}/`));
      return;
    }
    case 'target':
      await site.endTarget(now.how);
      await cyclesForMs(site, now.awayMs);
      if (now.lost) rmSync(site.spool, { recursive: true, force: true });
      if (now.restart) countTotals(site);
      if (now.restart) await site.restartProcessServer('crash');
      await site.startTarget();
      return;
    case 'cut':
      (now.hop === 'agent' ? site.agentHop : site.targetHop).cutAfter(now.frames);
      return;
    case 'stall': {
      const release = site.targetHop.holdForward();
      await systemClock.sleep(now.ms);
      release();
      return;
    }
    case 'process-server':
      countTotals(site);
      await site.restartProcessServer(now.how);
      return;
    case 'lost':
      rmSync(site.spool, { recursive: true, force: true });
      return;
    case 'agent':
      await site.endAgent(now.how);
      await site.startAgent();
      return;
    case 'trouble': {
      const { spoolFiles } = site;
      const refuse = Object.assign(new Error(`${now.code}: refused`), { code: now.code });
      spoolFiles.trouble = (operation) => (operation === 'write' ? Promise.reject(refuse) : undefined);
      await systemClock.sleep(now.ms);
      spoolFiles.trouble = () => undefined;
      return;
    }
    case 'pause':
      await systemClock.sleep(now.ms);
      return;
  }
}

test(
  `any story of targets away, restarts and lost spools ends in true points (seed ${seed})`,
  async () => {
    const story = async (told: typeof stories extends fc.Arbitrary<infer T> ? T : never): Promise<void> => {
      const site = await Site.started({ blockSize, sizes: [1_000_448, 300_032], ...told });
      try {
        await site.point();
        for (const now of told.commands) {
          count(now.kind);
          site.said.push(`-- ${JSON.stringify(now)}`);
          await tell(site, now);
        }
        site.said.push('-- the dust settles');
        count('points', await over(site));
        countTotals(site);
      } catch (error) {
        throw new Error(`${error instanceof Error ? error.stack : String(error)}\n${site.story()}`, { cause: error });
      } finally {
        await site.remove();
      }
    };
    await fc.assert(fc.asyncProperty(stories, story), {
      seed,
      numRuns,
      endOnFailure: true,
      ...(replay === undefined ? {} : { path: replay }),
    });
    console.info(`stories: ${JSON.stringify(Object.fromEntries([...seen].sort()))}`);
    for (const what of ['target', 'cut', 'process-server', 'lost', 'losses', 'points', 'spooled KiB'])
      expect(seen.get(what)).toBeGreaterThan(0);
  },
  soak ? 3_600_000 : 600_000,
);

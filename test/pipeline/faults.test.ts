/** Bits that flip on the way, caches that lie, a target without space, and a `points.log` that can not be made durable. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { afterEach, expect, test, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { batchHeaderBytes, batchRecordBytes } from '../../src/wire/batch.ts';
import { frameHeaderBytes, frameType } from '../../src/wire/frame.ts';
import { readBack } from './read-back.ts';
import { Site, type SiteOptions } from './site.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  return smallLimits(await load());
});

const sites: Site[] = [];
async function started(more: Partial<SiteOptions> = {}): Promise<Site> {
  const site = await Site.started({ blockSize: 4096, sizes: [300_032], ...more });
  sites.push(site);
  return site;
}

afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

/** One more point of each, proven; then everything is read back. */
async function over(site: Site, repaired: readonly string[] = [], mayBeDamaged = false): Promise<void> {
  await site.proven(await site.point());
  await site.endAgent('close');
  await site.endTarget('close');
  expect(site.alarms).toEqual([]);
  await readBack(site, { mayBeDamaged, repaired: new Set(repaired) });
}

/** Flips one bit of the first BATCH (or SEALED) whose first record is of some pages only; counts in `flipped`. */
function flipPayload(
  type: number,
  at: (frame: Buffer) => number,
): { tap: (frame: Buffer) => undefined; flipped: number } {
  const state = {
    flipped: 0,
    tap: (frame: Buffer): undefined => {
      if (frame[0] !== type || state.flipped > 0) return;
      state.flipped += 1;
      const position = at(frame);
      frame[position] = (frame[position] ?? 0) ^ 0x10;
    },
  };
  return state;
}

const firstPayload = (frame: Buffer): number =>
  frameHeaderBytes + batchHeaderBytes + frame.readUInt32LE(frameHeaderBytes + 12) * batchRecordBytes;

test('a bit flipped in some pages of a block is found by the proof and repaired from the source', async () => {
  const site = await started({ blockSize: 65_536 });
  await site.proven(await site.point());
  const flip = flipPayload(frameType.batch, firstPayload);
  site.agentHop.tap = flip.tap;
  let repairs = 0;
  site.targetHop.tap = (frame) => {
    if (frame[0] === frameType.repair) repairs += 1;
    return undefined;
  };
  await site.write(0, 65_536 + 100, Buffer.alloc(3000, 'partial'));
  const bad = await site.point();
  await site.until(() => site.stateOf(bad) === 'damaged', 'the damage is found');
  expect([flip.flipped, bad]).toEqual([1, 2]);
  await site.until(() => repairs > 0, 'the block is asked for');
  await site.until(() => (site.agent?.replicas[0]?.repair.size ?? 0) > 0, 'the agent was asked');
  const good = await site.point();
  expect(site.target?.store?.points.point(good)?.disks[0]?.records).toBe(1);
  await site.proven(good);
  expect(site.target?.store?.disks[0]?.blocksToRepair()).toEqual([]);
  await over(site, ['0/1'], true);
});

test('damage found while the agent is away is repaired when it comes back, also by a restarted target', async () => {
  const site = await started({ blockSize: 65_536 });
  await site.proven(await site.point());
  site.agentHop.tap = flipPayload(frameType.batch, firstPayload).tap;
  await site.write(0, 65_536 + 100, Buffer.alloc(3000, 'partial'));
  const bad = await site.point();
  await site.endAgent('crash');
  await site.until(() => site.stateOf(bad) === 'damaged', 'the damage is found');
  await site.endTarget('crash');
  await site.startTarget();
  await site.startAgent();
  await site.until(() => {
    if (site.agent?.agent.report().state === 'idle') site.agent.agent.requestCycle();
    return site.target?.store?.disks[0]?.blocksToRepair().length === 0;
  }, 'the block was sent again');
  await over(site, ['0/1'], true);
});

test('a point that took over a damaged block is damaged too, not proven', async () => {
  const site = await started({ blockSize: 65_536 });
  await site.proven(await site.point());
  site.agentHop.tap = flipPayload(frameType.batch, firstPayload).tap;
  // The order to send the block again is lost: it names another one.
  site.targetHop.tap = (frame) => {
    if (frame[0] === frameType.repair) frame.writeUInt32LE(2, frameHeaderBytes + 4);
    return undefined;
  };
  await site.write(0, 65_536 + 100, Buffer.alloc(3000, 'partial'));
  const bad = await site.point();
  await site.until(() => site.stateOf(bad) === 'damaged', 'the damage is found');
  await site.write(0, 4 * 65_536, Buffer.alloc(3000, 'elsewhere'));
  const heir = await site.point();
  await site.until(() => site.stateOf(heir) !== 'committed', 'the proof has ended');
  expect(site.stateOf(heir)).toBe('damaged');
  await site.write(0, 65_536, Buffer.alloc(65_536, 'whole'));
  await site.proven(await site.point());
  await over(site, ['0/2'], true);
});

test('a block asked for while some of its pages are packed is sent whole by the next cycle', async () => {
  const site = await started();
  await site.proven(await site.point());
  const { agent } = site;
  if (!agent) throw new Error('an agent runs');
  const capture = agent.captureOf(site.disk(0));
  const read = capture.readBlocks.bind(capture);
  capture.readBlocks = (block, into) => {
    // Reads run ahead of packing by three pieces; blocks that do not lie side by side are a piece each.
    if (block === 41) agent.replicas[0]?.requestRepair([1]);
    return read(block, into);
  };
  for (let block = 1; block <= 41; block += 2) await site.write(0, block * 4096, Buffer.alloc(100, 'partial'));
  await site.point();
  capture.readBlocks = read;
  expect([...(agent.replicas[0]?.repair ?? [])]).toEqual([1]);
  const whole = await site.point();
  expect(site.target?.store?.points.point(whole)?.disks[0]).toMatchObject({ records: 1, payloadBytes: 4096 });
  await over(site, ['0/1']);
});

test('a bit flipped in a whole block never leaves the process server', async () => {
  const site = await started();
  const flip = flipPayload(frameType.batch, firstPayload);
  site.agentHop.tap = flip.tap;
  await site.point();
  expect(flip.flipped).toBe(1);
  expect(site.processServer?.endedByReason.get('leaf-mismatch')).toBe(1);
  await over(site);
});

test.each([
  ['payload', (frame: Buffer): number => frame.byteLength - 1],
  ['rows', (): number => frameHeaderBytes + 64 + 24],
  ['digest', (): number => frameHeaderBytes + 24],
])('a bit flipped in the %s of a sealed batch is refused by the target', async (_, at) => {
  const site = await started();
  const flip = flipPayload(frameType.sealed, at);
  site.targetHop.tap = flip.tap;
  await site.point();
  expect(flip.flipped).toBe(1);
  expect(site.processServer?.endedByReason.get('leaf-mismatch')).toBe(1);
  await over(site);
});

/** Overwrites the leaf of a block in a file, behind the back of who uses it. */
function lie(path: string, block: number): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.alloc(32, 0x5a), 0, 32, block * 32);
  closeSync(fd);
}

test.each([
  ['agent', (site: Site) => `${site.state}/vd0.leaves`],
  ['target', (site: Site) => `${site.store}/leaves/0`],
])(
  'a leaf that changed in the file of a running %s leads to a rejected point, a comparison, a good point',
  async (_, file) => {
    const site = await started();
    await site.proven(await site.point());
    // What follows a point writes the files of both.
    await site.until(() => site.agent?.agent.report().disks[0]?.lagBytes === 0, 'the agent has followed');
    // The leaf of a block nobody writes, in the chunk of one that is written.
    lie(file(site), 60);
    await site.write(0, 0, Buffer.alloc(5000, 'x'));
    const good = await site.point();
    expect(site.target?.target.counters.pointsRejected).toBe(1);
    expect(site.target?.store?.points.point(good)?.disks[0]?.kind).toBe('resync');
    await site.proven(good);
    await over(site, ['0/60']);
  },
);

test.each([
  ['agent', 'close'],
  ['agent', 'crash'],
  ['target', 'close'],
  ['target', 'crash'],
] as const)('a leaf that changed in the file of a stopped %s (%s) is noticed at its start', async (who, how) => {
  const site = await started();
  await site.proven(await site.point());
  if (who === 'agent') {
    await site.endAgent(how);
    lie(`${site.state}/vd0.leaves`, 60);
    await site.startAgent();
  } else {
    await site.endTarget(how);
    lie(`${site.store}/leaves/0`, 60);
    await site.startTarget();
  }
  await site.write(0, 0, Buffer.alloc(5000, 'x'));
  await site.point();
  expect(site.target?.target.counters.pointsRejected).toBe(0);
  await over(site);
});

test('a full target stops acknowledging, loses nothing, and goes on when there is space', async () => {
  const site = await started({ sizes: [2_000_384] });
  const first = await site.point();
  const files = site.target?.files;
  if (!files) throw new Error('a target runs');
  files.free = 1024 * 1024;
  let refused = 0;
  files.trouble = (operation, path) => {
    if (operation !== 'write' || !path.includes('/segments/') || files.free === null) return undefined;
    refused += 1;
    throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
  };
  for (let at = 0; at < 1_900_000; at += 100_000) await site.write(0, at, Buffer.alloc(90_000, `full ${at}`));
  site.agent?.agent.requestCycle();
  await site.until(() => refused > 0 && site.target?.store?.full === true, 'the target is full');
  await systemClock.sleep(100);
  expect(Math.max(...site.acknowledged.keys())).toBe(first);
  expect(site.agent?.agent.report().state).not.toBe('critical');
  files.free = null;
  await site.point();
  expect(site.target?.store?.full).toBe(false);
  await over(site);
});

test('a points.log that can not be synced is fatal: no COMMITTED, and the point is made again after a restart', async () => {
  const site = await started();
  const first = await site.point();
  await site.proven(first);
  const files = site.target?.files;
  if (!files) throw new Error('a target runs');
  files.trouble = (operation, path) => {
    if (operation !== 'datasync' || !path.endsWith('points.log')) return undefined;
    throw Object.assign(new Error('broken disk'), { code: 'EIO' });
  };
  await site.write(0, 0, Buffer.alloc(5000, 'x'));
  site.agent?.agent.requestCycle();
  await site.until(() => site.fatal.length > 0, 'the store asks for its end');
  await systemClock.sleep(50);
  expect(site.fatal[0]?.code).toBe('points-log-sync-failed');
  expect([...site.acknowledged.keys()]).toEqual([first]);
  await site.endTarget('crash');
  await site.startTarget();
  site.alarms.length = 0;
  await over(site);
});

test('a write that is slow to end while rounds go by is in the mask of the block that was read with it', async () => {
  const site = await started({ blockSize: 65_536, sizes: [2_097_152] });
  await site.proven(await site.point());
  const { agent } = site;
  if (!agent) throw new Error('an agent runs');
  // Its data arrives in the second round; nobody hears of its end before the cut wants to.
  const [arrives, ended] = [Promise.withResolvers<undefined>(), Promise.withResolvers<undefined>()];
  const isSlow = (operation: string, path: string, position: number): boolean =>
    operation === 'write' && path.endsWith('vd0.raw') && position === 65_536;
  agent.files.trouble = (...call) => (isSlow(...call) ? arrives.promise : undefined);
  agent.files.late = (...call) => (isSlow(...call) ? ended.promise : undefined);
  const slowWrite = site.write(0, 65_536, Buffer.alloc(4096, 'slow'));
  for (let at = 131_072; at < 2_000_000; at += 65_536) await site.write(0, at, Buffer.alloc(60_000, `first ${at}`));
  const capture = agent.captureOf(site.disk(0));
  const swap = capture.swap.bind(capture);
  let rounds = 0;
  capture.swap = () => {
    const blocks = swap();
    rounds += 1;
    if (rounds === 1) {
      for (let at = 131_072; at < 1_000_000; at += 65_536) void site.write(0, at, Buffer.alloc(60_000, `second ${at}`));
      void site.write(0, 65_536 + 8192, Buffer.alloc(4096, 'beside'));
    }
    if (rounds === 2) arrives.resolve(undefined);
    return blocks;
  };
  site.agent?.agent.requestCycle();
  await site.until(() => rounds >= 2, 'two rounds');
  await systemClock.sleep(100);
  ended.resolve(undefined);
  await slowWrite;
  const point = await site.point();
  await site.proven(point);
  await over(site);
});

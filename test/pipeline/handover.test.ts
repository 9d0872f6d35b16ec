/** One session ends, another begins: what the older one left under way must neither be lost nor spoil what the newer one does. */
import { afterEach, expect, test, vi } from 'vitest';
import { geometryOf } from '../../src/disk/geometry.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { decodeBatch } from '../../src/wire/batch.ts';
import { wireCodes } from '../../src/wire/codes.ts';
import { encodeCycle } from '../../src/wire/cycle.ts';
import { decodeDurable } from '../../src/wire/durable.ts';
import { decodeFrame, frameHeaderBytes, frameType, type Frame } from '../../src/wire/frame.ts';
import { encodeHello, protocolVersion } from '../../src/wire/hello.ts';
import { encodeOpenDisk } from '../../src/wire/open-disk.ts';
import { seqOf } from '../../src/wire/seq.ts';
import type { MemoryConnection } from '../transport/memory-connection.ts';
import { readBack } from './read-back.ts';
import { Site, type SiteOptions } from './site.ts';
import { machine } from './surroundings.ts';
import { peer } from './wires.ts';

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

test('what was durable when a connection was cut is not sent again', async () => {
  const site = await started({ blockSize: 65_536, sizes: [6_000_128] });
  let durable = 0;
  const payloads = new Map<string, number>();
  site.agentHop.tap = (frame, way) => {
    const body = frame.subarray(frameHeaderBytes);
    if (way === 'forward' && frame[0] === frameType.batch) {
      const { seq, batch, payloadBytes } = decodeBatch(body, geometryOf(6_000_128, 65_536));
      payloads.set(`${seq}/${batch}`, payloadBytes);
    }
    if (frame[0] !== frameType.durable) return undefined;
    const { seq, batches } = decodeDurable(body);
    durable = [...Array(batches).keys()].reduce((sum, batch) => sum + (payloads.get(`${seq}/${batch}`) ?? 0), 0);
    return batches >= 3 && site.agent?.agent.report().counters.sessions === 1 ? 'cut' : undefined;
  };
  await site.point();
  const counters = site.agent?.agent.report().counters;
  const whole = site.disk(0).size;
  expect(counters?.sessions).toBe(2);
  const first = counters?.payloadBytesSent ?? 0;
  expect(durable).toBeGreaterThan(0);
  // Everything once, and again at most what was in flight without being known to be durable.
  expect(first).toBeLessThanOrEqual(whole + (counters?.payloadBytesResent ?? 0));
  await site.write(0, 70_000, Buffer.alloc(100, 'x'));
  await site.point();
  expect((counters?.payloadBytesSent ?? 0) - first).toBe(4096);
  await over(site);
});

test('what an older process server still holds is refused once a newer one took over', async () => {
  const site = await started({ sizes: [2_000_384] });
  await site.proven(await site.point());
  const older = site.processServer;
  // The older one's frames are held up on their way to the target; the agent is cut off and finds the newer one.
  const release = site.targetHop.holdForward();
  await site.write(0, 0, Buffer.alloc(400_000, 'old'));
  const before = site.agent?.agent.report().counters.batchesSent ?? 0;
  site.agent?.agent.requestCycle();
  await site.until(() => (site.agent?.agent.report().counters.batchesSent ?? 0) > before, 'a batch is on its way');
  site.newProcessServer('lives on');
  site.agentHop.loseTouch();
  await site.write(0, 0, Buffer.alloc(400_000, 'new'));
  await site.proven(await site.point());
  release();
  await site.until(() => older?.sessions.length === 0, 'the older session ended');
  expect([...(older?.endedByReason.keys() ?? [])]).toEqual(['superseded']);
  expect(site.target?.store?.points.epoch?.epoch).toBe(2);
  expect(site.target?.store?.points.points.map(({ epoch }) => epoch)).toEqual([1, 2]);
  await over(site);
});

/** A process server driven by hand: what it was answered so far, by frame type. */
async function byHand(site: Site, instance: string): Promise<{ wire: MemoryConnection; answers: Frame[] }> {
  const [wire, theirs] = site.targetHop.join(peer('process-server', 'ps-9'), peer('target', 't-1'));
  const answers: Frame[] = [];
  wire.onFrame((frame) => void answers.push(decodeFrame(frame)));
  site.target?.target.accept(theirs);
  await wire.send(
    encodeHello({
      protocol: [protocolVersion],
      role: 'process-server',
      machine,
      version: 'test',
      features: [],
      instance,
    }),
  );
  await site.until(() => answers.some(({ type }) => type === frameType.welcome), 'welcome');
  return { wire, answers };
}

test('a layer of an older epoch is refused, and so is everything of a session that was superseded', async () => {
  const site = await started();
  await site.proven(await site.point());
  await site.endAgent('close');
  const open = { disk: 0, name: 'vd0', size: 300_032, blockSize: 4096, compression: 'off', knownPoint: 1 } as const;
  const older = await byHand(site, 'aa'.repeat(16));
  await older.wire.send(encodeOpenDisk(open));
  await site.until(() => older.answers.some(({ type }) => type === frameType.credit), 'opened');
  const newer = await byHand(site, 'bb'.repeat(16));
  expect((await older.wire.closed).code).toBe(wireCodes.superseded.close);
  await expect(older.wire.send(encodeOpenDisk({ ...open, disk: 1 }))).rejects.toMatchObject({ code: 'closed' });
  await newer.wire.send(encodeOpenDisk(open));
  await site.until(() => newer.answers.some(({ type }) => type === frameType.credit), 'opened');
  const stale = { disk: 0, seq: seqOf(2, 1), kind: 'delta', base: 1, salt: '00'.repeat(32), keyVersion: 1 } as const;
  await newer.wire.send(encodeCycle(stale));
  expect((await newer.wire.closed).code).toBe(wireCodes['stale-epoch'].close);
  await site.startAgent();
  await over(site);
});

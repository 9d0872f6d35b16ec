/** Points that were due and not made, from GAP to the listing of points. */
import { afterEach, expect, test } from 'vitest';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { limits } from '../../src/limits.ts';
import { listPoints } from '../../src/main/recovery.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { Gaps } from '../../src/target/gaps.ts';
import { decodeErrorMessage } from '../../src/wire/error.ts';
import { encodeFrame, frameType, noDisk } from '../../src/wire/frame.ts';
import type { Gap } from '../../src/wire/gap.ts';
import { silent, TargetSite } from './peer.ts';

const sites: TargetSite[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

const drain: Gap = { atMs: 1000, points: 1, reason: 'drain', detail: 'writes did not end in 2 s' };

/** Gaps over a log in memory, and a clock that is moved by hand. */
class Log {
  readonly written: Gap[] = [];
  readonly logged: string[] = [];
  failure: Problem | null = null;
  timer: { ms: number; run: () => void } | null = null;
  readonly gaps = new Gaps({
    store: {
      machine: 'm1',
      recordGap: async (gap) => {
        await systemClock.turn();
        if (this.failure) throw this.failure;
        this.written.push(gap);
      },
    },
    clock: {
      ...systemClock,
      after: (ms, run) => {
        const timer = { ms, run };
        this.timer = timer;
        return { cancel: () => void (this.timer = this.timer === timer ? null : this.timer) };
      },
    } satisfies Clock,
    logger: silent((message) => void this.logged.push(message)),
  });

  /** Time passes. */
  async fire(): Promise<void> {
    const { timer } = this;
    expect(timer?.ms).toBe(limits.target.gapsEveryMs);
    this.timer = null;
    timer?.run();
    await this.settled();
  }

  async settled(): Promise<void> {
    for (let turn = 0; turn < 5; turn += 1) await systemClock.turn();
  }
}

test('the first is noted at once, those that follow as one per reason when the time is over', async () => {
  const log = new Log();
  log.gaps.add(drain);
  await log.settled();
  expect(log.written).toEqual([drain]);
  for (let each = 0; each < 10_000; each += 1) log.gaps.add({ ...drain, atMs: 9000 - (each % 3), detail: `${each}` });
  log.gaps.add({ ...drain, reason: 'hooks', points: 5 });
  await systemClock.turn();
  expect(log.written).toHaveLength(1);
  await log.fire();
  expect(log.written.slice(1)).toEqual([
    { ...drain, atMs: 8998, points: 10_000, detail: '9999' },
    { ...drain, reason: 'hooks', points: 5 },
  ]);
  // Nothing waits: the time after which the next one is noted at once begins with the last that was written.
  await log.fire();
  expect(log.timer).toBeNull();
  log.gaps.add(drain);
  await log.settled();
  expect(log.written).toHaveLength(4);
});

test('without space they wait, merged, and nothing is lost', async () => {
  const log = new Log();
  log.failure = new Problem('full', 'no space left', { retryable: true });
  log.gaps.add(drain);
  await log.settled();
  log.gaps.add({ ...drain, atMs: 2000 });
  await log.fire();
  expect(log.written).toEqual([]);
  expect(log.logged).toEqual(['a gap could not be noted yet', 'a gap could not be noted yet']);
  log.failure = null;
  await log.fire();
  expect(log.written).toEqual([{ ...drain, points: 2 }]);
});

test('what comes while others are written is kept, and stopping writes it', async () => {
  const log = new Log();
  log.gaps.add(drain);
  await systemClock.turn();
  expect(log.written).toEqual([]);
  log.gaps.add({ ...drain, atMs: 2000 });
  await log.gaps.stop();
  expect(log.written).toEqual([drain, { ...drain, atMs: 2000 }]);
  expect(log.timer).toBeNull();
});

test('GAP reaches the listing, in its place between the points, across a restart', async () => {
  let site = await TargetSite.start();
  sites.push(site);
  const { peer, disk } = await site.session();
  const root = (): string => Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex');
  peer.gap(drain);
  peer.point(root(), [], { cutTimeMs: 2000, consistency: 'app', evidence: 'guest agent, 12 ms' });
  await peer.next(frameType.committed);
  peer.gap({ ...drain, atMs: 3000 });
  peer.gap({ ...drain, atMs: 3500 });
  peer.point(root(), [], { cutTimeMs: 4000, consistency: 'none' });
  await peer.next(frameType.committed);
  peer.gap({ ...drain, atMs: 5000, reason: 'other' });
  peer.sealed(disk, peer.cycle(disk), 1);
  await peer.next(frameType.durable);
  sites.pop();
  site = await site.restarted();
  sites.push(site);
  const parts = {
    files: posixFiles,
    clock: systemClock,
    random: systemRandom,
    version: 'test',
    loggerOf: () => silent(),
  };
  const listed = await listPoints(parts, { data: site.data, vault: '', machine: 'm1' });
  expect(listed.points.map(({ consistency, evidence }) => [consistency, evidence])).toEqual([
    ['app', 'guest agent, 12 ms'],
    ['none', null],
  ]);
  expect(listed.gaps).toEqual([
    { machine: 'm1', afterPoint: null, ...drain },
    { machine: 'm1', afterPoint: 1, ...drain, atMs: 3000, points: 2 },
    { machine: 'm1', afterPoint: 2, ...drain, atMs: 5000, reason: 'other' },
  ]);
});

test('a flood of GAP leaves a few records, and one that is none ends the session', async () => {
  const site = await TargetSite.start();
  sites.push(site);
  const { peer } = await site.session();
  const flood = 3000;
  for (let each = 0; each < flood; each += 1) peer.gap({ ...drain, detail: 'x'.repeat(1000) });
  peer.send(encodeFrame(frameType.gap, noDisk, Buffer.from('{"atMs":1,"points":0,"reason":"drain","detail":""}')));
  expect(decodeErrorMessage((await peer.next(frameType.error)).body).code).toBe('protocol-error');
  expect(site.store().points.gaps.length).toBeLessThan(3);
  const { peer: again } = await site.session();
  again.point(Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex'), []);
  await again.next(frameType.committed);
  await expect.poll(() => site.store().points.gaps.reduce((sum, { points }) => sum + points, 0)).toBe(flood);
  expect(site.store().points.gaps.length).toBeLessThan(4);
});

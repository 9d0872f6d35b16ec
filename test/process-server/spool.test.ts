/** What a process server does with a spool when its target is slow or away, by the clock of the test; one machine's files stand in `spool-log.test.ts`. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { KiB, MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import type { ProcessServerOptions } from '../../src/process-server/server.ts';
import { spoolLevels } from '../../src/process-server/spool-report.ts';
import { unthrottled } from '../../src/process-server/throttle.ts';
import { frameType } from '../../src/wire/frame.ts';
import type { LastingTarget } from './lasting-target.ts';
import { blockSize, Here, root } from './spool-world.ts';

const all: Here[] = [];
function here(bytesMax?: number, change?: Partial<ProcessServerOptions>): Here {
  const made = new Here(bytesMax, change);
  all.push(made);
  return made;
}
afterEach(async () => {
  for (const each of all.splice(0)) await each.remove();
});

describe('a target that goes', () => {
  it('for an hour: the session goes on far beyond its window, and every batch is there once, in order', async () => {
    const site = here();
    const sending = await site.agent().open();
    await sending.whole();
    await site.until(() => sending.agent.committed === 1, 'a point');
    expect(site.used).toBe(0);
    site.target.goAway();
    for (let each = 0; each < 30; each += 1) await sending.whole(4);
    await site.clock.pass(3_600_000);
    expect(sending.agent.over).toBe(false);
    expect(sending.agent.creditEver).toBeGreaterThan(24 * MiB);
    expect(sending.agent.committed).toBe(1);
    const [report] = site.server.spoolReport().machines;
    expect(report).toMatchObject({
      machine: 'm1',
      points: 30,
      targetSinceMs: null,
      draining: false,
      level: 'ok',
    });
    expect(report?.oldestMs).toBeGreaterThan(3_600_000);
    expect(site.server.waits('m1')?.target).toBeGreaterThan(9_000);
    site.target.away = false;
    await site.until(() => site.used === 0 && sending.agent.committed === 31, 'drained');
    expect(site.target.faults).toEqual([]);
    expect(site.target.stored).toEqual(sending.sent);
    expect(site.target.points.map(({ cutTimeMs }) => cutTimeMs)).toEqual(
      Array.from({ length: 31 }, (_, each) => each + 1),
    );
    await sending.whole();
    await site.until(() => sending.agent.committed === 32, 'directly again');
    expect(site.used).toBe(0);
  });

  it.each([0, 1, 2, 3])(
    'and a disk so slow that what it writes is answered first, %i writes in: that is not sent again when the connection breaks',
    async (quickWrites) => {
      const site = here();
      const sending = await site.agent().open();
      await sending.whole();
      await site.until(() => sending.agent.committed === 1, 'a point');
      const slow = Promise.withResolvers<undefined>();
      let writes = 0;
      site.files.trouble = (operation) => {
        if (operation === 'write') writes += 1;
        return operation === 'write' && writes > quickWrites ? slow.promise : undefined;
      };
      site.target.goAway();
      await sending.whole();
      await site.until(() => writes > quickWrites, 'a write is under way');
      site.target.away = false;
      await site.until(() => sending.agent.committed === 2, 'answered');
      site.target.goAway();
      site.target.away = false;
      await site.until(() => site.target.connections === 3, 'connected again');
      slow.resolve(undefined);
      await sending.whole();
      await site.until(() => site.used === 0 && sending.agent.committed === 3, 'drained');
      expect(site.target.faults).toEqual([]);
      expect(site.target.stored).toEqual(sending.sent);
    },
  );

  it('without its answers having come: COMMITTED is made of what it says when it is back, and what it has is not stored again', async () => {
    const site = here();
    const sending = await site.agent().open();
    site.target.mute = new Set([frameType.durable, frameType.committed]);
    await sending.whole();
    await site.until(() => site.target.points.length === 1, 'it has the point');
    sending.cycle();
    sending.batch(0);
    await site.until(() => site.target.stored.length === 3, 'and a batch');
    site.target.mute = new Set();
    site.target.goAway();
    await site.clock.pass(5_000);
    site.target.away = false;
    await site.until(() => sending.agent.committed === 1 && sending.agent.durable.length > 0, 'told');
    sending.batch(1);
    sending.point();
    await site.until(() => sending.agent.committed === 2, 'a point of both');
    expect(site.target.faults).toEqual([]);
    expect(site.target.stored).toEqual(sending.sent);
    expect(site.target.points).toHaveLength(2);
  });

  it('and comes back with another epoch, replica or point: the session ends, retryable, and nothing is left', async () => {
    const changes: [string, LastingTarget['opened']][] = [
      ['stale-epoch', (message) => ({ ...message, epoch: message.epoch + 1 })],
      ['layer-unknown', (message) => ({ ...message, diskId: 'ff'.repeat(16) })],
      ['layer-unknown', (message) => ({ ...message, committed: null })],
      ['layer-unknown', (message) => ({ ...message, committed: { point: 9, cutTimeMs: 9, size: 1, root } })],
    ];
    for (const [code, opened] of changes) {
      const site = here();
      const sending = await site.agent().open();
      await sending.whole();
      await site.until(() => sending.agent.committed === 1, 'a point');
      site.target.goAway();
      await sending.whole();
      await site.until(() => site.used > 0, 'spooled');
      site.target.opened = opened;
      site.target.away = false;
      await site.until(() => sending.agent.over, 'ended');
      expect(sending.agent.error).toMatchObject({ code, retryable: true });
      await site.server.settled();
      expect(site.used).toBe(0);
      expect(existsSync(`${site.directory}/m1`)).toBe(false);
    }
  });

  it('and can not take up layers again: as without a spool', async () => {
    const site = here();
    site.target.offers = [];
    const sending = await site.agent().open();
    await sending.whole();
    await site.until(() => sending.agent.committed === 1, 'a point');
    site.target.goAway();
    await site.until(() => sending.agent.over, 'ended');
    expect(sending.agent.error).toMatchObject({ code: 'unreachable', retryable: true });
    expect(readdirSync(site.directory)).toEqual([]);
  });
});

describe('a target that is slow', () => {
  it('goes past the spool for as long as its credit comes within the bound, and not any longer', async () => {
    const site = here();
    site.target.windowBytes = 300 * KiB;
    const sending = await site.agent().open();
    sending.cycle();
    site.target.mute = new Set([frameType.credit]);
    for (let batch = 0; batch < 6; batch += 1) sending.batch(batch);
    await site.clock.pass(limits.processServer.spoolAfterMs - 600);
    expect(site.used).toBe(0);
    await site.until(() => site.used > 5 * 4 * blockSize, 'spooled');
    expect(sending.agent.over).toBe(false);
    site.target.mute = new Set();
    site.target.grant(64 * MiB);
    sending.point();
    await site.until(() => sending.agent.committed === 1 && site.used === 0, 'drained');
    expect(site.target.stored).toEqual(sending.sent);
    expect(site.target.connections).toBe(1);
    expect(site.target.faults).toEqual([]);
  });

  it('by the throttle only: nothing is spooled, and the agent waits', async () => {
    const free = Promise.withResolvers<undefined>();
    const throttle = { ...unthrottled, egress: () => ({ take: () => free.promise, end: () => undefined }) };
    const site = here(64 * MiB, { throttle });
    const sending = await site.agent().open();
    sending.cycle();
    let batches = 0;
    for (let step = 0; step < 20; step += 1) {
      if (sending.batch(batches)) batches += 1;
      await site.clock.pass(1000);
    }
    expect(site.used).toBe(0);
    expect(batches).toBeLessThan(9);
    expect(site.server.waits('m1')).toMatchObject({ target: 0, spool: 0 });
    expect(site.server.waits('m1')?.throttle).toBeGreaterThan(9_000);
    free.resolve(undefined);
    sending.point();
    await site.until(() => sending.agent.committed === 1, 'a point');
  });
});

describe('an agent that goes', () => {
  it('leaves what is spooled behind: that goes out first, and the agent is told so until it is', async () => {
    const site = here();
    const sending = await site.agent().open();
    site.target.goAway();
    for (let each = 0; each < 3; each += 1) await sending.whole();
    await site.spooled(sending.sent.length);
    sending.agent.connection.close(1000, 'bye');
    await site.until(() => site.server.spoolReport().machines[0]?.draining === true, 'drains');
    const refused = await site.agent().open();
    expect(refused.agent.error).toMatchObject({ code: 'draining', retryable: true });
    site.target.away = false;
    await site.until(() => site.used === 0 && site.server.spoolReport().machines.length === 0, 'drained');
    expect(site.target.points).toHaveLength(3);
    expect(site.target.stored).toEqual(sending.sent);
    await site.server.settled();
    const again = await site.agent().open();
    expect(again.agent.opened.get(0)?.committed?.cutTimeMs).toBe(3);
    expect(site.server.totals().get('m1')?.pointsCommitted).toBe(3);
  });

  it('and the process server with it: the next one sends under the old instance; a lost lease drops it', async () => {
    for (const lost of [false, true]) {
      const site = here();
      const sending = await site.agent().open();
      site.target.goAway();
      for (let each = 0; each < 3; each += 1) await sending.whole();
      await site.spooled(sending.sent.length);
      const { instance } = site.target;
      await site.restart();
      await site.until(() => site.server.spoolReport().machines[0]?.draining === true, 'found');
      expect(site.server.spoolReport().machines[0]).toMatchObject({ points: 3, targetSinceMs: null });
      if (lost) site.server.endMachine('m1', new Problem('not-owner', 'another one has it', { retryable: true }));
      site.target.away = false;
      await site.until(() => site.used === 0, 'over');
      await site.server.settled();
      expect(site.target.points).toHaveLength(lost ? 0 : 3);
      if (!lost) expect(site.target.instances.at(-1)).toBe(instance);
      expect(existsSync(`${site.directory}/m1`)).toBe(false);
    }
  });

  it('and the process server with it, while one frame is read and another written: the next start has both', async () => {
    // A frame that ends its file is among them.
    for (const reads of [1, 3, 5, 7, 9, 11, 13]) {
      const site = here();
      const sending = await site.agent().open();
      site.target.goAway();
      await sending.whole();
      await sending.whole();
      await site.spooled(4);
      const [read, write] = [Promise.withResolvers<undefined>(), Promise.withResolvers<undefined>()];
      let [begun, writes] = [0, 0];
      site.files.trouble = (operation) => {
        if (operation === 'write') writes += 1;
        if (operation === 'read') begun += 1;
        return operation === 'write' ? write.promise : operation === 'read' && begun > reads ? read.promise : undefined;
      };
      sending.cycle();
      sending.batch(0);
      await site.until(() => writes > 0, 'a write is under way');
      site.target.away = false;
      await site.until(() => begun > reads, `read ${reads} is under way`);
      const restarted = site.restart();
      site.files.trouble = () => undefined;
      read.resolve(undefined);
      await systemClock.sleep(5);
      write.resolve(undefined);
      await restarted;
      await site.until(() => site.server.spoolReport().machines.length > 0, 'found again');
      await site.until(() => site.used === 0 && site.server.spoolReport().machines.length === 0, 'drained');
      expect(site.target.faults, `${reads} reads`).toEqual([]);
      expect(site.target.stored, `${reads} reads`).toEqual(sending.sent.slice(0, 4));
      expect(site.target.points).toHaveLength(2);
    }
  });
});

describe('a spool', () => {
  it('fills by its levels, stops credit at its limit, and lets the agent go on when it drains', async () => {
    const site = here(8 * MiB);
    const sending = await site.agent().open();
    await sending.whole();
    await site.until(() => sending.agent.committed === 1, 'a point');
    site.target.goAway();
    const levels: string[] = [];
    sending.cycle();
    for (let [batch, idle] = [0, 0]; idle < 200;) {
      const { level } = site.server.spoolReport();
      if (levels.at(-1) !== level) levels.push(level);
      if (sending.batch(batch)) [batch, idle] = [batch + 1, 0];
      else idle += 1;
      await site.clock.pass(100);
      await systemClock.sleep(0);
    }
    expect(levels).toEqual(spoolLevels.filter((level) => levels.includes(level)));
    expect(levels).toEqual(expect.arrayContaining(['ok', 'warning-25', 'throttling']));
    expect(site.used).toBeLessThanOrEqual(8 * MiB + 8 * KiB);
    expect(site.used).toBeGreaterThan(7.5 * MiB);
    sending.point();
    site.target.away = false;
    await site.until(() => sending.agent.committed === 2 && site.used === 0, 'drained');
    expect(site.target.stored).toEqual(sending.sent);
    await sending.whole(20);
    await site.until(() => sending.agent.committed === 3, 'and on');
  });

  it('leaves each machine its part, whatever another one takes', async () => {
    const site = here(8 * MiB);
    const [greedy, modest] = [await site.agent('m1').open(), await site.agent('m2').open()];
    site.target.goAway();
    greedy.cycle();
    for (let [batch, idle] = [0, 0]; idle < 100;) {
      if (greedy.batch(batch)) [batch, idle] = [batch + 1, 0];
      else idle += 1;
      await site.clock.pass(100);
      await systemClock.sleep(0);
    }
    expect(site.used).toBeLessThan(6.2 * MiB);
    modest.cycle();
    let batches = 0;
    await site.until(() => {
      if (modest.batch(batches)) batches += 1;
      return (site.server.spoolReport().machines.find(({ machine }) => machine === 'm2')?.bytes ?? 0) > 1.5 * MiB;
    }, 'its part');
  });

  it.each(['ENOSPC', 'EIO'])(
    'whose disk says %s keeps what waits in memory, gives no credit, tells, and tries again',
    async (code) => {
      const site = here();
      const sending = await site.agent().open();
      const refused = Object.assign(new Error(code), { code });
      site.files.trouble = (operation) => (operation === 'write' ? Promise.reject(refused) : undefined);
      site.target.goAway();
      sending.cycle();
      let batches = 0;
      for (let step = 0; step < 60; step += 1) {
        if (sending.batch(batches)) batches += 1;
        await site.clock.pass(200);
        await systemClock.sleep(0);
      }
      expect(batches).toBeLessThan(9);
      expect(site.server.spoolReport()).toMatchObject({
        level: 'full',
        machines: [{ failure: expect.stringContaining(code) as string }],
      });
      site.files.trouble = () => undefined;
      await site.until(() => sending.batch(batches), 'credit again');
      expect(site.server.spoolReport().machines[0]?.failure).toBeNull();
      sending.point();
      site.target.away = false;
      await site.until(() => sending.agent.committed === 1 && site.used === 0, 'drained');
      expect(site.target.stored).toEqual(sending.sent);
      expect(site.target.faults).toEqual([]);
    },
  );

  it('that is removed costs the session, and sending again', async () => {
    const site = here();
    const sending = await site.agent().open();
    site.target.goAway();
    for (let each = 0; each < 20; each += 1) await sending.whole(4);
    await site.until(() => site.used > 16 * MiB, 'spooled');
    rmSync(site.directory, { recursive: true });
    site.target.away = false;
    await site.until(() => sending.agent.over, 'ended');
    expect(sending.agent.error).toMatchObject({ code: 'layer-unknown', retryable: true });
    await site.server.settled();
    await (await site.agent().open()).whole();
    await site.until(() => site.target.points.length === 1, 'a point');
  });

  it('above its mark merges points that wait, keeps the app-consistent ones, and says how many', async () => {
    const site = here(16 * MiB);
    const sending = await site.agent().open();
    await sending.whole();
    await site.until(() => sending.agent.committed === 1, 'a point');
    site.target.goAway();
    // Far above it, because the first of them leave again before the first point's turn comes.
    for (let each = 2; site.used < 15 * MiB; each += 1) {
      await sending.whole(2, each === 4 ? 'app' : 'crash');
      await site.clock.pass(1_000);
      await systemClock.sleep(2);
    }
    const last = sending.cut;
    site.target.away = false;
    await site.until(() => site.used === 0 && site.server.spoolReport().machines.length === 0, 'drained');
    const cuts = site.target.points.map(({ cutTimeMs }) => cutTimeMs);
    expect(site.target.faults).toEqual([]);
    expect(cuts.at(-1)).toBe(last);
    expect(cuts).toContain(4);
    expect(cuts.length).toBeLessThan(last);
    const merged = site.target.gaps
      .filter(({ reason }) => reason === 'merged')
      .reduce((sum, { points }) => sum + points, 0);
    expect(merged).toBe(last - cuts.length);
    expect(site.target.stored).toEqual(sending.sent);
  });
});

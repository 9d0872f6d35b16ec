/** What goes out of a spool without an agent ends, whatever its last frame was; and what is merged is merged into what will go out. */
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { frameType } from '../../src/wire/frame.ts';
import { Here, type Sending } from './spool-world.ts';

const { reopenMs, targetRetryMaxMs } = limits.processServer;
const all: Here[] = [];
function here(bytesMax?: number): Here {
  const made = new Here(bytesMax);
  all.push(made);
  return made;
}
afterEach(async () => {
  for (const each of all.splice(0)) await each.remove();
});

/** So many cycles of one batch that the spool, of 8 MiB, is above its mark; all of them are on disk. */
async function fill(site: Here, sending: Sending): Promise<void> {
  const cycles = 29;
  await site.clock.pass(100);
  for (let each = 0; each < cycles; each += 1) await sending.whole(1);
  await site.spooled(cycles);
  expect(site.server.spoolReport().level).toBe('throttling');
}

/** The agent goes, and what it left drains. */
async function leave(site: Here, { agent }: Sending): Promise<void> {
  agent.connection.close(1000, 'bye');
  await site.until(() => site.server.spoolReport().machines[0]?.draining === true, 'drains');
}

async function drained(site: Here): Promise<void> {
  await site.until(() => site.server.spoolReport().machines.length === 0, 'drained', 100, 60_000);
  await site.server.settled();
  expect((await site.agent().open()).agent.error).toBeUndefined();
}

describe('a drain', () => {
  it('ends behind points that were merged, and has told of them', async () => {
    const site = here(8 * MiB);
    const sending = await site.agent().open();
    site.target.goAway();
    await fill(site, sending);
    await leave(site, sending);
    site.target.away = false;
    await drained(site);
    expect(site.target.faults).toEqual([]);
    expect(site.target.gaps.map(({ reason }) => reason)).toContain('merged');
  });

  it('ends when the target turns out to have all of it', async () => {
    const site = here();
    const sending = await site.agent().open();
    site.target.mute = new Set([frameType.durable, frameType.committed, frameType.credit]);
    await sending.whole(5);
    await site.until(() => site.target.points.length === 1, 'it has the point');
    site.target.goAway();
    await site.spooled(5);
    await leave(site, sending);
    site.target.mute = new Set();
    site.target.away = false;
    await drained(site);
    expect(site.target.stored).toEqual(sending.sent);
    expect(site.target.points).toHaveLength(1);
  });

  it('tries anew where its target answers pings and never opens the disks', async () => {
    const site = here();
    const sending = await site.agent().open();
    site.target.goAway();
    await sending.whole(2);
    await site.spooled(2);
    await leave(site, sending);
    const { connections: before } = site.target;
    site.target.mute = new Set([frameType.opened, frameType.leaves]);
    site.target.away = false;
    await site.until(() => site.target.connections === before + 1, 'is asked');
    await site.clock.pass(reopenMs - 100);
    expect(site.target.connections).toBe(before + 1);
    site.target.mute = new Set();
    await site.until(() => site.target.connections === before + 2, 'is asked again', 100, 3 * targetRetryMaxMs);
    await drained(site);
    expect(site.target.stored).toEqual(sending.sent);
  });

  it('that ends while its target opens the disks waits for nothing', async () => {
    const site = here();
    const sending = await site.agent().open();
    site.target.goAway();
    await sending.whole(2);
    await site.spooled(2);
    sending.agent.connection.close(1000, 'bye');
    site.target.mute = new Set([frameType.opened, frameType.leaves]);
    site.target.away = false;
    const { connections: before } = site.target;
    await site.until(() => site.target.connections === before + 1, 'is asked');
    await site.clock.pass(1000);
    site.server.close();
    await site.server.settled();
    expect(site.clock.nextMs).toBeNull();
  });

  it('ends behind a cycle of which nothing came', async () => {
    const site = here();
    const sending = await site.agent().open();
    site.target.goAway();
    await sending.whole(2);
    await site.spooled(2);
    sending.cycle();
    await site.clock.pass(2_000);
    await systemClock.sleep(5);
    site.target.mute = new Set();
    await leave(site, sending);
    site.target.away = false;
    await drained(site);
    expect(site.target.points).toHaveLength(1);
  });

  it('makes the newest point that was spooled, though a later one waited in memory when its agent left', async () => {
    const site = here(8 * MiB);
    const sending = await site.agent().open();
    site.target.goAway();
    await fill(site, sending);
    const { cut } = sending;
    site.files.trouble = (operation) => (operation === 'write' ? Promise.reject(new Error('EIO')) : undefined);
    await sending.whole(1);
    await site.clock.pass(2_000);
    await leave(site, sending);
    site.target.away = false;
    await drained(site);
    expect(site.target.faults).toEqual([]);
    expect(site.target.points.at(-1)?.cutTimeMs).toBe(cut);
  });

  it('that is found while the process server is closed already is left for the next start', async () => {
    const site = here();
    const sending = await site.agent().open();
    site.target.goAway();
    await sending.whole(2);
    await site.spooled(2);
    await site.restart();
    site.server.close();
    await site.server.settled();
    const { connections } = site.target;
    site.target.away = false;
    await site.clock.pass(60_000);
    expect(site.target.connections).toBe(connections);
    expect(site.clock.nextMs).toBeNull();
    await site.restart();
    await site.until(() => site.target.points.length === 1, 'drained');
  });
});

describe('merged points', () => {
  it('are in the one they went into, and in no later one that is sent before its answer', async () => {
    const site = here(8 * MiB);
    const sending = await site.agent().open();
    site.target.goAway();
    await fill(site, sending);
    site.target.mute = new Set([frameType.committed]);
    site.target.away = false;
    await site.until(() => site.target.points.at(-1)?.cutTimeMs === sending.cut, 'all are sent');
    expect(site.target.points.length).toBeLessThan(sending.cut);
    await sending.whole(1);
    await sending.whole(1);
    await site.clock.pass(limits.processServer.spoolAfterMs);
    expect(site.target.faults).toEqual([]);
    site.target.mute = new Set();
    site.target.goAway();
    await site.clock.pass(1_000);
    site.target.away = false;
    await site.until(() => sending.agent.committed > 0 && site.used === 0, 'answered');
    expect(site.target.gaps).toMatchObject([{ reason: 'merged', points: sending.cut - site.target.points.length }]);
    await sending.whole(1);
    await site.until(() => site.target.points.at(-1)?.cutTimeMs === sending.cut, 'goes on');
    expect(site.target.faults).toEqual([]);
    expect(site.target.stored).toEqual(sending.sent);
  });
});

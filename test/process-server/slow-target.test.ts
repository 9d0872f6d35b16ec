/** A target that takes all that is sent and is slow to say that it is durable: it grants more than an agent's window holds, so its credit never runs out. */
import { expect, it } from 'vitest';
import { Backlog } from '../../src/process-server/backlog.ts';
import type { Kept } from '../../src/process-server/kept.ts';
import { Slabs } from '../../src/process-server/slabs.ts';
import { WaitingPoints } from '../../src/process-server/waiting-points.ts';
import { Waits } from '../../src/process-server/waits.ts';
import { limits } from '../../src/limits.ts';
import { frameType } from '../../src/wire/frame.ts';
import { SteppedClock } from '../kit/stepped-clock.ts';
import { Here } from './spool-world.ts';

const { spoolUnansweredMs } = limits.processServer;

it('is spooled for when the agent has waited long enough for its window, and an agent that has credit left does not make it so', async () => {
  const site = new Here();
  try {
    const sending = await site.agent().open();
    await sending.whole();
    await site.until(() => sending.agent.committed === 1, 'a point');
    site.target.mute = new Set([frameType.durable]);
    sending.cycle();
    let batches = 0;
    sending.batch(batches);
    await site.clock.pass(3 * spoolUnansweredMs);
    expect(site.used).toBe(0);
    do batches += 1;
    while (sending.batch(batches));
    await site.until(() => site.used > 0, 'spooled');
    await site.until(() => sending.batch(batches), 'credit for what was spooled');
    expect(sending.agent.over).toBe(false);
    expect(site.target.connections).toBe(1);
    site.target.mute = new Set();
    while (!sending.batch(batches + 1)) await site.clock.pass(100);
    sending.point();
    await site.until(() => sending.agent.committed === 2 && site.used === 0, 'drained');
    expect(site.target.stored).toEqual(sending.sent);
    expect(site.target.faults).toEqual([]);
  } finally {
    await site.remove();
  }
});

it('is given its time anew for what is claimed on another connection and not sent yet', async () => {
  const noop = (): void => undefined;
  const parts = { slabs: new Slabs(), waits: new Waits(new SteppedClock()), points: new WaitingPoints() };
  const backlog = new Backlog({ ...parts, freed: noop, onRoom: noop, onEmpty: noop });
  backlog.keep = true;
  const layer = { disk: 0, seq: 1, kind: 'delta', frame: new Uint8Array() } as const;
  backlog.sealed({ layer, batch: 0, plainBytes: 1, outcome: new Promise(noop) });
  const claim = async (): Promise<Kept | null> => backlog.next(() => false);
  const entry = await claim();
  if (entry) entry.sentAtMs = 5;
  expect(backlog.oldestSentAtMs).toBe(5);
  backlog.rewind();
  expect(await claim()).toBe(entry);
  expect(backlog.oldestSentAtMs).toBeNull();
  expect(backlog.durable(1, 1, 1000)).toEqual({ batches: 1, waitedMs: 0 });
});

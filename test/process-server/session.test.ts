import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { zeroLeaf } from '../../src/disk/merkle.ts';
import { fullMask } from '../../src/disk/page-mask.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { SealPool } from '../../src/process-server/pool.ts';
import { KiB, MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { checksumsBytesMax } from '../../src/wire/checksums.ts';
import { BatchBuilder } from '../../src/wire/batch.ts';
import { wireCodes } from '../../src/wire/codes.ts';
import { frameHeaderBytes, frameType } from '../../src/wire/frame.ts';
import { encodePing } from '../../src/wire/ping.ts';
import { batchOf } from './fakes.ts';
import { blockSize, content, oneBlock, open, seqBase, theTarget, world } from './world.ts';

describe('a session', () => {
  it('carries two disks through a cycle, in order, whatever order the workers finish in', async () => {
    const here = world();
    const agent = here.agent('m1');
    const [a, b] = await open(agent, 'm1', 2);
    if (!a || !b) throw new Error('no leaf keys');
    agent.cycle(0, seqBase + 1);
    for (let batch = 0; batch < 20; batch += 1) await agent.batch(oneBlock(0, seqBase + 1, batch, a));
    agent.cycle(1, seqBase + 2);
    for (let batch = 0; batch < 20; batch += 1) await agent.batch(oneBlock(1, seqBase + 2, batch, b));
    agent.point([0, 1]);
    await agent.until(() => agent.committed === 1);
    const target = theTarget(here);
    expect(target.faults).toEqual([]);
    const batches = (disk: number): string[] =>
      Array.from({ length: 20 }, (_, n) => `SEALED ${disk} ${seqBase + 1 + disk} ${n}`);
    expect(target.events).toEqual([
      'HELLO process-server m1',
      'OPEN_DISK 0 d0',
      'OPEN_DISK 1 d1',
      `CYCLE 0 ${seqBase + 1} v1`,
      ...batches(0),
      `CYCLE 1 ${seqBase + 2} v1`,
      ...batches(1),
      'POINT',
    ]);
    expect(Buffer.compare(target.disks.get(1)?.image.subarray(0, blockSize) ?? new Uint8Array(0), content(3))).toBe(0);
    expect(agent.durable.at(-1)).toBe(`1 ${seqBase + 2} 20`);
    const [report] = here.server.sessions;
    expect(report?.counters).toMatchObject({
      batches: 40,
      batchesDurable: 40,
      inFlightBytes: 0,
      sealing: 0,
      pointsCommitted: 1,
    });
    agent.connection.close(1000, 'bye');
    await target.connection.closed;
    expect(here.server.sessions).toEqual([]);
  });

  it('does the same through worker threads', async () => {
    const pool = new SealPool({ threads: 2 });
    const here = world({}, { sealer: pool });
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    agent.cycle(0, seqBase + 1);
    for (let batch = 0; batch < 60; batch += 1) {
      const blocks = Array.from({ length: 1 + (batch % 15) }, (_, n) => [batch * 16 + n, content(batch + n)] as const);
      await agent.batch(batchOf({ disk: 0, seq: seqBase + 1, batch, leafKey, blocks }));
    }
    agent.point([0]);
    await agent.until(() => agent.committed === 1);
    expect(theTarget(here).faults).toEqual([]);
    expect(theTarget(here).events.filter((event) => event.startsWith('SEALED'))).toHaveLength(60);
    here.server.close();
    await pool.close();
  });

  it('keeps the disk key from the agent', async () => {
    const here = world();
    const agent = here.agent('m1');
    await open(agent, 'm1');
    const [disk] = theTarget(here).disks.values();
    const sent = Buffer.concat(agent.frames.map(({ body }) => body)).toString('latin1');
    expect(sent).toContain(Buffer.from(disk?.leafKey ?? []).toString('hex'));
    expect(sent).not.toContain(Buffer.from(disk?.key ?? []).toString('hex'));
    expect(sent).not.toContain('keyVersion');
    here.server.close();
  });

  it('answers PING, before and after HELLO', async () => {
    const here = world();
    const agent = here.agent('m1');
    agent.send(encodePing('ping', 7));
    await agent.until(() => agent.frames.some(({ type }) => type === frameType.pong));
    await open(agent, 'm1');
    agent.send(encodePing('ping', 8));
    await agent.until(() => agent.frames.filter(({ type }) => type === frameType.pong).length === 2);
    here.server.close();
  });
});

describe('credit', () => {
  it('is never exceeded towards the target, nor granted beyond the window to the agent', async () => {
    const held: (() => void)[] = [];
    let largestInFlight = 0;
    let sealed = 0;
    const here = world({
      windowBytes: 300_000,
      onSealed: (count) => {
        sealed = count;
        held.push(() => theTarget(here).durable(0, seqBase + 1, count, blockSize + 64 + 72));
        return false;
      },
    });
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    const target = theTarget(here);
    agent.cycle(0, seqBase + 1);
    const noise = (block: number): Uint8Array =>
      batchOf({
        disk: 0,
        seq: seqBase + 1,
        batch: block,
        leafKey,
        blocks: [[block, new Uint8Array(randomBytes(blockSize))]],
      });
    const sending = (async () => {
      for (let batch = 0; batch < 200; batch += 1) await agent.batch(noise(batch));
    })();
    await systemClock.sleep(150);
    // 300,000 bytes of credit: four batches went out, the rest waits here, and the agent used up its first window.
    expect(sealed).toBe(4);
    expect(agent.creditEver).toBe(2 * 1024 * 1024);
    expect(agent.creditBytes).toBeLessThan(noise(0).byteLength);
    const steps = setInterval(() => {
      for (const release of held.splice(0)) release();
      largestInFlight = Math.max(largestInFlight, here.server.sessions[0]?.counters.inFlightBytes ?? 0);
    }, 1);
    await sending;
    await agent.until(() => agent.durable.length === 200);
    clearInterval(steps);
    expect(target.faults).toEqual([]);
    expect(largestInFlight).toBeLessThanOrEqual(16 * 1024 * 1024);
    expect(here.server.sessions[0]?.counters.inFlightBytes).toBe(0);
    here.server.close();
  });

  it('and what checksums need is all that a frame may take memory for', async () => {
    const here = world({ onSealed: () => false });
    const agent = here.agent('m1');
    const takes = (): number => agent.connection.other?.bytesMax() ?? NaN;
    expect(takes()).toBe(limits.wire.controlBytesMax + frameHeaderBytes);
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    expect(takes()).toBe(limits.processServer.sessionWindowBytesMin + frameHeaderBytes);
    agent.cycle(0, seqBase + 1);
    const batch = oneBlock(0, seqBase + 1, 0, leafKey);
    await agent.batch(batch);
    await agent.until(() => here.server.sessions[0]?.counters.batches === 1);
    expect(takes()).toBe(limits.processServer.sessionWindowBytesMin + 2 * frameHeaderBytes - batch.byteLength);
    for (let next = 1; agent.creditBytes > batch.byteLength; next += 1)
      await agent.batch(oneBlock(0, seqBase + 1, next, leafKey));
    await agent.until(() => takes() === checksumsBytesMax + frameHeaderBytes);
    here.server.close();
  });

  it('does not bound batches of zeros: as many wait as may cost what control frames may, and go on when the target does', async () => {
    const here = world({ onSealed: () => false, windowBytes: 1 });
    const agent = here.agent('m1');
    await open(agent, 'm1');
    agent.cycle(0, seqBase + 1);
    const [builder, count] = [new BatchBuilder(), 1500];
    for (let batch = 0; batch < count; batch += 1) {
      builder.clear();
      builder.add(batch, fullMask, zeroLeaf, 0, () => 0);
      agent.send(builder.finish(0, seqBase + 1, batch));
    }
    await agent.until(() => agent.connection.other?.paused === true);
    await systemClock.sleep(50);
    const counters = here.server.sessions[0]?.counters;
    expect(counters?.batches).toBeLessThan(limits.processServer.controlQueueBytesMax / KiB);
    theTarget(here).grant(MiB);
    await agent.until(() => counters?.batches === count);
    here.server.close();
  });

  it('a byte more than granted ends the session', async () => {
    const here = world({ onSealed: () => false });
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    agent.cycle(0, seqBase + 1);
    for (let batch = 0; batch < 40; batch += 1) agent.send(oneBlock(0, seqBase + 1, batch, leafKey));
    const closed = await agent.connection.closed;
    expect(closed.code).toBe(wireCodes['protocol-error'].close);
    expect(agent.error).toMatchObject({ code: 'protocol-error', retryable: false });
    await theTarget(here).connection.closed;
  });
});

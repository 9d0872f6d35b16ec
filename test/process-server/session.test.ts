import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { createRegistry } from '../../src/observe/registry.ts';
import { Budget } from '../../src/process-server/budget.ts';
import { registerProcessServerSeries } from '../../src/process-server/metrics.ts';
import { SealPool, type Sealer } from '../../src/process-server/pool.ts';
import { sealBatch, sealedFrameBytesMax } from '../../src/process-server/seal-batch.ts';
import { ProcessServer, type ProcessServerOptions } from '../../src/process-server/server.ts';
import type { Role } from '../../src/transport/connection.ts';
import { wireCodes } from '../../src/wire/codes.ts';
import { encodeFrame, frameType, noDisk } from '../../src/wire/frame.ts';
import { encodePing } from '../../src/wire/ping.ts';
import { batchOf, FakeAgent, type FakeConnection, FakeTarget, pair, silent, type TargetHooks } from './fakes.ts';

const blockSize = 65_536;
const seqBase = 2 ** 32;

/** Seals on this thread, finishing in a scrambled order. */
function scrambled(): Sealer {
  const scratch = new Uint8Array(sealedFrameBytesMax);
  return {
    pending: 0,
    async seal(task) {
      const mine = { ...task, buffer: task.buffer.transfer() };
      await systemClock.sleep(systemRandom.fraction() * 8);
      return sealBatch(mine, scratch, systemClock);
    },
  };
}

interface World {
  readonly server: ProcessServer;
  readonly targets: FakeTarget[];
  agent(name: string, role?: Role): FakeAgent;
}

function world(hooks: TargetHooks = {}, change: Partial<ProcessServerOptions> = {}): World {
  const targets: FakeTarget[] = [];
  const server = new ProcessServer({
    connectTarget: () => {
      const [ours, theirs] = pair(['target', 't1'], ['process-server', 'p1']);
      targets.push(new FakeTarget(theirs, hooks));
      return Promise.resolve(ours);
    },
    sealer: scrambled(),
    clock: systemClock,
    random: systemRandom,
    logger: silent,
    version: 'test',
    ...change,
  });
  return {
    server,
    targets,
    agent(name, role = 'agent') {
      const [agentEnd, serverEnd] = pair(['process-server', 'p1'], [role, name]);
      const agent = new FakeAgent(agentEnd);
      // `peer` of the server's end is who the agent is.
      server.accept(serverEnd);
      return agent;
    },
  };
}

async function open(agent: FakeAgent, name: string, disks = 1, size = 4096 * blockSize): Promise<Uint8Array[]> {
  agent.hello(name);
  await agent.until(() => agent.frames.some(({ type }) => type === frameType.welcome));
  for (let disk = 0; disk < disks; disk += 1) agent.openDisk(disk, size);
  await agent.until(() => agent.opened.size === disks && agent.creditBytes > 0);
  return Array.from(
    { length: disks },
    (_, disk) => new Uint8Array(Buffer.from(agent.opened.get(disk)?.leafKey ?? '', 'hex')),
  );
}

const content = (seed: number): Uint8Array => new Uint8Array(Buffer.alloc(blockSize, `block ${seed} `));
const oneBlock = (disk: number, seq: number, batch: number, leafKey: Uint8Array, block = batch): Uint8Array =>
  batchOf({ disk, seq, batch, leafKey, blocks: [[block, content(block + 3)]] });

function theTarget({ targets }: World): FakeTarget {
  const [target] = targets;
  if (!target) throw new Error('no target was connected');
  return target;
}

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
    let target: FakeTarget | undefined;
    let largestInFlight = 0;
    let sealed = 0;
    const here = world({
      windowBytes: 300_000,
      onSealed: (count) => {
        sealed = count;
        held.push(() => target?.durable(0, seqBase + 1, count, blockSize + 64 + 72));
        return false;
      },
    });
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    target = theTarget(here);
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

describe('violations by the agent', () => {
  const cases: [string, string, (agent: FakeAgent, leafKey: Uint8Array) => void][] = [
    ['a batch before its cycle', 'protocol-error', (agent, key) => agent.send(oneBlock(0, seqBase + 1, 0, key))],
    ['a cycle of another epoch', 'protocol-error', (agent) => agent.cycle(0, 2 * seqBase + 1)],
    ['a cycle for a disk not opened', 'protocol-error', (agent) => agent.cycle(5, seqBase + 1)],
    ['a disk opened twice', 'protocol-error', (agent) => agent.openDisk(0, 65_536)],
    ['a disk of odd size', 'bad-geometry', (agent) => agent.openDisk(1, 1000)],
    ['a point about a disk not opened', 'protocol-error', (agent) => agent.point([4])],
    ['a frame of an unknown type', 'protocol-error', (agent) => agent.send(Uint8Array.of(99, 0, 0, 0, 0, 0, 0, 0))],
    [
      'a frame of the other direction',
      'protocol-error',
      (agent) => agent.send(encodeFrame(frameType.durable, 0, new Uint8Array(16))),
    ],
    ['a second HELLO', 'protocol-error', (agent) => agent.hello('m1')],
    [
      'JSON that is none',
      'protocol-error',
      (agent) => agent.send(encodeFrame(frameType.point, noDisk, Buffer.from('{'))),
    ],
    [
      'the same layer twice',
      'protocol-error',
      (agent) => {
        agent.cycle(0, seqBase + 1);
        agent.cycle(0, seqBase + 1);
      },
    ],
    [
      'a batch out of turn',
      'protocol-error',
      (agent, key) => {
        agent.cycle(0, seqBase + 1);
        agent.send(oneBlock(0, seqBase + 1, 1, key));
      },
    ],
    [
      'blocks that do not ascend across batches',
      'protocol-error',
      (agent, key) => {
        agent.cycle(0, seqBase + 1);
        agent.send(oneBlock(0, seqBase + 1, 0, key, 9));
        agent.send(oneBlock(0, seqBase + 1, 1, key, 9));
      },
    ],
    [
      'a bit flipped on the way: retryable, and nothing of it reaches the target',
      'leaf-mismatch',
      (agent, key) => {
        agent.cycle(0, seqBase + 1);
        const frame = oneBlock(0, seqBase + 1, 0, key);
        frame[frame.byteLength - 1] = (frame[frame.byteLength - 1] ?? 0) ^ 1;
        agent.send(frame);
      },
    ],
  ];
  it.each(cases)('%s → %s', async (_, code, act) => {
    const here = world();
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    act(agent, leafKey);
    const closed = await agent.connection.closed;
    expect(agent.error?.code).toBe(code);
    expect(closed.code).toBeGreaterThanOrEqual(4000);
    const target = theTarget(here);
    await target.connection.closed;
    expect(target.faults).toEqual([]);
    if (code === 'leaf-mismatch') {
      expect(agent.error?.retryable).toBe(true);
      expect(target.events.some((event) => event.startsWith('SEALED'))).toBe(false);
    }
    expect(here.server.sessions).toEqual([]);
  });

  it('a HELLO for another machine, or by another role → not-authorised, and no target is asked', async () => {
    const here = world();
    const wrongName = here.agent('m1');
    wrongName.hello('m2');
    const wrongRole = here.agent('m1', 'control');
    wrongRole.hello('m1');
    const wrongClaim = here.agent('m1');
    wrongClaim.hello('m1', { role: 'process-server' });
    for (const agent of [wrongName, wrongRole, wrongClaim]) {
      expect((await agent.connection.closed).code).toBe(wireCodes['not-authorised'].close);
      expect(agent.error).toMatchObject({ code: 'not-authorised', retryable: false });
    }
    expect(here.targets).toHaveLength(0);
  });

  it('no common version → version', async () => {
    const agent = world().agent('m1');
    agent.hello('m1', { protocol: [2, 3] });
    await agent.connection.closed;
    expect(agent.error?.code).toBe('version');
  });
});

describe('when the target goes', () => {
  it('in the middle of a batch, the agent is told to come back, and nothing is left in flight', async () => {
    const here = world({
      onSealed: (count) => {
        if (count === 3) theTarget(here).connection.close(1006, 'gone');
        return count < 3;
      },
    });
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    agent.cycle(0, seqBase + 1);
    for (let batch = 0; batch < 20; batch += 1) agent.send(oneBlock(0, seqBase + 1, batch, leafKey));
    await agent.connection.closed;
    expect(agent.error).toMatchObject({ code: 'unreachable', retryable: true });
    expect(here.server.sessions).toEqual([]);
    expect(here.server.grantedBytes).toBe(0);
    expect(here.server.totals().get('m1')?.inFlightBytes).toBe(0);
  });

  it('or can not be reached, or refuses, its reason reaches the agent', async () => {
    const offline = world({}, { connectTarget: () => Promise.reject(new Error('connect ECONNREFUSED')) }).agent('m1');
    offline.hello('m1');
    await offline.connection.closed;
    expect(offline.error).toMatchObject({ code: 'unreachable', retryable: true });

    const refusing = world({
      onHello: () => undefined,
      opened: (message) => {
        throw new Problem('x', `no ${message.disk}`);
      },
    });
    const agent = refusing.agent('m1');
    agent.hello('m1');
    await agent.until(() => agent.frames.some(({ type }) => type === frameType.welcome));
    theTarget(refusing).error({ code: 'stale-epoch', message: 'epoch 3 rules', retryable: true });
    await agent.connection.closed;
    expect(agent.error).toEqual({ code: 'stale-epoch', message: 'epoch 3 rules', retryable: true });
  });

  it('or acknowledges what was never sent: its fault, not the agent’s', async () => {
    const here = world();
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    agent.cycle(0, seqBase + 1);
    await agent.batch(oneBlock(0, seqBase + 1, 0, leafKey));
    await agent.until(() => agent.durable.length === 1);
    theTarget(here).durable(0, seqBase + 1, 9, 0);
    await agent.connection.closed;
    expect(agent.error).toMatchObject({ code: 'unreachable', retryable: true });
  });
});

describe('a process server', () => {
  it('ends the older session when a machine connects again', async () => {
    const here = world();
    const first = here.agent('m1');
    await open(first, 'm1');
    const second = here.agent('m1');
    await open(second, 'm1');
    await first.connection.closed;
    expect(first.error).toMatchObject({ code: 'superseded', retryable: true });
    expect(here.server.sessions.map(({ phase }) => phase)).toEqual(['open']);
    here.server.close();
    await second.connection.closed;
    expect(second.error).toMatchObject({ code: 'shutting-down', retryable: true });
  });

  it('refuses more sessions than it has windows for, and takes them again later', async () => {
    const here = world({}, { budget: new Budget({ totalBytes: 8 * 1024 * 1024 }) });
    const agents = ['m1', 'm2'].map((name) => here.agent(name));
    for (const [index, agent] of agents.entries()) await open(agent, `m${index + 1}`);
    const third = here.agent('m3');
    third.hello('m3');
    await third.connection.closed;
    expect(third.error).toMatchObject({ code: 'overloaded', retryable: true });
    agents[0]?.connection.close(1000, 'bye');
    await systemClock.sleep(5);
    await open(here.agent('m4'), 'm4');
    here.server.close();
  });

  it('does not read from the target while the agent does not read', async () => {
    const here = world();
    const agent = here.agent('m1');
    await open(agent, 'm1');
    const { resolve, promise } = Promise.withResolvers<void>();
    const serverEnd = agent.connection.other;
    if (!serverEnd) throw new Error('no server end');
    serverEnd.hold = promise;
    const target = theTarget(here).connection;
    const leaves = encodeFrame(frameType.leaves, 0, new Uint8Array(500_000));
    for (let sent = 0; sent < 40; sent += 1) await target.send(leaves);
    await systemClock.sleep(5);
    const targetSide: FakeConnection | undefined = target.other;
    expect(targetSide?.paused).toBe(true);
    expect(agent.frames.filter(({ type }) => type === frameType.leaves).length).toBeLessThan(20);
    resolve();
    await agent.until(() => agent.frames.filter(({ type }) => type === frameType.leaves).length === 41);
    expect(targetSide?.paused).toBe(false);
    here.server.close();
  });

  it('stops reading an agent that floods it with control frames, and goes on when they are out', async () => {
    const here = world();
    const agent = here.agent('m1');
    await open(agent, 'm1');
    const { resolve, promise } = Promise.withResolvers<void>();
    const upstream = theTarget(here).connection.other;
    const serverEnd = agent.connection.other;
    if (!upstream || !serverEnd) throw new Error('no ends');
    upstream.hold = promise;
    for (let seq = 1; seq <= 9_000; seq += 1) agent.cycle(0, seqBase + seq);
    await systemClock.sleep(20);
    expect(serverEnd.paused).toBe(true);
    resolve();
    upstream.hold = undefined;
    agent.point([0]);
    await agent.until(() => agent.committed === 1);
    expect(theTarget(here).events.filter((event) => event.startsWith('CYCLE'))).toHaveLength(9_000);
    here.server.close();
  });

  it('forgets 1,000 refused sessions', async () => {
    const here = world();
    const refuse = async (count: number): Promise<void> => {
      for (let done = 0; done < count; done += 1) {
        const agent = here.agent(`m${done}`);
        agent.hello('someone-else');
        await agent.connection.closed;
      }
    };
    await refuse(200);
    const before = process.memoryUsage().heapUsed;
    await refuse(1000);
    expect(here.server.sessions).toEqual([]);
    expect(here.server.totals().size).toBe(0);
    expect(here.server.grantedBytes).toBe(0);
    expect(here.server.endedByReason.get('not-authorised')).toBe(1200);
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(48 * 1024 * 1024);
  });

  it('shows its series', async () => {
    const here = world();
    const registry = createRegistry();
    registerProcessServerSeries(registry, here.server);
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    agent.cycle(0, seqBase + 1);
    await agent.batch(oneBlock(0, seqBase + 1, 0, leafKey));
    await agent.until(() => agent.durable.length === 1);
    const { text } = await registry.expose();
    expect(text).toContain('tidemark_process_server_batches_durable_total{machine="m1"} 1');
    expect(text).toContain('tidemark_process_server_sessions{state="open"} 1');
    expect(text).toMatch(/tidemark_kernel_fallback\{kernel="blake3",provider="[^"]+"\} [01]/);
    here.server.close();
  });
});

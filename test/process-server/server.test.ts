import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { limits } from '../../src/limits.ts';
import { createRegistry } from '../../src/observe/registry.ts';
import { Budget } from '../../src/process-server/budget.ts';
import { registerProcessServerSeries } from '../../src/process-server/metrics.ts';
import type { Connection } from '../../src/transport/connection.ts';
import { encodeFrame, frameType } from '../../src/wire/frame.ts';
import { FakeTarget, pair, type FakeConnection } from './fakes.ts';
import { oneBlock, open, seqBase, theTarget, world } from './world.ts';

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
    const { resolve, promise } = Promise.withResolvers<undefined>();
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
    resolve(undefined);
    await agent.until(() => agent.frames.filter(({ type }) => type === frameType.leaves).length === 41);
    expect(targetSide?.paused).toBe(false);
    here.server.close();
  });

  it('stops reading an agent that floods it with control frames, and goes on when they are out', async () => {
    const here = world();
    const agent = here.agent('m1');
    await open(agent, 'm1');
    const { resolve, promise } = Promise.withResolvers<undefined>();
    const upstream = theTarget(here).connection.other;
    const serverEnd = agent.connection.other;
    if (!upstream || !serverEnd) throw new Error('no ends');
    upstream.hold = promise;
    for (let seq = 1; seq <= 9_000; seq += 1) agent.cycle(0, seqBase + seq);
    await systemClock.sleep(20);
    expect(serverEnd.paused).toBe(true);
    resolve(undefined);
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

  it('was ready and without a problem while no target could be reached', async () => {
    const ways: (() => Promise<Connection>)[] = [
      () => Promise.reject(new Error('connect ECONNREFUSED')),
      () => Promise.reject(new Problem('not-authorised', 'the certificate is unknown')),
      () => {
        const [ours, theirs] = pair(['target', 't1'], ['process-server', 'p1']);
        theirs.close(1000, 'not today');
        return Promise.resolve(ours);
      },
    ];
    let connectTarget = ways[0];
    const here = world({}, { connectTarget: () => (connectTarget ?? accepting)() });
    const accepting = (): Promise<Connection> => {
      const [ours, theirs] = pair(['target', 't1'], ['process-server', 'p1']);
      here.targets.push(new FakeTarget(theirs, {}));
      return Promise.resolve(ours);
    };
    const attempt = async (): Promise<void> => {
      const agent = here.agent('m1');
      agent.hello('m1');
      await agent.connection.closed;
    };
    expect(here.server.readiness).toEqual({ ready: true, reasons: [] });
    for (const way of ways) {
      connectTarget = way;
      await attempt();
      expect(here.server.targetFailure?.problem).toBeInstanceOf(Problem);
      expect(here.server.readiness.ready).toBe(false);
      expect(here.server.readiness.reasons[0]).toMatch(/^since 20.*(ECONNREFUSED|unknown|not today)/);
      connectTarget = undefined;
      const agent = here.agent('m1');
      await open(agent, 'm1');
      expect(here.server.readiness).toEqual({ ready: true, reasons: [] });
      agent.connection.close(1000, 'bye');
      await systemClock.sleep(5);
      expect(here.server.targetFailure).toBeNull();
    }
    here.server.close();
  });

  it('that does not have a machine is ready all the same: the target has nothing to do with that', async () => {
    const elsewhere = new Problem('not-owner', 'process server p2 has machine m1', { retryable: true });
    const here = world({}, { admission: () => Promise.reject(elsewhere) });
    const agent = here.agent('m1');
    agent.hello('m1');
    await agent.connection.closed;
    expect(agent.error).toMatchObject({ code: 'not-owner', retryable: true });
    expect(here.server.targetFailure).toBeNull();
    expect(here.server.readiness).toEqual({ ready: true, reasons: [] });
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
    const connections = (): Record<string, number> => {
      const { bytesIn, bytesOut } = theTarget(here).connection;
      return {
        '{machine="m1",role="agent",direction="in"}': agent.connection.bytesOut,
        '{machine="m1",role="agent",direction="out"}': agent.connection.bytesIn,
        '{machine="m1",role="target",direction="in"}': bytesOut,
        '{machine="m1",role="target",direction="out"}': bytesIn,
      };
    };
    const { text } = await registry.expose();
    for (const [labels, bytes] of Object.entries(connections())) {
      expect(bytes).toBeGreaterThan(0);
      expect(text).toContain(`tidemark_process_server_connection_bytes_total${labels} ${bytes}`);
    }
    expect(text).toContain('tidemark_process_server_checksums_compared_total{machine="m1"} 0');
    expect(text).toContain('tidemark_process_server_batches_durable_total{machine="m1"} 1');
    expect(text).toContain('tidemark_process_server_sessions{state="open"} 1');
    expect(text).toContain(`tidemark_process_server_window_limit_bytes ${limits.processServer.inFlightBytesMax}`);
    expect(text).toContain(`tidemark_process_server_pool_tasks_limit ${limits.processServer.poolQueueTasksMax}`);
    expect(text).toContain('tidemark_process_server_target_reachable 1');
    expect(text).toMatch(/tidemark_kernel_fallback\{kernel="blake3",provider="[^"]+"\} [01]/);
    agent.connection.close(1000, 'bye');
    await theTarget(here).connection.closed;
    const { text: later } = await registry.expose();
    for (const [labels, bytes] of Object.entries(connections())) {
      expect(later).toContain(`tidemark_process_server_connection_bytes_total${labels} ${bytes}`);
    }
    here.server.close();
  });
});

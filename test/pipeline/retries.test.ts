/**
 * What an agent makes of every refusal, by a process server that gives it at once, and a clock that is steered: which are asked again and when, which
 * stop it, and what its report says to do.
 */
import { afterEach, describe, expect, test } from 'vitest';
import { Agent } from '../../src/agent/agent.ts';
import { makeCutAll } from '../../src/capture/cut.ts';
import type { Clock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { limits } from '../../src/limits.ts';
import { wireCodes, type WireCode } from '../../src/wire/codes.ts';
import { encodeErrorMessage } from '../../src/wire/error.ts';
import type { Connection } from '../../src/transport/connection.ts';
import { memoryPair } from '../transport/memory-connection.ts';
import { Site } from './site.ts';
import { clock, machine } from './surroundings.ts';
import { peer } from './wires.ts';

const minute = 60_000;
const sites: Site[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

/** Pauses end when the test says so; how long they were to be is noted. */
class PausedClock {
  readonly pausesMs: number[] = [];
  #go: (() => void) | null = null;
  #passedMs = 0;

  readonly clock: Clock = {
    ...clock,
    monotonicMs: () => clock.monotonicMs() + this.#passedMs,
    sleep: (ms, signal) => {
      this.pausesMs.push(ms);
      return new Promise<void>((resolve) => {
        this.#go = () => {
          this.#passedMs += ms;
          resolve();
        };
        signal?.addEventListener('abort', () => resolve());
      });
    },
  };

  go(): void {
    this.#go?.();
  }
}

interface Alone {
  readonly site: Site;
  readonly agent: Agent;
  readonly paused: PausedClock;
  readonly attempts: () => number;
  readonly stop: () => Promise<void>;
}

/** An agent whose every attempt to connect is answered by `answer`. */
async function alone(answer: (site: Site) => Promise<Connection>): Promise<Alone> {
  const site = await Site.started({ blockSize: 4096, sizes: [300_032] });
  sites.push(site);
  await site.point();
  const life = site.agent;
  if (!life) throw new Error('an agent runs');
  life.agent.stop();
  await site.until(() => life.agent.report().state === 'stopped', 'the first one ends');
  const paused = new PausedClock();
  let attempts = 0;
  const agent = new Agent({
    machine,
    version: 'test',
    disks: life.replicas,
    cutAll: site.watched(makeCutAll(clock)),
    connect: () => {
      attempts += 1;
      return answer(site);
    },
    intervalMs: () => 3_600_000,
    compression: () => 'off',
    clock: paused.clock,
    // The middle of every pause.
    random: { bytes: (length) => Buffer.alloc(length, 7), fraction: () => 0.5 },
    logger: site.logger('agent'),
  });
  const running = agent.run();
  const stop = async (): Promise<void> => {
    agent.stop();
    await running;
  };
  return { site, agent, paused, attempts: () => attempts, stop };
}

function refusing(code: WireCode): () => Promise<Connection> {
  return () => {
    const { client, server } = memoryPair();
    server.onFrame(() => undefined);
    const { retryable, close } = wireCodes[code];
    void server.send(encodeErrorMessage({ code, message: `no: ${code}`, retryable }));
    server.close(close, code);
    return Promise.resolve(client);
  };
}

describe.each(Object.keys(wireCodes) as WireCode[])('%s', (code) => {
  const { retryable, remedy } = wireCodes[code];

  test(retryable ? 'is asked again, quickly first' : 'stops the agent at once: critical, with what to do', async () => {
    expect(remedy.length).toBeGreaterThan(10);
    const { site, agent, paused, stop } = await alone(refusing(code));
    const pausesAre = (count: number) => paused.pausesMs.length === count;
    for (let tries = 1; tries <= 3; tries += 1) {
      const limit = clock.monotonicMs() + 5000;
      while (!pausesAre(tries) && clock.monotonicMs() < limit) await clock.sleep(1);
      expect(pausesAre(tries)).toBe(true);
      const { state, reason, remedy: said, flow } = agent.report();
      expect(reason).toBe(`${code}: no: ${code}`);
      expect(said.startsWith(remedy)).toBe(true);
      expect([state, flow.retry?.class]).toEqual(retryable ? ['connecting', 'quick'] : ['critical', 'critical']);
      if (!retryable) expect(said).toContain('asked again every 5 minutes');
      paused.go();
    }
    const { criticalRetryMs, reconnectBaseMs } = limits.agent;
    const quick = [1, 2, 4].map((times) => reconnectBaseMs * times * 0.75);
    expect(paused.pausesMs).toEqual(retryable ? quick : [1, 1, 1].map(() => criticalRetryMs));
    expect(site.said.some((line) => line.includes('agent error replication stopped'))).toBe(!retryable);
    await stop();
  });
});

async function pauses(of: PausedClock, count: number): Promise<void> {
  const limit = clock.monotonicMs() + 5000;
  while (of.pausesMs.length < count) {
    if (clock.monotonicMs() > limit) throw new Error(`${of.pausesMs.length} pauses, not ${count}`);
    await clock.sleep(1);
  }
}

const nobody = (): Promise<Connection> =>
  Promise.reject(new Problem('unreachable', 'nobody answers', { retryable: true }));

test('the whole table, until somebody asks for a point: then at once', async () => {
  const { agent, paused, attempts, stop } = await alone(nobody);
  for (let tries = 1; tries <= 20; tries += 1) {
    await pauses(paused, tries);
    paused.go();
  }
  await pauses(paused, 21);
  const slow = paused.pausesMs.slice(11).map((ms) => Math.round(ms / minute));
  expect(slow).toEqual([1, 2, 4, 8, 10, 30, 30, 30, 30, 30]);
  expect(paused.pausesMs.slice(0, 11).every((ms) => ms <= 7500)).toBe(true);
  expect(agent.report().flow.retry?.class).toBe('slow');
  const before = attempts();
  agent.requestCycle();
  await pauses(paused, 22);
  expect(attempts()).toBe(before + 1);
  await stop();
});

test('a committed point begins the table anew', async () => {
  let answers = false;
  const { site, agent, paused, stop } = await alone((on) => {
    if (!answers) return nobody();
    const [ours, theirs] = on.agentHop.join(peer('agent', machine), peer('process-server', 'ps-1'));
    on.processServer?.accept(theirs);
    return Promise.resolve(ours);
  });
  for (let tries = 1; tries <= 13; tries += 1) {
    await pauses(paused, tries);
    if (tries === 13) answers = true;
    paused.go();
  }
  expect(Math.round((paused.pausesMs[12] ?? 0) / minute)).toBe(2);
  await site.until(() => agent.report().counters.pointsCommitted > 0, 'a point');
  answers = false;
  site.agentHop.cutAfter(0);
  await pauses(paused, 14);
  expect(paused.pausesMs[13]).toBe(limits.agent.reconnectBaseMs * 0.75);
  await stop();
});

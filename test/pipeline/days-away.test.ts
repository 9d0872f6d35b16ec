/**
 * Everything behind the agent is gone for three days, while its machine goes on writing. It asks again, quickly first, then by the table of pauses,
 * holds no more than in the first minute, and when somebody answers makes one point of what changed and one gap of all that was due.
 */
import { afterEach, expect, test } from 'vitest';
import { Agent } from '../../src/agent/agent.ts';
import { makeCutAll } from '../../src/capture/cut.ts';
import type { Clock, Timer } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { limits } from '../../src/limits.ts';
import { readBack } from './read-back.ts';
import { Site } from './site.ts';
import { clock, machine } from './surroundings.ts';
import { peer } from './wires.ts';

const dayMs = 86_400_000;
const intervalMs = 60_000;
const blockSize = 4096;

const sites: Site[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

/** While its owner is `away` every pause passes at once, and is noted. */
class SteeredClock implements Clock {
  away = false;
  passedMs = 0;
  readonly pausesMs: number[] = [];
  /** Timers that were set and neither went off nor were cancelled. */
  readonly timers = new Set<object>();

  wallMs(): number {
    return clock.wallMs() + this.passedMs;
  }

  monotonicMs(): number {
    return clock.monotonicMs() + this.passedMs;
  }

  after(ms: number, run: () => void): Timer {
    const key = {};
    this.timers.add(key);
    const timer = clock.after(ms, () => {
      this.timers.delete(key);
      run();
    });
    return this.#counted(key, timer);
  }

  every(ms: number, run: () => void): Timer {
    const key = {};
    this.timers.add(key);
    const timer = clock.every(ms, run);
    return this.#counted(key, timer);
  }

  turn(): Promise<void> {
    return clock.turn();
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (!this.away) return clock.sleep(ms, signal);
    this.pausesMs.push(ms);
    this.passedMs += ms;
    await clock.turn();
  }

  #counted(key: object, timer: Timer): Timer {
    const cancel = (): void => {
      this.timers.delete(key);
      timer.cancel();
    };
    return { cancel };
  }
}

/** Of all that was due between the first two points; answers how many. */
function expectOneGap(site: Site): number {
  const [first = NaN, second = NaN] = site.acknowledged.values();
  const due = Math.floor((second - first) / intervalMs) - 1;
  expect(due).toBeGreaterThan((3 * dayMs) / intervalMs - 2);
  const gaps = site.target?.store?.points.gaps ?? [];
  expect(gaps.map(({ points: missed, reason }) => [missed, reason])).toEqual([[due, 'disconnected']]);
  return due;
}

test('three days without anybody to send to', async () => {
  const site = await Site.started({ blockSize, sizes: [2 * 1024 * 1024] });
  sites.push(site);
  await site.proven(await site.point());
  const firstLife = site.agent;
  if (!firstLife) throw new Error('an agent runs');
  firstLife.agent.stop();
  await site.until(() => firstLife.agent.report().state === 'stopped', 'the first agent ends');

  const steered = new SteeredClock();
  let attempts = 0;
  let timersMost = 0;
  const connect = async (): ReturnType<ConstructorParameters<typeof Agent>[0]['connect']> => {
    if (steered.passedMs >= 3 * dayMs) steered.away = false;
    if (!steered.away) {
      const [ours, theirs] = site.agentHop.join(peer('agent', machine), peer('process-server', 'ps-1'));
      site.processServer?.accept(theirs);
      return ours;
    }
    attempts += 1;
    timersMost = Math.max(timersMost, steered.timers.size);
    if (attempts % 5 === 0) await site.write(0, (attempts % 400) * blockSize, Buffer.alloc(700, attempts % 251));
    throw new Problem('unreachable', 'nobody answers', { retryable: true });
  };
  steered.away = true;
  const agent = new Agent({
    machine,
    version: 'test',
    disks: firstLife.replicas,
    cutAll: site.watched(makeCutAll(steered)),
    connect,
    intervalMs: () => intervalMs,
    compression: () => 'off',
    clock: steered,
    random: systemRandom,
    logger: site.logger('agent'),
  });
  const running = agent.run();
  await site.until(() => site.acknowledged.size === 2, 'the point after three days', 40_000);

  // What was due is known with that point, and told with the next.
  agent.requestCycle();
  await site.until(() => site.acknowledged.size === 3, 'the point after that');

  expect(agent.report().gaps.get('disconnected')).toBe(expectOneGap(site));
  const slow = steered.pausesMs.filter((ms) => ms > limits.agent.reconnectMaxMs);
  expect(attempts).toBeGreaterThan((3 * dayMs) / (33 * 60_000));
  expect(attempts - slow.length).toBeGreaterThanOrEqual(10);
  expect(Math.max(...slow)).toBeLessThanOrEqual(33 * 60_000);
  expect(timersMost).toBeLessThanOrEqual(1);

  agent.stop();
  await running;
  expect(steered.timers.size).toBe(0);
  await site.endAgent('close');
  await site.endTarget('close');
  expect(site.alarms).toEqual([]);
  await readBack(site);
});

/** Limits as sessions meet them, on a clock that is moved by hand. */
import { describe, expect, it } from 'vitest';
import { parseRateTable } from '../../src/kit/rate-table.ts';
import { limits } from '../../src/limits.ts';
import { LimitedThrottle, type MachineLimits } from '../../src/process-server/limited-throttle.ts';
import { unthrottled, type AgentThrottle, type LayerKind, type Throttle } from '../../src/process-server/throttle.ts';
import { SteppedClock } from '../kit/stepped-clock.ts';

const { sessionWindowBytes } = limits.processServer;
const batchBytes = limits.agent.batchPayloadBytes + 640;

/** An agent that always has something to send, unless it rests, over a target that makes all of it durable at once. */
class BusyAgent {
  readonly sent: { readonly atMs: number; readonly bytes: number }[] = [];
  resting = false;
  kind: LayerKind = 'delta';
  creditBytes = 0;
  readonly throttle: AgentThrottle;
  readonly #clock: SteppedClock;

  constructor(throttle: Throttle, clock: SteppedClock, machine: string) {
    this.#clock = clock;
    this.throttle = throttle.agent(machine, (bytes) => {
      this.creditBytes += bytes;
      queueMicrotask(() => this.send());
    });
    this.throttle.offer(sessionWindowBytes);
  }

  send(): void {
    while (!this.resting && this.creditBytes >= batchBytes) {
      this.creditBytes -= batchBytes;
      this.sent.push({ atMs: this.#clock.monotonicMs(), bytes: batchBytes });
      this.throttle.used(batchBytes, this.kind);
      this.throttle.offer(batchBytes);
    }
  }

  between(fromMs: number, toMs: number): number {
    return this.sent.filter(({ atMs }) => atMs > fromMs && atMs <= toMs).reduce((sum, { bytes }) => sum + bytes, 0);
  }
}

const machine = (name: string, change: Partial<Record<'own' | 'ofPolicy', string>> = {}): MachineLimits => ({
  machine: name,
  policy: 'p',
  priority: 'normal',
  own: change.own === undefined ? null : parseRateTable(change.own, 'UTC'),
  ofPolicy: change.ofPolicy === undefined ? null : parseRateTable(change.ofPolicy, 'UTC'),
});

function limited(machines: readonly MachineLimits[], start?: string, share = 1) {
  const clock = new SteppedClock(start === undefined ? undefined : Date.parse(start));
  const throttle = new LimitedThrottle({ clock, share });
  throttle.tell(machines);
  return { clock, throttle, agent: (name: string) => new BusyAgent(throttle, clock, name) };
}

describe('the credit of an agent', () => {
  it('is passed on in the same turn where there is no limit', () => {
    for (const throttle of [unthrottled, limited([]).throttle]) {
      const passed: number[] = [];
      const agent = throttle.agent('m1', (bytes) => passed.push(bytes));
      agent.offer(1000);
      agent.used(400, 'delta');
      agent.offer(400);
      expect(passed).toEqual([1000, 400]);
      expect(agent.holds).toBe(false);
    }
  });

  it('keeps to the limit of its machine within 5 % over 10 s', async () => {
    const { clock, agent } = limited([machine('m1', { own: '80Mb/s' })]);
    const busy = agent('m1');
    await clock.pass(30_000);
    for (let from = 0; from <= 20_000; from += 1000) {
      const ratio = busy.between(from, from + 10_000) / 100e6;
      expect(ratio, `from ${from} ms`).toBeGreaterThan(0.95);
      expect(ratio, `from ${from} ms`).toBeLessThan(1.05);
    }
    expect(busy.throttle.holds).toBe(true);
  });

  it('is not saved up by an agent that rests', async () => {
    const { clock, agent } = limited([machine('m1', { own: '16Mb/s' })]);
    const busy = agent('m1');
    busy.resting = true;
    await clock.pass(60_000);
    expect(busy.creditBytes).toBeGreaterThanOrEqual(limits.processServer.sessionWindowBytesMin);
    expect(busy.throttle.holds).toBe(false);
    busy.resting = false;
    busy.send();
    await clock.pass(10_000);
    expect(busy.between(59_999, 70_000) / 20e6).toBeGreaterThan(0.95);
    expect(busy.between(59_999, 70_000) / 20e6).toBeLessThan(1.05);
  });

  it('given while there was no limit is paced from the edge of the window on', async () => {
    const { clock, agent } = limited(
      [machine('m1', { own: '08:00-18:00 16Mb/s; else unlimited' })],
      '2026-01-05T07:59:59Z',
    );
    const busy = agent('m1');
    busy.resting = true;
    await clock.pass(2_000);
    expect(busy.creditBytes).toBe(sessionWindowBytes);
    busy.resting = false;
    busy.send();
    await clock.pass(60_000);
    // What lay with the agent goes at once (nobody can call it back), and is paid for before it gets more.
    expect(busy.between(0, 12_000)).toBeLessThan(sessionWindowBytes + 6e6);
    expect(busy.between(22_000, 32_000) / 20e6).toBeGreaterThan(0.95);
    expect(busy.between(22_000, 32_000) / 20e6).toBeLessThan(1.05);
  });

  it('is shared by the machines of a policy, and a lower limit of a machine holds too', async () => {
    const ofPolicy = '80Mb/s';
    const { clock, agent } = limited([
      machine('m1', { ofPolicy }),
      machine('m2', { ofPolicy, own: '8Mb/s' }),
      machine('m3', { ofPolicy, own: '8Gb/s' }),
    ]);
    const busy = ['m1', 'm2', 'm3'].map((name) => agent(name));
    await clock.pass(20_000);
    const [m1 = 0, m2 = 0, m3 = 0] = busy.map((one) => one.between(0, 20_000));
    expect((m1 + m2 + m3) / 200e6).toBeCloseTo(1, 1);
    expect(m2 / 20e6).toBeGreaterThan(0.94);
    expect(m2 / 20e6).toBeLessThan(1.06);
    expect(m1 / m3).toBeCloseTo(1, 1);
  });

  it('goes to changes first: who compares or replicates for the first time has at most 30 % of what a policy lets pass', async () => {
    const ofPolicy = '80Mb/s';
    const { clock, agent } = limited([machine('m1', { ofPolicy }), machine('m2', { ofPolicy })]);
    const [delta, initial] = [agent('m1'), agent('m2')];
    initial.kind = 'initial';
    await clock.pass(20_000);
    const ratio = initial.between(5_000, 20_000) / (delta.between(5_000, 20_000) + initial.between(5_000, 20_000));
    expect(ratio).toBeLessThan(0.32);
    expect(ratio).toBeGreaterThan(0.25);
  });

  it('follows what is told at run time: another limit, another policy, none', async () => {
    const { clock, throttle, agent } = limited([machine('m1', { own: '8Mb/s' })]);
    const busy = agent('m1');
    await clock.pass(10_000);
    throttle.tell([machine('m1', { own: '80Mb/s' })]);
    await clock.pass(10_000);
    expect(busy.between(10_000, 20_000) / 100e6).toBeCloseTo(1, 1);
    throttle.tell([machine('m1', { ofPolicy: '16Mb/s' })]);
    await clock.pass(10_000);
    expect(busy.between(20_000, 30_000) / 20e6).toBeCloseTo(1, 0);
    busy.resting = true;
    throttle.tell([]);
    await clock.pass(500);
    expect(busy.creditBytes).toBe(sessionWindowBytes);
  });

  it('is told the same again and again without any difference', async () => {
    const ofPolicy = '16Mb/s';
    const { clock, throttle, agent } = limited([machine('m1', { ofPolicy }), machine('m2', { ofPolicy })]);
    const busy = [agent('m1'), agent('m2')];
    for (let told = 0; told < 50; told += 1) {
      await clock.pass(200);
      throttle.tell([machine('m1', { ofPolicy }), machine('m2', { ofPolicy })]);
    }
    expect(busy.reduce((sum, one) => sum + one.between(0, 10_000), 0) / 20e6).toBeCloseTo(1, 1);
  });

  it('of a machine that connects again does not begin anew, and ends with its session', async () => {
    const { clock, agent } = limited([machine('m1', { own: '8Mb/s' })]);
    let sent = 0;
    for (let session = 0; session < 10; session += 1) {
      const busy = agent('m1');
      await clock.pass(1000);
      busy.throttle.end();
      busy.resting = true;
      sent += busy.between(0, 1e9);
      const before = busy.creditBytes;
      await clock.pass(100);
      expect(busy.creditBytes).toBe(before);
    }
    expect(sent).toBeLessThan(11e6);
  });

  it('of one of four processes is a quarter of what they share, and all of what a machine may', async () => {
    const machines = [machine('m1', { ofPolicy: '64Mb/s' }), { ...machine('m2', { own: '16Mb/s' }), policy: 'q' }];
    const { clock, agent } = limited(machines, undefined, 1 / 4);
    const [m1, m2] = [agent('m1'), agent('m2')];
    await clock.pass(20_000);
    expect(m1.between(0, 20_000) / 40e6).toBeCloseTo(1, 1);
    expect(m2.between(0, 20_000) / 40e6).toBeGreaterThan(0.9);
  });
});

describe('the way to the targets', () => {
  it('is shared under the limit of the process server by priority', async () => {
    const { clock, throttle } = limited([
      { ...machine('vip'), priority: 'high' },
      { ...machine('late'), priority: 'low' },
    ]);
    throttle.tellOwn(parseRateTable('80Mb/s', 'UTC'));
    const passed = { vip: 0, late: 0, other: 0 };
    const ends = (['vip', 'late', 'other'] as const).map((name) => {
      const way = throttle.egress(name);
      const run = async (): Promise<void> => {
        for (;;) {
          await way.take(100_000, 'delta');
          passed[name] += 100_000;
        }
      };
      run().catch(() => undefined);
      return way;
    });
    await clock.pass(20_000);
    expect((passed.vip + passed.late + passed.other) / 200e6).toBeCloseTo(1, 1);
    expect(passed.vip / passed.other).toBeGreaterThan(8);
    expect(passed.other / passed.late).toBeGreaterThan(5);
    expect(passed.late).toBeGreaterThan(0);
    for (const way of ends) way.end(new Error('over'));
  });

  it('refuses who waits when its session ends', async () => {
    const { clock, throttle } = limited([]);
    throttle.tellOwn(parseRateTable('8Mb/s', 'UTC'));
    const way = throttle.egress('m1');
    const waiting = way.take(10e6, 'initial');
    way.end(new Error('superseded'));
    await expect(waiting).rejects.toThrow('superseded');
    await expect(way.take(1, 'delta')).rejects.toThrow('superseded');
    await clock.pass(1000);
    expect(clock.nextMs).toBeNull();
  });
});

/** What leases must outlive: questions that hang, control away, targets that lie, many agents at once, an end in the middle of a question. */
import { afterEach, describe, expect, it } from 'vitest';
import type { Lease, LeaseAsk, LeasesReply } from '../../src/control/lease-schemas.ts';
import { decideLease } from '../../src/control/leases.ts';
import { Problem } from '../../src/kit/problem.ts';
import { limits } from '../../src/limits.ts';
import { LeaseKeeper } from '../../src/main/lease-keeper.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { SteppedClock } from '../kit/stepped-clock.ts';

const { leaseMs, renewEveryMs, askMs } = limits.leases;
const logger = createLogger({ level: 'silent', clock: new SteppedClock() });

type Way = 'answers' | 'hangs' | 'away' | 'first part';

/** One process server, and a control that is told how to answer next. */
class World {
  readonly clock = new SteppedClock();
  readonly leases = new Map<string, Lease>();
  readonly asked: LeaseAsk[][] = [];
  readonly inUse = new Set<string>();
  readonly ended: string[] = [];
  way: Way = 'answers';
  alone = false;
  readonly keeper = new LeaseKeeper({
    ask: (asks) => this.#ask(asks),
    inUse: () => this.inUse,
    endMachine: (machine) => {
      this.ended.push(machine);
      this.inUse.delete(machine);
    },
    clock: this.clock,
    logger,
  });

  async #ask(asks: readonly LeaseAsk[]): Promise<LeasesReply> {
    const { way } = this;
    this.asked.push([...asks]);
    await this.clock.sleep(way === 'hangs' ? askMs : 10);
    if (way !== 'answers' && !(way === 'first part' && asks.length > 1))
      throw new Problem('unreachable', 'control does not answer', { retryable: true });
    const world = { nowMs: this.clock.wallMs(), heard: () => true };
    const machines = asks.map((one) => {
      const { answer, lease } = decideLease(this.leases.get(one.machine), one, { name: 'a', session: 'a' }, world);
      if (lease) this.leases.set(one.machine, lease);
      return answer;
    });
    return { leaseMs, alone: this.alone, machines };
  }

  admit(machine: string): Promise<unknown> {
    return this.keeper.admit(machine).then(
      ({ epoch }) => {
        this.inUse.add(machine);
        return epoch;
      },
      (error: unknown) => (error instanceof Problem ? error.code : error),
    );
  }
}

let world: World;
afterEach(async () => {
  world.way = 'away';
  const closing = world.keeper.close();
  await world.clock.pass(100_000);
  await closing;
});

describe('leases of a process server', () => {
  it('outlive one question that control never answers', async () => {
    world = new World();
    expect(await world.clock.within(100, world.admit('m'))).toBe(1);
    await world.clock.pass(renewEveryMs - 150);
    world.way = 'hangs';
    await world.clock.pass(100);
    expect(world.asked.at(-1)).toMatchObject([{ want: 'keep' }]);
    world.way = 'answers';
    await world.clock.pass(2 * leaseMs);
    expect(world.ended).toEqual([]);
  });

  it('of the only process server stay while control is away, also those of agents that are away', async () => {
    world = new World();
    world.alone = true;
    expect(await world.clock.within(100, world.admit('m'))).toBe(1);
    await world.clock.pass(renewEveryMs);
    world.way = 'away';
    await world.clock.pass(renewEveryMs);
    world.inUse.clear();
    await world.clock.pass(10 * leaseMs);
    expect(await world.clock.within(100, world.admit('m'))).toBe(1);
    expect(world.ended).toEqual([]);
  });

  it('of a session that broke wait for it, however many other machines come meanwhile', async () => {
    world = new World();
    expect(await world.clock.within(100, world.admit('m'))).toBe(1);
    world.inUse.clear();
    for (let other = 0; other < 20; other += 1) await world.clock.within(50, world.admit(`n${other}`));
    expect(world.leases.get('m')?.holder).toBe('a');
    expect(await world.clock.within(0, world.admit('m'))).toBe(1);
    world.inUse.delete('m');
    await world.clock.pass(3 * renewEveryMs);
    expect(world.leases.get('m')?.holder).toBeNull();
    expect(world.leases.get('n0')?.holder).toBe('a');
  });

  it('that were over while it was the only one are over when it is told of another and not renewed', async () => {
    world = new World();
    world.alone = true;
    const names = Array.from({ length: limits.leases.machinesPerAskMax + 1 }, (_, at) => `m${at}`);
    await world.clock.within(100, Promise.all(names.map((name) => world.admit(name))));
    expect(world.keeper.held).toBe(names.length);
    world.way = 'away';
    await world.clock.pass(2 * leaseMs);
    expect(world.ended).toEqual([]);
    world.alone = false;
    world.way = 'first part';
    await world.clock.pass(renewEveryMs);
    expect(world.ended).toEqual([names.at(-1)]);
  });

  it('of others are not lost to a target that claims an impossible epoch', async () => {
    world = new World();
    expect(await world.clock.within(100, world.admit('m'))).toBe(1);
    const { refused } = await world.keeper.admit('m');
    refused(Number.MAX_SAFE_INTEGER);
    expect(await world.clock.within(100, world.admit('m'))).toBe('stale-epoch');
    expect(await world.clock.within(100, world.admit('m'))).toBe(1);
    expect(world.asked.flat().every(({ epoch }) => epoch < 2 ** 21 - 1)).toBe(true);
  });

  it('count as lost only where the machine still is: not when its agent is with another shard of the same name', async () => {
    world = new World();
    await world.clock.within(100, Promise.all([world.admit('m'), world.admit('n')]));
    world.inUse.delete('m');
    const other = { name: 'a', session: 'b' };
    for (const machine of ['m', 'n']) {
      const at = { nowMs: world.clock.wallMs(), heard: () => true };
      const { lease } = decideLease(world.leases.get(machine), { machine, want: 'take', epoch: 0 }, other, at);
      if (lease) world.leases.set(machine, lease);
    }
    await world.clock.pass(renewEveryMs);
    expect([world.keeper.held, world.keeper.lost]).toEqual([0, 1]);
  });

  it('taken while it closes are given up, too', async () => {
    world = new World();
    const first = world.admit('m');
    await world.clock.pass(5);
    const second = world.admit('n');
    const closed = world.keeper.close();
    await world.clock.pass(100);
    await closed;
    await Promise.all([first, second]);
    await world.clock.pass(2 * leaseMs);
    expect(world.keeper.held).toBe(0);
    expect(world.leases.get('m')?.holder ?? null).toBeNull();
    expect(world.leases.get('n')?.holder ?? null).toBeNull();
    expect(world.ended).toEqual([]);
  });
});

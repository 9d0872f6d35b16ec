/** The leases of process servers, by a clock that is told to go, against what control decides. */
import { afterEach, describe, expect, it } from 'vitest';
import type { Lease, LeaseAsk, LeasesReply } from '../../src/control/lease-schemas.ts';
import { decideLease } from '../../src/control/leases.ts';
import { Problem } from '../../src/kit/problem.ts';
import { limits } from '../../src/limits.ts';
import { LeaseKeeper } from '../../src/main/lease-keeper.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { SteppedClock } from '../kit/stepped-clock.ts';

const { leaseMs, stopEarlyMs, renewEveryMs, takeWaitMs } = limits.leases;
const logger = createLogger({ level: 'silent', clock: new SteppedClock() });
const notOwner = expect.objectContaining({ code: 'not-owner', retryable: true }) as unknown;

class World {
  readonly clock = new SteppedClock();
  readonly leases = new Map<string, Lease>();
  readonly asked: LeaseAsk[][] = [];
  readonly keepers: LeaseKeeper[] = [];
  away = false;
  alone = false;
  answerMs = 10;

  keeper(name: string) {
    const ended: [string, string, number][] = [];
    const inUse = new Set<string>();
    const run = this.keepers.length;
    const asker = { name, session: String(run).padStart(32, '0') };
    const ask = async (asks: readonly LeaseAsk[]): Promise<LeasesReply> => {
      await this.clock.sleep(this.answerMs / 2);
      if (this.away) throw new Problem('not-writable', 'the state takes no writes', { retryable: true });
      this.asked.push([...asks]);
      const world = { nowMs: this.clock.wallMs(), heard: () => true };
      const machines = asks.map((one) => {
        const { answer, lease } = decideLease(this.leases.get(one.machine), one, asker, world);
        if (lease) this.leases.set(one.machine, lease);
        return answer;
      });
      await this.clock.sleep(this.answerMs / 2);
      return { leaseMs, alone: this.alone, machines };
    };
    const endMachine = (machine: string, { code }: Problem): void => {
      ended.push([machine, code, this.clock.monotonicMs()]);
      inUse.delete(machine);
    };
    const keeper = new LeaseKeeper({ ask, inUse: () => inUse, endMachine, clock: this.clock, logger });
    this.keepers.push(keeper);
    const admit = (machine: string, newest?: number): Promise<unknown> => {
      inUse.add(machine);
      const admitted = keeper.admit(machine).then(({ epoch, refused }) => {
        if (newest !== undefined) refused(newest);
        return { epoch };
      });
      return admitted.catch((error: unknown) => {
        inUse.delete(machine);
        return error;
      });
    };
    return { keeper, admit, ended, inUse };
  }
}

let world: World;
afterEach(async () => {
  const closing = Promise.all(world.keepers.map((keeper) => keeper.close()));
  await world.clock.pass(100_000);
  await closing;
});

describe('a process server with leases', () => {
  it('takes a machine when it comes, keeps it while it is here, gives it up when it is gone', async () => {
    world = new World();
    const { admit, inUse, ended } = world.keeper('a');
    expect(await world.clock.within(100, admit('m'))).toEqual({ epoch: 1 });
    expect(await world.clock.within(0, admit('m'))).toEqual({ epoch: 1 });
    await world.clock.pass(5 * leaseMs);
    expect(world.leases.get('m')?.expiresMs).toBeGreaterThan(world.clock.wallMs() + leaseMs - renewEveryMs - 100);
    inUse.delete('m');
    await world.clock.pass(3 * renewEveryMs);
    expect(world.leases.get('m')).toMatchObject({ holder: null, epoch: 1 });
    expect(ended).toEqual([]);
  });

  it('asks once for many, and never twice at a time', async () => {
    world = new World();
    world.answerMs = 400;
    const { admit } = world.keeper('a');
    await world.clock.pass(1000);
    const before = world.asked.length;
    const all = Promise.all(Array.from({ length: 600 }, (_, index) => admit(`m${index}`)));
    expect(await world.clock.within(1300, all)).toHaveLength(600);
    // The first came alone; then all others, in questions of the largest size, one of which keeps the first.
    expect(world.asked.slice(before).map((asks) => asks.filter(({ want }) => want === 'take').length)).toEqual([
      1, 511, 88,
    ]);
  });

  it('ends a machine before its lease can be over when control is away, and takes it again when it is back', async () => {
    world = new World();
    const { admit, ended } = world.keeper('a');
    await world.clock.within(100, admit('m'));
    await world.clock.pass(renewEveryMs);
    world.away = true;
    const lease = world.leases.get('m');
    const leftMs = (lease?.expiresMs ?? 0) - world.clock.wallMs();
    const startedMs = world.clock.monotonicMs();
    await world.clock.pass(2 * leaseMs);
    expect(ended).toEqual([['m', 'not-owner', expect.any(Number)]]);
    const endedAfterMs = (ended[0]?.[2] ?? 0) - startedMs;
    expect(endedAfterMs).toBeLessThanOrEqual(leftMs - stopEarlyMs);
    expect(endedAfterMs).toBeGreaterThan(leftMs - stopEarlyMs - 100);
    expect(await world.clock.within(100, admit('m'))).toMatchObject({ code: 'unreachable', retryable: true });
    world.away = false;
    expect(await world.clock.within(100, admit('m'))).toEqual({ epoch: 1 });
  });

  it('counts from before it asked: a slow answer makes the lease no longer', async () => {
    world = new World();
    world.answerMs = 2500;
    const { admit, ended } = world.keeper('a');
    const admitted = admit('m');
    await world.clock.pass(5000);
    expect(await world.clock.within(0, admitted)).toEqual({ epoch: 1 });
    world.away = true;
    await world.clock.pass(leaseMs);
    const expiresMs = world.leases.get('m')?.expiresMs ?? 0;
    const endedMs = (ended[0]?.[2] ?? 0) + world.clock.wallMs() - world.clock.monotonicMs();
    expect(endedMs).toBeLessThanOrEqual(expiresMs - stopEarlyMs);
  });

  it('that is the only one goes on without control', async () => {
    world = new World();
    world.alone = true;
    const { admit, ended } = world.keeper('a');
    await world.clock.within(100, admit('m'));
    world.away = true;
    await world.clock.pass(10 * leaseMs);
    expect(ended).toEqual([]);
    expect(await world.clock.within(0, admit('m'))).toEqual({ epoch: 1 });
    world.away = false;
    await world.clock.pass(renewEveryMs);
    expect(world.leases.get('m')?.expiresMs).toBeGreaterThan(world.clock.wallMs());
  });

  it('is refused what another has, waits for one that fell silent, and loses what was taken', async () => {
    world = new World();
    const [first, second] = [world.keeper('a'), world.keeper('b')];
    await world.clock.within(100, first.admit('m'));
    expect(await world.clock.within(100, second.admit('m'))).toEqual(notOwner);
    // The first is stopped: it asks no more, and its own timers rest with it.
    const lease = world.leases.get('m');
    await world.clock.within(100, first.keeper.close());
    world.leases.set('m', { ...(lease as Lease) });
    await world.clock.pass(leaseMs - takeWaitMs + 1000);
    const admitted = second.admit('m');
    expect(await world.clock.within(takeWaitMs - 1500, admitted)).toBeNull();
    expect(await world.clock.within(1000, admitted)).toEqual({ epoch: 2 });
  });

  it('loses a machine that was moved at its next renewal', async () => {
    world = new World();
    const [first, second] = [world.keeper('a'), world.keeper('b')];
    await world.clock.within(100, first.admit('m'));
    const lease = world.leases.get('m') as Lease;
    world.leases.set('m', { ...lease, move: { to: 'b', untilMs: world.clock.wallMs() + 30_000 } });
    await world.clock.pass(renewEveryMs + 100);
    expect(first.ended.map(([machine, code]) => [machine, code])).toEqual([['m', 'not-owner']]);
    expect(await world.clock.within(100, first.admit('m'))).toEqual(notOwner);
    expect(await world.clock.within(100, second.admit('m'))).toEqual({ epoch: 2 });
  });

  it('asks for an epoch above the one the target refused it with', async () => {
    world = new World();
    const { admit } = world.keeper('a');
    expect(await world.clock.within(100, admit('m', 57))).toEqual({ epoch: 1 });
    expect(await world.clock.within(100, admit('m'))).toEqual({ epoch: 58 });
    expect(await world.clock.within(0, admit('m'))).toEqual({ epoch: 58 });
  });

  it('gives everything up when it is closed', async () => {
    world = new World();
    const { admit, keeper } = world.keeper('a');
    await world.clock.within(100, admit('m'));
    const closing = keeper.close();
    await world.clock.pass(100);
    await closing;
    expect(world.leases.get('m')?.holder).toBeNull();
    expect(await world.clock.within(0, admit('m'))).toEqual(notOwner);
  });
});

/** A target that knows a newer epoch than a process server's lease: the next lease is above it, so that the machine is not kept out for ever. */
import { afterEach, expect, it } from 'vitest';
import type { Lease, LeaseAsk } from '../../src/control/lease-schemas.ts';
import { decideLease } from '../../src/control/leases.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import { LeaseKeeper } from '../../src/main/lease-keeper.ts';
import { FakeTarget, pair, silent } from './fakes.ts';
import { open, world } from './world.ts';

const { leaseMs } = limits.leases;
let keeper: LeaseKeeper | null = null;
afterEach(() => keeper?.close());

/** What control decides, on records of its own. */
function control() {
  const leases = new Map<string, Lease>();
  const taken: Pick<LeaseAsk, 'machine' | 'epoch'>[] = [];
  const asker = { name: 'p1', session: 'a'.repeat(32) };
  const ask = (asks: readonly LeaseAsk[]) => {
    const here = { nowMs: systemClock.wallMs(), heard: () => true };
    const machines = asks.map((one) => {
      if (one.want === 'take') taken.push({ machine: one.machine, epoch: one.epoch });
      const { answer, lease } = decideLease(leases.get(one.machine), one, asker, here);
      if (lease) leases.set(one.machine, lease);
      return answer;
    });
    return Promise.resolve({ leaseMs, alone: true, machines });
  };
  return { ask, taken };
}

it('a target that refuses a lease and names its epoch gets one above it at the next attempt, and only that machine does', async () => {
  const { ask, taken } = control();
  keeper = new LeaseKeeper({
    ask,
    inUse: () => new Set(['m1', 'm2']),
    endMachine: () => undefined,
    clock: systemClock,
    logger: silent,
  });
  const said: [string, number | undefined][] = [];
  let newest = 7;
  const here = world(
    {},
    {
      admission: (machine) => keeper?.admit(machine) ?? Promise.resolve(null),
      connectTarget: () => {
        const [ours, theirs] = pair(['target', 't1'], ['process-server', 'p1']);
        const target = new FakeTarget(theirs, {
          onHello: ({ machine, lease }) => {
            said.push([machine, lease?.epoch]);
            if (machine !== 'm1' || (lease?.epoch ?? 0) > newest) return;
            const message = `epoch ${lease?.epoch ?? 0} is refused: somebody had m1`;
            target.error({ code: 'stale-epoch', message, retryable: true, epoch: newest });
          },
        });
        return Promise.resolve(ours);
      },
    },
  );
  const refused = async (): Promise<void> => {
    const agent = here.agent('m1');
    agent.hello('m1');
    await agent.connection.closed;
    expect(agent.error).toMatchObject({ code: 'stale-epoch', retryable: true });
  };
  await refused();
  await open(here.agent('m1'), 'm1');
  await open(here.agent('m2'), 'm2');
  expect(said).toEqual([
    ['m1', 1],
    ['m1', 8],
    ['m2', 1],
  ]);
  // Again, far above: a target that dropped damaged layers took an epoch by itself.
  newest = 1_000;
  await refused();
  await open(here.agent('m1'), 'm1');
  expect(said.slice(3)).toEqual([
    ['m1', 8],
    ['m1', 1_001],
  ]);
  expect(taken).toEqual([
    { machine: 'm1', epoch: 0 },
    { machine: 'm1', epoch: 7 },
    { machine: 'm2', epoch: 0 },
    { machine: 'm1', epoch: 1_000 },
  ]);
  here.server.close();
});

/** Process servers of several processes, as control knows them: on either state store, by a clock that goes when it is told to. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { forgetLeases, leaseRemoved } from '../../src/control/forgotten-leases.ts';
import { storedLease } from '../../src/control/lease-schemas.ts';
import { leasing, processServersFor } from '../../src/control/leasing.ts';
import { processId } from '../../src/control/servers.ts';
import { openLmdbState } from '../../src/control/state-lmdb.ts';
import { openPostgresState } from '../../src/control/state-postgres.ts';
import type { State } from '../../src/control/state.ts';
import { limits } from '../../src/limits.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { SteppedClock } from '../kit/stepped-clock.ts';
import { Postgres, requirePostgres } from './postgres.ts';

const { leaseMs, busyMs, settleMs } = limits.leases;
/** As seldom as a lease outlives. */
const everyMs = leaseMs - 1000;

interface Store {
  readonly state: State;
  readonly remove: () => Promise<void>;
}

async function embedded(clock: SteppedClock): Promise<Store> {
  const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-leasing-'));
  return { state: openLmdbState(directory, clock), remove: () => rm(directory, { recursive: true, force: true }) };
}

const sessionOf = (process: number): string => String(process).padStart(32, '0');

/** What control answers, over one store. */
class World {
  readonly clock = new SteppedClock();
  readonly state: State;
  readonly #store: Store;

  private constructor(store: Store, clock: SteppedClock) {
    this.#store = store;
    this.clock = clock;
    const { state } = store;
    this.state = {
      ...{ get: state.get.bind(state), getMany: state.getMany.bind(state), list: state.list.bind(state) },
      ...{ commit: state.commit.bind(state), close: state.close.bind(state) },
      nowMs: () => Promise.resolve(clock.wallMs()),
    };
  }

  static async open(store: (clock: SteppedClock) => Promise<Store>): Promise<World> {
    const clock = new SteppedClock();
    return new World(await store(clock), clock);
  }

  /** `process` of `name` asks for its machines; answers those it has. Its memory is 100 bytes. */
  async ask(name: string, process: number, inFlightBytes: number, machines: readonly string[] = []): Promise<string[]> {
    const held = await this.state.getMany('leases', machines);
    const asks = machines.map((machine) => {
      const epoch = (held.get(machine)?.value as { epoch: number } | undefined)?.epoch ?? 0;
      return { machine, want: epoch > 0 ? ('keep' as const) : ('take' as const), epoch };
    });
    const load = { sessions: machines.length, inFlightBytes, windowBytes: 100 };
    const body = { session: sessionOf(process), address: `${name}:1`, ...load, machines: asks };
    const identity = { role: 'process-server', name, fingerprint: '', notAfterMs: 0 } as const;
    const { value } = await leasing(this.state).holdLeases({ ...none, identity, body });
    return value.machines.flatMap(({ machine, held: has }) => (has ? [machine] : []));
  }

  async listed() {
    const call = { ...none, identity: { role: 'operator' } as const, body: undefined };
    return (await leasing(this.state).listProcessServers(call)).value.processServers;
  }

  /** All machines came so long ago. */
  async cameBefore(ms: number): Promise<void> {
    const leases = await this.state.list('leases', { limit: 100 });
    await this.state.commit(
      leases.map(({ id, value }) => {
        const lease = storedLease.parse(value);
        return { collection: 'leases', id, value: { ...lease, takenMs: lease.takenMs - ms } };
      }),
    );
  }

  async ids(): Promise<string[]> {
    return (await this.state.list('servers', { limit: 100 })).map(({ id }) => id);
  }

  async remove(): Promise<void> {
    await this.state.close();
    await this.#store.remove();
  }
}
const none = { name: '', query: undefined, ifMatch: undefined };

function describeProcesses(store: (clock: SteppedClock) => Promise<Store>): void {
  let world: World;
  beforeEach(async () => {
    world = await World.open(store);
  });
  afterEach(() => world.remove());

  it('one busy process loses its machines, one at a time, though the others have room and are heard last', async () => {
    const busy = ['m1', 'm2', 'm3'];
    const lost: string[] = [];
    await world.ask('a', 1, 0, busy);
    await world.cameBefore(settleMs);
    for (let passed = 0; passed < 3.5 * busyMs; passed += everyMs) {
      const had = await world.ask('a', 1, 95, busy);
      for (const machine of busy.filter((one) => !had.includes(one))) {
        busy.splice(busy.indexOf(machine), 1);
        lost.push(machine);
      }
      expect(await world.ask('a', 2, 5, ['n1', 'n2'])).toEqual(['n1', 'n2']);
      await world.ask('b', 3, 0);
      await world.clock.pass(everyMs);
    }
    expect(lost).toHaveLength(2);
    expect(await world.listed()).toMatchObject([
      {
        name: 'a',
        state: 'busy',
        ...{ sessions: 3, inFlightBytes: 100, windowBytes: 200, processes: 2, busyProcesses: 1 },
        machines: [...busy, 'n1', 'n2'],
      },
      { name: 'b', state: 'ok', processes: 1, busyProcesses: 0 },
    ]);
  });

  it('a process that fell silent counts for nothing, and its record goes', async () => {
    await world.ask('a', 1, 95, ['m1']);
    await world.ask('a', 2, 5, ['m2', 'm3']);
    await world.ask('b', 3, 0);
    expect((await world.listed())[0]).toMatchObject({ sessions: 3, inFlightBytes: 100, state: 'busy' });
    await world.clock.pass(leaseMs - 1);
    await world.ask('a', 2, 5, ['m2']);
    expect((await world.listed())[0]).toMatchObject({ sessions: 2, inFlightBytes: 100, processes: 2 });
    await world.clock.pass(1);
    expect((await world.listed())[0]).toMatchObject({ sessions: 1, inFlightBytes: 5, processes: 1, state: 'ok' });
    await world.ask('a', 2, 5, ['m2']);
    expect(await world.ids()).toEqual([processId('a', sessionOf(2)), processId('b', sessionOf(3))]);
    await world.clock.pass(leaseMs);
    expect(await world.listed()).toMatchObject([
      { name: 'a', state: 'silent', sessions: 1, processes: 1 },
      { name: 'b', state: 'silent' },
    ]);
  });

  it('reads what was stored before processes were told apart', async () => {
    const load = { sessions: 1, inFlightBytes: 95, windowBytes: 100 };
    const heardMs = world.clock.wallMs();
    const old = { address: 'a:1', ...load, heardMs, busySinceMs: heardMs, movedMs: heardMs };
    await world.state.commit([{ collection: 'servers', id: 'a', value: old }]);
    await world.ask('b', 2, 0);
    expect(await processServersFor(world.state, 'm1')).toEqual(['b:1', 'a:1']);
    expect(await world.listed()).toMatchObject([{ name: 'a', state: 'busy', ...load }, { name: 'b' }]);
    await world.clock.pass(leaseMs);
    await world.ask('a', 1, 5);
    expect(await world.ids()).toEqual([processId('a', sessionOf(1)), processId('b', sessionOf(2))]);
  });

  it('leases of machines that are not known go when they are over, others stay', async () => {
    await world.state.commit([{ collection: 'machines', id: 'known', value: {} }]);
    await world.ask('a', 1, 0, ['known', 'm1', 'm2']);
    const left = async () => (await world.state.list('leases', { limit: 9 })).map(({ id }) => id);
    await forgetLeases(world.state);
    expect(await left()).toEqual(['known', 'm1', 'm2']);
    await world.clock.pass(leaseMs - 1);
    await world.ask('a', 1, 0, ['m2']);
    expect(await leaseRemoved(world.state, 'm1')).toEqual([]);
    await world.clock.pass(1);
    expect(await leaseRemoved(world.state, 'm1')).toMatchObject([{ id: 'm1', value: undefined }]);
    await forgetLeases(world.state);
    expect(await left()).toEqual(['known', 'm2']);
    await world.clock.pass(leaseMs);
    // One that is taken at this moment stays.
    const late: State = {
      ...world.state,
      commit: async (changes) => {
        await world.ask('a', 1, 0, ['m2']);
        return world.state.commit(changes);
      },
    };
    await forgetLeases(late);
    expect(await left()).toEqual(['known', 'm2']);
  });
}

describe('on the embedded state', () => {
  describeProcesses(embedded);
});

const there = requirePostgres();
describe.skipIf(!there)('on PostgreSQL', () => {
  let server: Postgres;
  beforeAll(async () => {
    server = await Postgres.start();
  });
  afterAll(() => server.remove());
  describeProcesses(async () => {
    const address = server.address(await server.database());
    const state = await openPostgresState({ address, passwordFile: undefined }, posixFiles);
    return { state, remove: () => Promise.resolve() };
  });
});

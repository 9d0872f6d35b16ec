/**
 * Leases and process servers over the state port: what `leases.ts` and `placement.ts` decide about what stands there. One question is one read, one decision,
 * one commit; if what was read was changed meanwhile, by another control API or another process server, everything is read and decided anew.
 *
 * Of a process server, every process writes its own record (`servers.ts`), whatever it was: all may ask at the same moment. Compared is when a machine was
 * last moved for load, so that each is moved from one and to one at a time; and what is removed, so that nobody who is back is forgotten.
 */
import { durationText } from '../kit/figures.ts';
import { invariant } from '../kit/invariant.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Call, Handlers } from './http.ts';
import * as schemas from './lease-schemas.ts';
import { decideLease, holderOf, type LeaseWorld } from './leases.ts';
import { byRoom, isOverloaded, offered, relief } from './placement.ts';
import { listAll, machineOf, notFound } from './records.ts';
import { limitOfServer } from './server-limits.ts';
import { heardNow, isHeard, knownProcesses, processId, serversOf, type KnownProcess, type Servers } from './servers.ts';
import type { Change, State, StateRecord } from './state.ts';

const { leaseMs, attemptsMax, serversMax, serverForgottenMs, moveMs } = limits.leases;

interface Known<T> {
  readonly value: T | undefined;
  /** 0: there is none. */
  readonly version: number;
}

const knownLease = (record: StateRecord | undefined): Known<schemas.Lease> => ({
  value: record && schemas.storedLease.parse(record.value),
  version: record?.version ?? 0,
});
const leaseOf = async (state: State, machine: string): Promise<Known<schemas.Lease>> =>
  knownLease(await state.get('leases', machine));

const worldOf = (servers: Servers, nowMs: number): LeaseWorld => ({
  nowMs,
  heard: (name) => {
    const server = servers.get(name);
    return server !== undefined && isHeard(server, nowMs);
  },
});

const busyMeanwhile = (): Problem =>
  new Problem('overloaded', 'others change the same leases all the time', {
    remedy: 'it is tried again by itself',
    retryable: true,
  });

const tooMany = (name: string): Problem =>
  new Problem('overloaded', `the site has ${serversMax} process servers, and ${name} would be one more`, {
    remedy: `stop one that is not needed: it is forgotten ${durationText(serverForgottenMs / 1000)} later`,
    retryable: true,
  });

const removal = (collection: 'servers' | 'reliefs', id: string, expected?: number): Change => ({
  ...{ collection, id, value: undefined },
  ...(expected === undefined ? {} : { expected }),
});

const forgettable = ({ name, said }: KnownProcess, by: string, nowMs: number): boolean =>
  name === by ? !isHeard(said, nowMs) : nowMs - said.heardMs > serverForgottenMs;

/** The machine that this process loses for it is overloaded, and the changes that say so but for the lease's. */
async function relieved(
  state: State,
  name: string,
  leases: ReadonlyMap<string, schemas.Lease>,
  world: { readonly servers: Servers; readonly nowMs: number },
) {
  const records = await state.getMany('reliefs', [...world.servers.keys()]);
  const movedMs = (server: string): number | undefined => {
    const record = records.get(server);
    return record && schemas.storedRelief.parse(record.value).movedMs;
  };
  const moved = relief(name, leases, { ...world, movedMs });
  if (!moved) return null;
  const changes = [name, moved.to].map((id): Change => {
    const value = { movedMs: world.nowMs } satisfies schemas.StoredRelief;
    return { collection: 'reliefs', id, value, expected: records.get(id)?.version ?? 0 };
  });
  return { ...moved, changes };
}

async function attempt(
  state: State,
  name: string,
  body: Call<'holdLeases'>['body'],
): Promise<schemas.LeasesReply | null> {
  // The time before the records (leases.ts, 3).
  const nowMs = await state.nowMs();
  const known = await knownProcesses(state);
  const { session, machines: asks, ...said } = body;
  const id = processId(name, session);
  const here = heardNow(known.find((one) => one.id === id)?.said, said, nowMs);
  const others = known.filter((one) => one.id !== id);
  const forgotten = others.filter((one) => forgettable(one, name, nowMs));
  const servers = serversOf([...others.filter((one) => !forgotten.includes(one)), { name, said: here }], nowMs);
  if (servers.size > serversMax && !known.some((one) => one.name === name)) throw tooMany(name);
  const world = worldOf(servers, nowMs);
  const leases = await state.getMany(
    'leases',
    asks.map(({ machine }) => machine),
  );
  const decided = asks.map((ask) => {
    const { value, version } = knownLease(leases.get(ask.machine));
    return { machine: ask.machine, version, ...decideLease(value, ask, { name, session }, world) };
  });
  const kept = new Map(
    decided.flatMap(({ machine, answer, lease }) => (answer.held && lease ? [[machine, lease]] : [])),
  );
  const moved = isOverloaded(here, nowMs) ? await relieved(state, name, kept, { servers, nowMs }) : null;
  const changes = decided.flatMap(({ machine, version, lease }): Change[] => {
    if (!lease) return [];
    const move = moved?.machine === machine ? { to: moved.to, untilMs: nowMs + moveMs } : lease.move;
    return [{ collection: 'leases', id: machine, value: { ...lease, move }, expected: version }];
  });
  const result = await state.commit([
    { collection: 'servers', id, value: here },
    ...(moved?.changes ?? []),
    ...changes,
    ...forgotten.map(({ id: gone, version }) => removal('servers', gone, version)),
    ...[...new Set(forgotten.map((one) => one.name))]
      .filter((one) => !servers.has(one))
      .map((one) => removal('reliefs', one)),
  ]);
  if (!result.ok) return null;
  return { leaseMs, alone: servers.size === 1, machines: decided.map(({ answer }) => answer) };
}

/** Where the machine's agent should go, in this order; none: there is nothing to choose from, and it goes where it was configured to go. */
export async function processServersFor(state: State, machine: string): Promise<string[]> {
  const nowMs = await state.nowMs();
  const servers = serversOf(await knownProcesses(state), nowMs);
  return servers.size < 2 ? [] : offered((await leaseOf(state, machine)).value, servers, nowMs);
}

async function move(state: State, machine: string, wanted: string | undefined) {
  await machineOf(state, machine);
  const nowMs = await state.nowMs();
  const servers = serversOf(await knownProcesses(state), nowMs);
  const { value: lease, version } = await leaseOf(state, machine);
  const from = holderOf(lease, nowMs);
  if (wanted !== undefined && !servers.has(wanted)) {
    throw notFound('process server', wanted, [...servers.keys()], '`tidemark process-servers` lists them');
  }
  const to = wanted ?? byRoom(servers, nowMs).find((name) => name !== from);
  const there = to === undefined ? undefined : servers.get(to);
  if (to === undefined || there === undefined || !isHeard(there, nowMs)) {
    const message = to === undefined ? 'there is no other process server' : `process server ${to} is silent`;
    throw new Problem('unreachable', message, {
      remedy: 'start one that reports to control; `tidemark process-servers` shows which are there',
      retryable: true,
    });
  }
  const reply = { machine, from, to, address: there.address };
  if (from === to) return { ...reply, changed: false };
  if (!lease) {
    throw new Problem('not-found', `no process server ever had ${machine}`, {
      remedy: 'start its agent first; it goes where there is room',
    });
  }
  const value = { ...lease, move: { to, untilMs: nowMs + moveMs } };
  const result = await state.commit([{ collection: 'leases', id: machine, value, expected: version }]);
  return result.ok ? { ...reply, changed: true } : null;
}

async function insist<T>(run: () => Promise<T | null>): Promise<T> {
  for (let done = 0; done < attemptsMax; done += 1) {
    const result = await run();
    if (result !== null) return result;
  }
  throw busyMeanwhile();
}

type LeaseHandlers = Pick<Handlers, 'holdLeases' | 'moveMachine' | 'listProcessServers'>;

export function leasing(state: State): LeaseHandlers {
  return {
    async holdLeases({ identity, body }) {
      invariant('name' in identity, 'a process server has a name');
      return { value: await insist(() => attempt(state, identity.name, body)) };
    },
    async moveMachine({ name, body: { to } }) {
      return { value: await insist(() => move(state, name, to)) };
    },
    async listProcessServers() {
      const nowMs = await state.nowMs();
      const servers = serversOf(await knownProcesses(state), nowMs);
      const held = (await listAll(state, 'leases')).map(({ id, value }) => ({
        machine: id,
        holder: holderOf(schemas.storedLease.parse(value), nowMs),
      }));
      const answers = [...servers].map(async ([name, server]) => {
        const { address, sessions, inFlightBytes, windowBytes, heardMs, processes, busyProcesses } = server;
        const machines = held.flatMap(({ machine, holder }) => (holder === name ? [machine] : []));
        const condition = !isHeard(server, nowMs) ? 'silent' : busyProcesses === 0 ? 'ok' : 'busy';
        const load = {
          sessions,
          inFlightBytes,
          windowBytes,
          heardMs,
          processes,
          busyProcesses,
          state: condition,
        } as const;
        return { name, address, ...load, machines, throttle: await limitOfServer(state, name) };
      });
      return { value: { processServers: await Promise.all(answers) } };
    },
  };
}

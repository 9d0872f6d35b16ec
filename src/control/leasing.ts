/**
 * Leases and process servers over the state port: what `leases.ts` and `placement.ts` decide about what stands there. One question is one read, one decision,
 * one commit; if what was read was changed meanwhile, by another control API or another process server, everything is read and decided anew.
 *
 * A process server is known by its questions, and its load by what it says in them. Its record is set whatever it was, because its shards ask beside each
 * other, all at the same time, and would refuse each other for ever; it is compared only where a machine is moved for load, and where it is forgotten.
 */
import { invariant } from '../kit/invariant.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Call, Handlers } from './http.ts';
import * as schemas from './lease-schemas.ts';
import { decideLease, holderOf, type LeaseWorld } from './leases.ts';
import { byRoom, heardNow, isHeard, offered, relief, type Servers } from './placement.ts';
import { listAll, machineOf, notFound } from './records.ts';
import { limitOfServer } from './server-limits.ts';
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

async function serversOf(state: State): Promise<{ servers: Servers; versions: ReadonlyMap<string, number> }> {
  const records = await state.list('servers', { limit: serversMax });
  return {
    servers: new Map(records.map(({ id, value }) => [id, schemas.storedServer.parse(value)])),
    versions: new Map(records.map(({ id, version }) => [id, version])),
  };
}

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

async function attempt(
  state: State,
  name: string,
  body: Call<'holdLeases'>['body'],
): Promise<schemas.LeasesReply | null> {
  // The time before the records (leases.ts, 3).
  const nowMs = await state.nowMs();
  const { servers: known, versions } = await serversOf(state);
  const { session, machines: asks, ...said } = body;
  const here = heardNow(known.get(name), said, nowMs);
  const servers = new Map([...known, [name, here]]);
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
  const moved = relief(name, servers, kept, nowMs);
  const there = moved && servers.get(moved.to);
  const changes = decided.flatMap(({ machine, version, lease }): Change[] => {
    if (!lease) return [];
    const move = moved?.machine === machine ? { to: moved.to, untilMs: nowMs + moveMs } : lease.move;
    return [{ collection: 'leases', id: machine, value: { ...lease, move }, expected: version }];
  });
  const compared = (id: string) => ({ collection: 'servers', id, expected: versions.get(id) ?? 0 }) as const;
  const forgotten = [...known].filter(([id, { heardMs }]) => id !== name && nowMs - heardMs > serverForgottenMs);
  const result = await state.commit([
    ...(moved && there
      ? [
          { ...compared(name), value: { ...here, movedMs: nowMs } },
          { ...compared(moved.to), value: { ...there, movedMs: nowMs } },
        ]
      : [{ collection: 'servers', id: name, value: here } as const]),
    ...changes,
    ...forgotten.map(([id]): Change => ({ ...compared(id), value: undefined })),
  ]);
  if (!result.ok) return null;
  return { leaseMs, alone: servers.size - forgotten.length === 1, machines: decided.map(({ answer }) => answer) };
}

/** Where the machine's agent should go, in this order; none: there is nothing to choose from, and it goes where it was configured to go. */
export async function processServersFor(state: State, machine: string): Promise<string[]> {
  const nowMs = await state.nowMs();
  const { servers } = await serversOf(state);
  return servers.size < 2 ? [] : offered((await leaseOf(state, machine)).value, servers, nowMs);
}

async function move(state: State, machine: string, wanted: string | undefined) {
  await machineOf(state, machine);
  const nowMs = await state.nowMs();
  const { servers } = await serversOf(state);
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
      const { servers } = await serversOf(state);
      const held = (await listAll(state, 'leases')).map(({ id, value }) => ({
        machine: id,
        holder: holderOf(schemas.storedLease.parse(value), nowMs),
      }));
      const answers = [...servers].map(async ([name, server]) => {
        const { address, sessions, inFlightBytes, windowBytes, heardMs, busySinceMs } = server;
        const machines = held.flatMap(({ machine, holder }) => (holder === name ? [machine] : []));
        const condition = !isHeard(server, nowMs) ? 'silent' : busySinceMs === null ? 'ok' : 'busy';
        const load = { sessions, inFlightBytes, windowBytes, heardMs, state: condition } as const;
        return { name, address, ...load, machines, throttle: await limitOfServer(state, name) };
      });
      return { value: { processServers: await Promise.all(answers) } };
    },
  };
}

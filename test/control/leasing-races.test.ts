/** Questions about leases that meet in the state: of the shards of one process server, and of one that was silent for long while others forget it. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { leasesRequest } from '../../src/control/lease-schemas.ts';
import { leasing } from '../../src/control/leasing.ts';
import { processId } from '../../src/control/servers.ts';
import { openLmdbState } from '../../src/control/state-lmdb.ts';
import type { State } from '../../src/control/state.ts';
import { limits } from '../../src/limits.ts';
import { SteppedClock } from '../kit/stepped-clock.ts';

const { serverForgottenMs } = limits.leases;
const { shardsMax } = limits.processServer;
const clock = new SteppedClock();
let directory: string;
let state: State;
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-leasing-'));
  state = openLmdbState(directory, clock);
});
afterEach(async () => {
  await state.close();
  await rm(directory, { recursive: true, force: true });
});

const sessionOf = (session: number): string => String(session).padStart(32, '0');
const idOf = (name: string, session: number): string => processId(name, sessionOf(session));

async function ask(on: State, name: string, session: number, machines: readonly string[] = []) {
  const asks = machines.map((machine) => ({ machine, want: 'take', epoch: 0 }) as const);
  const load = { sessions: 1, inFlightBytes: 0, windowBytes: 1 };
  const body = { session: sessionOf(session), address: 'x:1', ...load, machines: [...asks] };
  const identity = { role: 'process-server', name, fingerprint: '', notAfterMs: 0 } as const;
  const { value } = await leasing(on).holdLeases({ identity, name: '', query: undefined, body, ifMatch: undefined });
  return value.machines.map(({ held }) => held);
}

it('a process server that says nonsense of where it is, is not taken down', () => {
  const said = { session: '0'.repeat(32), sessions: 0, inFlightBytes: 0, windowBytes: 1, machines: [] };
  const taken = (address: string): boolean => leasesRequest.safeParse({ ...said, address }).success;
  expect(['x:9443', '10.0.0.1:1', '[::1]:65535'].map(taken)).toEqual([true, true, true]);
  expect(['x:0', 'x:99999', '[:::]:1', 'a@b:1', 'x'].map(taken)).toEqual([false, false, false, false, false]);
});

it('the shards of one process server ask at the same moment, and all are answered', async () => {
  for (let round = 0; round < 5; round += 1) {
    const shards = Array.from({ length: shardsMax }, (_, shard) => ask(state, 'a', shard, [`m${shard}`]));
    expect((await Promise.all(shards)).flat()).toEqual(new Array<boolean>(shardsMax).fill(true));
  }
});

it('a process server that is back is not forgotten by one that read before', async () => {
  await ask(state, 'a', 1);
  await clock.pass(serverForgottenMs + 1);
  let back = false;
  const late: State = {
    ...state,
    commit: async (changes) => {
      if (!back) await ask(state, 'a', 1);
      back = true;
      return state.commit(changes);
    },
  };
  await ask(late, 'b', 2);
  const there = await state.list('servers', { limit: 10 });
  expect(there.map(({ id }) => id)).toEqual([idOf('a', 1), idOf('b', 2)]);
  await clock.pass(serverForgottenMs + 1);
  await state.commit(['a', 'b'].map((id) => ({ collection: 'reliefs', id, value: { movedMs: 1 } })));
  await ask(state, 'b', 2);
  expect((await state.list('reliefs', { limit: 10 })).map(({ id }) => id)).toEqual(['b']);
  expect((await state.list('servers', { limit: 10 })).map(({ id }) => id)).toEqual([idOf('b', 2)]);
});

it('one process server too many is refused, as long as none is forgotten, and the others do not notice', async () => {
  const { serversMax } = limits.leases;
  const heardMs = clock.wallMs();
  const load = { sessions: 1, inFlightBytes: 0, windowBytes: 1 };
  const said = { address: 'x:1', ...load, heardMs, busySinceMs: null };
  const names = Array.from({ length: serversMax - 1 }, (_, index) => `s${index}`);
  await state.commit(names.map((name) => ({ collection: 'servers', id: idOf(name, 1), value: said })));
  expect(await ask(state, 'z1', 1, ['m1'])).toEqual([true]);
  await expect(ask(state, 'z2', 1, ['m2'])).rejects.toMatchObject({
    code: 'overloaded',
    message: `the site has ${serversMax} process servers, and z2 would be one more`,
    remedy: expect.stringContaining('forgotten 60 min later') as string,
  });
  expect(await ask(state, 'z1', 2, ['m2'])).toEqual([true]);
  // Who is known is served, however many there are.
  await state.commit([{ collection: 'servers', id: idOf('z9', 1), value: said }]);
  expect(await ask(state, 's0', 2, ['m3'])).toEqual([true]);
  await clock.pass(serverForgottenMs + 1);
  expect(await ask(state, 'z2', 1, ['m1'])).toEqual([true]);
});

/** The state port on a real PostgreSQL: the shared suite, and what only a server that others share, stop and refuse can do. */
import { writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stateFault } from '../../src/control/state-faults.ts';
import { openPostgresState } from '../../src/control/state-postgres.ts';
import type { CommitResult, State } from '../../src/control/state.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { openAuthority, issueInMemory } from '../../src/transport/authority.ts';
import { Postgres, requirePostgres } from './postgres.ts';
import { describeState } from './state-contract.ts';

const there = requirePostgres();
let server: Postgres;
const opened = (address: string, passwordFile?: string): Promise<State> =>
  openPostgresState({ address, passwordFile }, posixFiles);
const open = (database: string): Promise<State> => opened(server.address(database));
const put = (state: State, id: string, value: number, expected?: number): Promise<CommitResult> =>
  state.commit([{ collection: 'machines', id, value, ...(expected === undefined ? {} : { expected }) }]);

beforeAll(async () => {
  if (there) server = await Postgres.start();
});
afterAll(async () => {
  if (there) await server.remove();
});

describe.skipIf(!there)('on PostgreSQL', () => {
  describeState('PostgreSQL', async () => {
    const database = await server.database();
    return { open: () => open(database), remove: () => Promise.resolve() };
  });

  it('is one store for several APIs, that open it at once', async () => {
    const database = await server.database();
    const states = await Promise.all([1, 2, 3, 4].map(() => open(database)));
    const results = await Promise.all(states.flatMap((state) => [1, 2, 3].map((value) => put(state, 'a', value, 0))));
    expect(results.filter(({ ok }) => ok)).toHaveLength(1);
    // Counted up by all, each time by comparing and setting: nothing is lost.
    const countUp = async (state: State): Promise<void> => {
      for (let done = 0; done < 10;) {
        const record = await state.get('machines', 'count');
        const before = typeof record?.value === 'number' ? record.value : 0;
        if ((await put(state, 'count', before + 1, record?.version ?? 0)).ok) done += 1;
      }
    };
    await Promise.all(states.map(countUp));
    expect((await states[0]?.get('machines', 'count'))?.value).toBe(40);
    await Promise.all(states.map((state) => state.close()));
  });

  it('does not block itself, whatever the order in which records are named', async () => {
    const database = await server.database();
    const states = await Promise.all([open(database), open(database)]);
    const ids = Array.from({ length: 20 }, (_, index) => `m${index}`);
    const named = (order: readonly string[]) => order.map((id) => ({ collection: 'machines', id, value: 1 }) as const);
    const commits = states.flatMap((state) =>
      Array.from({ length: 20 }, (_, turn) => state.commit(named(turn % 2 === 0 ? ids : ids.toReversed()))),
    );
    expect((await Promise.all(commits)).every(({ ok }) => ok)).toBe(true);
    await Promise.all(states.map((state) => state.close()));
  });

  it('has room for the locks of many large commits at once, and says so where it has not', async () => {
    const database = await server.database();
    const states = await Promise.all([open(database), open(database), open(database)]);
    const records = (turn: string) =>
      Array.from({ length: 500 }, (_, at) => ({ collection: 'machines', id: `m${turn}-${at}`, value: 1 }) as const);
    const commits = states.flatMap((state, api) =>
      Array.from({ length: 8 }, (_, turn) => state.commit(records(`${api}-${turn}`))),
    );
    expect((await Promise.all(commits)).every(({ ok }) => ok)).toBe(true);
    await Promise.all(states.map((state) => state.close()));
    const fault = Object.assign(new Error('out of shared memory'), { code: '53200' });
    expect(stateFault(fault, 'PostgreSQL')).toMatchObject({ code: 'timeout', retryable: true });
  });

  it('lets commits of other records pass one that waits', async () => {
    const database = await server.database();
    const state = await open(database);
    const row = `insert into tidemark.records (collection, id, version, value) values ('machines', 'a', 1, '1')`;
    const held = server.query(`begin; ${row}; select pg_sleep(0.7); rollback`, database);
    await systemClock.sleep(200);
    const order: string[] = [];
    const commits = ['a', 'b'].map(async (id) => {
      await put(state, id, 1);
      order.push(id);
    });
    await Promise.all([...commits, held]);
    expect(order).toEqual(['b', 'a']);
    await state.close();
  });

  it('commits durably, also where the server does not by itself, and in no transaction without an end', async () => {
    const database = await server.database();
    await server.query(`alter database ${database} set synchronous_commit = off`);
    const state = await open(database);
    await server.query(
      `create function told() returns trigger language plpgsql as
       $$ begin new.value := json_build_array(current_setting('synchronous_commit'),
         current_setting('idle_in_transaction_session_timeout'))::text; return new; end $$;
       create trigger told before insert on tidemark.records for each row execute function told()`,
      database,
    );
    await put(state, 'a', 1);
    expect((await state.get('machines', 'a'))?.value).toEqual(['on', '4s']);
    await state.close();
  });

  it('asks no second time for what it may have committed', async () => {
    const database = await server.database();
    const state = await open(database);
    await server.query(
      `create sequence attempts;
       create function die() returns trigger language plpgsql as
       $$ begin perform nextval('attempts'); perform pg_terminate_backend(pg_backend_pid()); return new; end $$;
       create constraint trigger die after insert on tidemark.records deferrable initially deferred
       for each row execute function die()`,
      database,
    );
    await expect(put(state, 'a', 1)).rejects.toMatchObject({ code: 'unreachable', retryable: true });
    expect(await server.query('select last_value::int as n from attempts', database)).toEqual([{ n: 1 }]);
    await server.query('drop trigger die on tidemark.records', database);
    expect(await put(state, 'a', 1)).toMatchObject({ ok: true });
    await state.close();
  });

  it('refuses a store of another version by name, and leaves it alone', async () => {
    const database = await server.database();
    const state = await open(database);
    await put(state, 'a', 1);
    await state.close();
    await server.query('update tidemark.store set format = 9', database);
    await expect(open(database)).rejects.toMatchObject({
      code: 'wrong-version',
      message: expect.stringContaining(`${database} is of version 9, not 1`) as string,
      remedy: expect.stringContaining('version of tidemark that made it') as string,
    });
    await server.query('update tidemark.store set format = 1', database);
    const again = await open(database);
    expect((await again.get('machines', 'a'))?.value).toBe(1);
    await again.close();
  });

  it('refuses what it can not use, by name', async () => {
    const database = await server.database();
    await expect(open('nowhere')).rejects.toMatchObject({ code: 'bad-config', retryable: false });
    await server.query('create role stranger login');
    const stranger = server.address(database).replace('user=tidemark', 'user=stranger');
    await expect(opened(stranger)).rejects.toMatchObject({ code: 'not-authorised' });
    // What the remedy says is enough.
    await server.query('create schema tidemark authorization stranger', database);
    await (await opened(stranger)).close();
    await server.query("create database latin template template0 encoding 'LATIN1' locale 'C'");
    await expect(open('latin')).rejects.toMatchObject({ code: 'bad-config' });
    const elsewhere = server.address(database).replace(encodeURIComponent(server.directory), '%2Fnowhere');
    await expect(opened(elsewhere)).rejects.toMatchObject({
      code: 'unreachable',
      remedy: expect.stringContaining('control.state') as string,
    });
    await expect(opened(`${server.address(database)}&sslmode=verify-full`)).rejects.toMatchObject({
      code: 'bad-certificate',
    });
  });
});

describe.skipIf(!there)('a PostgreSQL that goes and comes', () => {
  it('is used again after a restart, with everything that was committed', async () => {
    const database = await server.database();
    const state = await open(database);
    for (const how of ['fast', 'crash'] as const) {
      const results = await Promise.all(Array.from({ length: 12 }, (_, index) => put(state, `${how}${index}`, index)));
      expect(results.every(({ ok }) => ok)).toBe(true);
      await server.stopServer(how);
      const away = { code: 'unreachable', retryable: true };
      await expect(state.get('machines', 'a')).rejects.toMatchObject(away);
      await expect(put(state, 'a', 1)).rejects.toMatchObject(away);
      await server.startServer();
      // No call fails for the connections that broke meanwhile.
      const kept = await state.list('machines', { prefix: how, limit: 100 });
      expect(kept).toHaveLength(12);
      expect(await put(state, 'b', 1)).toMatchObject({ ok: true });
    }
    await state.close();
  });

  it('that restarts under load loses no commit that was acknowledged, and makes none by half', async () => {
    const database = await server.database();
    const state = await open(database);
    const acknowledged = new Set<number>();
    let over = false;
    let failures = 0;
    const load = async (lane: number): Promise<void> => {
      for (let turn = lane; !over; turn += 4) {
        const both = ['x', 'y'].map((half) => ({ collection: 'machines', id: `${half}${turn}`, value: turn }) as const);
        try {
          if ((await state.commit(both)).ok) acknowledged.add(turn);
        } catch (error) {
          expect(error).toMatchObject({ code: 'unreachable', retryable: true });
          failures += 1;
          await systemClock.sleep(20);
        }
      }
    };
    const lanes = [0, 1, 2, 3].map(load);
    for (const how of ['fast', 'crash'] as const) {
      await systemClock.sleep(300);
      await server.stopServer(how);
      await systemClock.sleep(100);
      await server.startServer();
    }
    await systemClock.sleep(300);
    over = true;
    await Promise.all(lanes);
    const turnsOf = async (prefix: string): Promise<Set<number>> =>
      new Set((await state.list('machines', { prefix, limit: 100_000 })).map(({ value }) => Number(value)));
    const [x, y] = [await turnsOf('x'), await turnsOf('y')];
    expect(x).toEqual(y);
    expect([...acknowledged].filter((turn) => !x.has(turn))).toEqual([]);
    expect(failures).toBeGreaterThan(0);
    expect(acknowledged.size).toBeGreaterThan(20);
    await state.close();
  });

  it('that takes no writes is read all the same, and written again when it does', async () => {
    const database = await server.database();
    const state = await open(database);
    await put(state, 'a', 1);
    await server.setReadOnly(true);
    await systemClock.sleep(200);
    await expect(put(state, 'a', 2)).rejects.toMatchObject({ code: 'not-writable', retryable: true });
    expect((await state.get('machines', 'a'))?.value).toBe(1);
    await server.setReadOnly(false);
    await systemClock.sleep(200);
    expect(await put(state, 'a', 3)).toMatchObject({ ok: true });
    await state.close();
  });
});

describe.skipIf(!there)('a PostgreSQL over the network', () => {
  it('is asked with a password from a file, over TLS that is verified', async () => {
    const directory = path.join(server.directory, 'tls');
    const authority = await openAuthority(posixFiles, path.join(directory, 'ca'), systemClock);
    const made = await issueInMemory(authority, { role: 'control', name: 'db', days: 10 }, systemClock);
    const other = await openAuthority(posixFiles, path.join(directory, 'other'), systemClock);
    await server.query("create role ada login password 'only here'");
    await server.query('create database ada owner ada');
    await server.stopServer();
    await server.write('server.crt', made.certPem);
    await server.write('server.key', made.keyPem);
    await server.write('pg_hba.conf', 'local all tidemark trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n');
    await server.startServer(['ssl=on', 'listen_addresses=127.0.0.1']);
    const { port } = server;
    const password = path.join(directory, 'password');
    await writeFile(password, 'only here\n', { mode: 0o600 });
    const address = (ca: string): string =>
      `postgres://ada@127.0.0.1:${port}/ada?sslmode=verify-full&sslrootcert=${path.join(directory, ca, 'ca.pem')}`;
    const state = await opened(address('ca'), password);
    expect(await put(state, 'a', 1)).toMatchObject({ ok: true });
    await state.close();
    expect(other.fingerprint).not.toBe(authority.fingerprint);
    await expect(opened(address('other'), password)).rejects.toMatchObject({ code: 'bad-certificate' });
    await writeFile(password, 'only there');
    const refused = await opened(address('ca'), password).catch((error: unknown) => error);
    expect(refused).toMatchObject({
      code: 'not-authenticated',
      remedy: expect.stringContaining('statePassword') as string,
    });
    expect(JSON.stringify(refused)).not.toContain('only there');
    await expect(opened(address('ca'))).rejects.toMatchObject({ code: 'not-authenticated' });
    await expect(opened(address('ca'), path.join(directory, 'none'))).rejects.toThrow('none');
  });
});

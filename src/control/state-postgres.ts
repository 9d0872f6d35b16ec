/**
 * The state port on PostgreSQL, for several control APIs at once. A schema of its own:
 *
 *   tidemark.store    (format)                          one row: what this layout is called; another number is refused
 *   tidemark.records  (collection, id, version, value)  ids in byte order (COLLATE "C"), values as JSON text
 *   tidemark.versions                                   a sequence: a number taken is never given again, not even if nothing came of it
 *
 * A commit is one transaction. It first locks the records it names, also those that do not exist, each by an advisory lock of the transaction, all
 * in one order, so that commits of other records go on beside it and two of the same can not block each other for ever. Then it compares, then it sets.
 *
 *  1. `synchronous_commit` is never off here, whatever the server's default is (contract rule 1).
 *  2. A connection that breaks is replaced; what was asked is asked once more, but never after COMMIT was sent: then nobody knows whether it was done,
 *     and the caller hears `unreachable`. Whoever compares before he sets finds out by reading again.
 *  3. No transaction outlives its API: who stops in the middle of one loses it after `statementMs`, and with it the locks.
 */
import { Pool, type PoolClient } from 'pg';
import { invariant } from '../kit/invariant.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import { parsePostgresAddress, type PostgresAddress } from './state-address.ts';
import { isLost, stateFault, whileRunning } from './state-faults.ts';
import { checkId, type Change, type Collection, type CommitResult, type Json } from './state.ts';
import type { ListOptions, State, StateRecord } from './state.ts';

const { connectionsMax, connectMs, statementMs } = limits.state;
const format = 1;
/** One API at a time makes the schema. Any number that is always the same. */
const schemaLock = 7_146_931_022;
/** A power of two. */
const lockKeys = 1024;
/** Sorts behind every character an id may have. */
const behindAll = '\x7f';

const makeStore = `
  create table tidemark.store (format integer not null);
  create table tidemark.records (
    collection text collate "C" not null, id text collate "C" not null, version bigint not null, value text not null,
    primary key (collection, id));
  create sequence tidemark.versions;
  insert into tidemark.store values (${format});`;

const begin = `
  begin isolation level read committed;
  select set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') = 'off'`; // 1
/**
 * Keys are hashed to numbers: two records may share one, and then wait for each other, which is harmless. They are few, because all locks of all
 * transactions of a server have a fixed room (by default 6,400), and a question about leases names hundreds of records.
 */
const lockRecords = `
  select pg_advisory_xact_lock(key) from (
    select distinct hashtextextended(collection || '/' || id, 0) & ${lockKeys - 1} as key
    from unnest($1::text[], $2::text[]) as named (collection, id) order by key) as keys`;
const readVersions = `
  select collection, id, version from tidemark.records
  join unnest($1::text[], $2::text[]) as named (collection, id) using (collection, id)`;
const takeVersions = `select nextval('tidemark.versions') as version from generate_series(1, $1)`;
const removeRecords = `
  delete from tidemark.records using unnest($1::text[], $2::text[]) as named (collection, id)
  where records.collection = named.collection and records.id = named.id`;
const writeRecords = `
  insert into tidemark.records (collection, id, version, value)
  select * from unnest($1::text[], $2::text[], $3::bigint[], $4::text[])
  on conflict (collection, id) do update set version = excluded.version, value = excluded.value`;

/** `bigint` comes as text. */
interface Row {
  readonly collection: string;
  readonly id: string;
  readonly version: string;
  readonly value: string;
}

async function tlsFiles(files: Files, { tls, host }: PostgresAddress) {
  if (tls === null) return false;
  const read = async (file: string | undefined): Promise<string | undefined> =>
    file === undefined ? undefined : (await files.readWhole(file)).toString();
  const [ca, cert, key] = [await read(tls.rootCertificate), await read(tls.certificate), await read(tls.key)];
  const given = Object.entries({ ca, cert, key }).filter(([, pem]) => pem !== undefined);
  return { ...Object.fromEntries(given), host, rejectUnauthorized: tls.verified };
}

const inKeyOrder = (changes: readonly Change[]): [string[], string[]] => [
  changes.map(({ collection }) => collection),
  changes.map(({ id }) => id),
];
const recordOf = ({ id, version, value }: Row): StateRecord => ({
  id,
  version: Number(version),
  value: JSON.parse(value) as Json,
});
const keyOf = ({ collection, id }: Pick<Row, 'collection' | 'id'>): string => `${collection}/${id}`;

/** Within a transaction that holds the locks. */
async function apply(client: PoolClient, changes: readonly Change[]): Promise<CommitResult> {
  const keys = inKeyOrder(changes);
  const { rows: there } = await client.query<Row>(readVersions, keys);
  const standing = new Map(there.map((row) => [keyOf(row), Number(row.version)]));
  const conflict = changes.findIndex(
    (change) => change.expected !== undefined && (standing.get(keyOf(change)) ?? 0) !== change.expected,
  );
  if (conflict !== -1) return { ok: false, conflict };
  const puts = changes.filter(({ value }) => value !== undefined).length;
  const { rows: taken } = await client.query<Row>(takeVersions, [puts]);
  let next = 0;
  const versions = changes.map(({ value }) => (value === undefined ? 0 : Number(taken[next++]?.version)));
  // Of several changes of one record the last counts.
  const last = new Map(changes.map((change, at) => [keyOf(change), { ...change, version: versions[at] ?? 0 }]));
  const written = [...last.values()].filter(({ value }) => value !== undefined);
  const removed = [...last.values()].filter(({ value }) => value === undefined);
  if (removed.length > 0) await client.query(removeRecords, inKeyOrder(removed));
  if (written.length > 0) {
    const values = written.map(({ value }) => JSON.stringify(value));
    await client.query(writeRecords, [...inKeyOrder(written), written.map(({ version }) => version), values]);
  }
  return { ok: true, versions };
}

class PostgresState implements State {
  readonly #pool: Pool;
  readonly #where: string;
  #closing: Promise<void> | undefined;

  constructor(pool: Pool, where: string) {
    this.#pool = pool;
    this.#where = where;
    // An idle connection broke: the pool has dropped it, the next call takes another.
    pool.on('error', () => undefined);
  }

  async get(collection: Collection, id: string): ReturnType<State['get']> {
    return (await this.getMany(collection, [id])).get(id);
  }

  async getMany(collection: Collection, ids: readonly string[]): ReturnType<State['getMany']> {
    for (const id of ids) checkId(id);
    const text = 'select id, version, value from tidemark.records where collection = $1 and id = any($2::text[])';
    const rows = await this.#read<Row>(text, [collection, ids]);
    return new Map(rows.map((row) => [row.id, recordOf(row)]));
  }

  async list(...[collection, options]: Parameters<State['list']>): ReturnType<State['list']> {
    const { prefix = '', after, backwards = false, limit }: ListOptions = options;
    const beyond = after === undefined ? '' : `and id ${backwards ? '<' : '>'} $5`;
    const text = `select id, version, value from tidemark.records
      where collection = $1 and id >= $2 and id <= $3 ${beyond} order by id ${backwards ? 'desc' : 'asc'} limit $4`;
    const cursor = after === undefined ? [] : [after];
    const rows = await this.#read<Row>(text, [collection, prefix, prefix + behindAll, limit, ...cursor]);
    return rows.map(recordOf);
  }

  commit(changes: readonly Change[]): Promise<CommitResult> {
    for (const { id } of changes) checkId(id);
    return this.#use(async (client, committing) => {
      await client.query(begin);
      await client.query(lockRecords, inKeyOrder(changes));
      const result = await apply(client, changes);
      if (result.ok) committing();
      await client.query(result.ok ? 'commit' : 'rollback');
      return result;
    });
  }

  async nowMs(): Promise<number> {
    const text = 'select extract(epoch from clock_timestamp())::float8 * 1000 as ms';
    const [row] = await this.#read<{ ms: number }>(text, []);
    invariant(row, 'the server tells the time');
    return Math.floor(row.ms);
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#pool.end());
  }

  async prepare(): Promise<void> {
    await this.#use(async (client) => {
      const encoding = await client.query<{ encoding: string }>(
        `select current_setting('server_encoding') as encoding`,
      );
      if (encoding.rows[0]?.encoding !== 'UTF8') {
        const remedy = 'make one with createdb --encoding UTF8 --template template0';
        throw new Problem('bad-config', `${this.#where} does not hold UTF-8`, { remedy });
      }
      await client.query(begin);
      await client.query('select pg_advisory_xact_lock($1)', [schemaLock]);
      const { rows } = await client.query<{ schema: boolean; store: boolean }>(
        `select to_regnamespace('tidemark') is not null as schema, to_regclass('tidemark.store') is not null as store`,
      );
      // `if not exists` would ask for the right to make one, also where somebody who has it made this one.
      if (rows[0]?.schema !== true) await client.query('create schema tidemark');
      if (rows[0]?.store !== true) await client.query(makeStore);
      const found = await client.query<{ format: number }>('select format from tidemark.store');
      await client.query('commit');
      if (found.rows.length !== 1 || found.rows[0]?.format !== format) {
        const has = found.rows.map((row) => row.format).join(', ') || 'none';
        const message = `the state in ${this.#where} is of version ${has}, not ${format} (schema tidemark)`;
        throw new Problem('wrong-version', message, {
          remedy: 'use the version of tidemark that made it, or name another database',
        });
      }
    }, false);
  }

  async #read<R extends object>(text: string, values: readonly (string | number | readonly string[])[]): Promise<R[]> {
    return (await this.#use((client) => client.query<R>(text, [...values]))).rows;
  }

  /** Invariant 2. `running` false: the store is being opened, and faults are told as they are. */
  async #use<T>(work: (client: PoolClient, committing: () => void) => Promise<T>, running = true): Promise<T> {
    for (let again = true; ; again = false) {
      const sent = { commit: false };
      try {
        return await this.#once((client) =>
          work(client, () => {
            sent.commit = true;
          }),
        );
      } catch (error) {
        const fault = stateFault(error, this.#where);
        if (again && !sent.commit && isLost(fault) && this.#closing === undefined) continue;
        throw running ? whileRunning(fault) : fault;
      }
    }
  }

  async #once<T>(work: (client: PoolClient) => Promise<T>): Promise<T> {
    const client = await this.#pool.connect();
    let broken = true;
    const deaf = (): void => undefined;
    // A connection that breaks between two queries says so only here; the next query fails then.
    client.on('error', deaf);
    try {
      const result = await work(client);
      broken = false;
      return result;
    } finally {
      client.off('error', deaf);
      // What failed may stand in the middle of a transaction: its end ends that, too.
      client.release(broken);
    }
  }
}

export interface PostgresOptions {
  /** `state-address.ts`. */
  readonly address: string;
  /** Its text, without the end of the line, is the password; read for every connection. Undefined: `PGPASSWORD`, if one is asked for. */
  readonly passwordFile: string | undefined;
}

/**
 * Opens the store, making its schema if there is none. @throws Problem `unreachable`, `not-authenticated`, `bad-config`, `not-authorised`,
 * `not-writable`, `wrong-version`, `bad-certificate`.
 */
export async function openPostgresState(
  { address: text, passwordFile }: PostgresOptions,
  files: Files,
): Promise<State> {
  const address = parsePostgresAddress(text);
  const { host, port, database, user } = address;
  const pool = new Pool({
    host,
    port,
    database,
    ...(user === undefined ? {} : { user }),
    ...(passwordFile === undefined
      ? {}
      : { password: async () => (await files.readWhole(passwordFile)).toString().replace(/\r?\n$/, '') }),
    ssl: await tlsFiles(files, address),
    application_name: 'tidemark control',
    max: connectionsMax,
    connectionTimeoutMillis: connectMs,
    statement_timeout: statementMs,
    query_timeout: statementMs + 1000,
    lock_timeout: statementMs,
    idle_in_transaction_session_timeout: statementMs,
    keepAlive: true,
    allowExitOnIdle: true,
  });
  const state = new PostgresState(pool, address.text);
  try {
    await state.prepare();
    return state;
  } catch (error) {
    await state.close();
    throw isProblem(error) ? error : stateFault(error, address.text);
  }
}

/**
 * A PostgreSQL server of a test's own (Debian's), in a temporary directory, on a Unix socket there, as a user that is not root: PostgreSQL
 * refuses to run as root. Whatever the test does, `remove` ends it and removes its files; it does not outlive this process.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { accessSync, chownSync, constants, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { Client } from 'pg';
import { systemClock } from '../../src/kit/clock.ts';
import { requireTool } from '../tools.ts';

const debianHome = '/usr/lib/postgresql';
/** `nobody`: owns nothing else. */
const other = { uid: 65_534, gid: 65_534 };
const asOther = process.getuid?.() === 0 ? other : null;

/** Debian keeps the server's programs out of PATH. */
function programPath(name: string): string {
  const versions = (() => {
    try {
      return readdirSync(debianHome).sort((a, b) => Number(b) - Number(a));
    } catch {
      return [];
    }
  })();
  for (const version of versions) {
    const file = path.join(debianHome, version, 'bin', name);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      continue;
    }
  }
  return name;
}

/** As `requireTool`. */
export const requirePostgres = (): boolean =>
  programPath('initdb') !== 'initdb' || requireTool('initdb', 'postgres', 'psql');

async function run(program: string, args: readonly string[]): Promise<void> {
  const child = spawn(programPath(program), args, { stdio: ['ignore', 'ignore', 'pipe'], cwd: '/', ...asOther });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
  const code = await new Promise((resolve) => child.on('close', resolve));
  if (code !== 0) throw new Error(`${program} ended with ${String(code)}: ${said}`);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' && address !== null ? address.port : 0;
}

export class Postgres {
  readonly directory = mkdtempSync(path.join(tmpdir(), 'tidemark-pg-'));
  /** Of loopback, where it listens when told to, and part of its socket's name. */
  readonly port: number;
  #server: ChildProcess | null = null;
  #ended: Promise<unknown> = Promise.resolve();
  #log = '';
  #databases = 0;
  readonly #onExit = (): void => {
    this.#server?.kill('SIGQUIT');
  };

  private constructor(port: number) {
    this.port = port;
    if (asOther) chownSync(this.directory, asOther.uid, asOther.gid);
    process.on('exit', this.#onExit);
  }

  static async start(): Promise<Postgres> {
    const server = new Postgres(await freePort());
    try {
      const words = [
        '-D',
        server.data,
        '-U',
        'tidemark',
        '-A',
        'trust',
        '-E',
        'UTF8',
        '--locale=C',
        '--locale-provider=icu',
        '--icu-locale=en',
        '--no-sync',
      ];
      await run('initdb', words);
      await server.startServer();
      return server;
    } catch (error) {
      await server.remove();
      throw error;
    }
  }

  get data(): string {
    return path.join(this.directory, 'data');
  }

  get pid(): number {
    return this.#server?.pid ?? 0;
  }

  /** Address of a database, as `control.state`. */
  address(database: string): string {
    return `postgres:///${database}?host=${encodeURIComponent(this.directory)}&port=${this.port}&user=tidemark`;
  }

  /** A new, empty one. */
  async database(): Promise<string> {
    const name = `db${(this.#databases += 1)}`;
    await this.query(`create database ${name} template template0`);
    return name;
  }

  /** As the superuser. */
  async query(text: string, database = 'postgres'): Promise<Record<string, unknown>[]> {
    const client = new Client({ host: this.directory, port: this.port, user: 'tidemark', database });
    client.on('error', () => undefined);
    await client.connect();
    try {
      return (await client.query<Record<string, unknown>>(text)).rows;
    } finally {
      await client.end();
    }
  }

  /** A file in its directory, its own. */
  async write(name: string, text: string): Promise<void> {
    const file = path.join(this.data, name);
    await writeFile(file, text, { mode: 0o600 });
    if (asOther) chownSync(file, asOther.uid, asOther.gid);
  }

  /** @param settings for its configuration, `name=value`. */
  async startServer(settings: readonly string[] = []): Promise<void> {
    // What tests do to it leaves the page cache alone.
    const own = [`unix_socket_directories=${this.directory}`, `port=${this.port}`, 'listen_addresses=', 'fsync=off'];
    const words = [...own, 'max_connections=60', 'autovacuum=off', ...settings].flatMap((setting) => ['-c', setting]);
    const options = { cwd: '/', ...asOther };
    const server = spawn(programPath('postgres'), ['-D', this.data, ...words], {
      ...options,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#server = server;
    server.stderr.on('data', (chunk: Buffer) => (this.#log += chunk.toString()));
    this.#ended = new Promise((resolve) => server.on('close', resolve));
    for (const end = performance.now() + 30_000; ;) {
      try {
        await this.query('select 1');
        return;
      } catch (error) {
        if (server.exitCode !== null || performance.now() > end) throw new Error(this.#log, { cause: error });
        await systemClock.sleep(20);
      }
    }
  }

  /** `fast` disconnects everyone in order, `crash` is a lost server. */
  async stopServer(how: 'fast' | 'crash' = 'fast'): Promise<void> {
    this.#server?.kill(how === 'fast' ? 'SIGINT' : 'SIGQUIT');
    await this.#ended;
    this.#server = null;
  }

  async setReadOnly(on: boolean): Promise<void> {
    await this.query(`alter system set default_transaction_read_only = ${on ? 'on' : 'off'}`);
    await this.query('select pg_reload_conf()');
  }

  async remove(): Promise<void> {
    process.off('exit', this.#onExit);
    await this.stopServer('crash');
    rmSync(this.directory, { recursive: true, force: true });
  }
}

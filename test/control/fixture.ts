/** A whole control plane on loopback with a clock that can be set, its log captured, and clients of every kind. */
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises';
import { Agent, request } from 'node:https';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { ControlClient, enroll, type Access } from '../../src/control/client.ts';
import type { EnrolledRole } from '../../src/control/fields.ts';
import { type Control, startControl } from '../../src/control/server.ts';
import { type Clock, systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { Credentials } from '../../src/transport/credentials.ts';

export interface RawReply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly json: Record<string, unknown>;
  readonly text: string;
}

/** Where sites of this test file keep their state; null: embedded. */
let newDatabase: (() => Promise<string>) | null = null;

/** From now on each new site gets an empty database of its own, by its address. */
export function keepStateIn(databases: () => Promise<string>): void {
  newDatabase = databases;
}

export interface SiteOptions {
  /** Address of the database; default: as `keepStateIn` said. */
  readonly postgres?: string;
  /** Data directory of another control API of the same site, whose authority is copied. */
  readonly authorityOf?: string;
}

export class Site {
  readonly directory: string;
  readonly logLines: string[] = [];
  /** Added to the wall clock. */
  aheadMs = 0;
  readonly clock: Clock = { ...systemClock, wallMs: () => Date.now() + this.aheadMs };
  #control: Control | undefined;
  #clients: ControlClient[] = [];
  #enrolled = 0;

  readonly postgres: string | null;

  private constructor(directory: string, postgres: string | null) {
    this.directory = directory;
    this.postgres = postgres;
  }

  static async start(options: SiteOptions = {}): Promise<Site> {
    const postgres = options.postgres ?? (await newDatabase?.()) ?? null;
    const site = new Site(await mkdtemp(path.join(tmpdir(), 'tidemark-control-')), postgres);
    const { authorityOf } = options;
    if (authorityOf !== undefined) {
      for (const name of ['authority', 'operator.token'])
        await cp(path.join(authorityOf, name), path.join(site.dataDir, name), { recursive: true });
    }
    try {
      await site.restart();
      return site;
    } catch (error) {
      await site.end();
      throw error;
    }
  }

  get dataDir(): string {
    return path.join(this.directory, 'control');
  }

  get control(): Control {
    if (!this.#control) throw new Error('control is not running');
    return this.#control;
  }

  async restart(): Promise<void> {
    await this.#control?.close();
    const logger = createLogger({
      level: 'debug',
      clock: this.clock,
      sink: { write: (line) => this.logLines.push(line) },
    });
    const { dataDir, postgres } = this;
    this.#control = await startControl({
      dataDir,
      port: 0,
      ...(postgres === null ? {} : { postgres: { address: postgres, passwordFile: undefined } }),
      files: posixFiles,
      clock: this.clock,
      random: systemRandom,
      logger,
    });
  }

  /** Until `restart`. */
  async stop(): Promise<void> {
    await this.#control?.close();
  }

  async token(): Promise<string> {
    return (await readFile(this.control.tokenFile, 'utf8')).trim();
  }

  client(access: Access, deadlineMs = 5000): ControlClient {
    const client = new ControlClient({
      url: this.control.url,
      access,
      clock: this.clock,
      deadlineMs,
    });
    this.#clients.push(client);
    return client;
  }

  async operator(): Promise<ControlClient> {
    return this.client({ kind: 'operator', token: await this.token() });
  }

  async registrationKey(role: EnrolledRole, name?: string, ttlSeconds?: number): Promise<string> {
    const operator = await this.operator();
    const body = { role, ...(name === undefined ? {} : { name }), ...(ttlSeconds === undefined ? {} : { ttlSeconds }) };
    return (await operator.call('createRegistrationKey', { body })).value.registrationKey;
  }

  /** `directory` is a fresh one each time. */
  async enroll(registrationKey: string, role: EnrolledRole, name: string): Promise<Credentials> {
    const directory = path.join(this.directory, `enrolled-${(this.#enrolled += 1)}`);
    const { clock } = this;
    return await enroll({
      url: this.control.url,
      registrationKey,
      role,
      name,
      files: posixFiles,
      directory,
      clock,
      random: systemRandom,
    });
  }

  async role(role: EnrolledRole, name: string): Promise<{ client: ControlClient; credentials: Credentials }> {
    const credentials = await this.enroll(await this.registrationKey(role, name), role, name);
    return { client: this.client({ kind: 'role', credentials }), credentials };
  }

  /** A request by hand, for what the client would never send. */
  raw(
    method: string,
    target: string,
    options: { headers?: Record<string, string>; body?: string; tls?: { key: string; cert: string } } = {},
  ): Promise<RawReply> {
    const agent = new Agent({ keepAlive: false });
    return new Promise((resolve, reject) => {
      const asked = request(
        new URL(target, this.control.url),
        {
          method,
          agent,
          rejectUnauthorized: false,
          headers: {
            ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
            ...options.headers,
          },
          ...options.tls,
        },
        (reply) => {
          const chunks: Buffer[] = [];
          reply.on('data', (chunk: Buffer) => chunks.push(chunk));
          reply.on('end', () => {
            const text = Buffer.concat(chunks).toString();
            const json = (text.startsWith('{') ? JSON.parse(text) : {}) as Record<string, unknown>;
            resolve({ status: reply.statusCode ?? 0, headers: reply.headers, json, text });
          });
          reply.on('error', reject);
        },
      );
      asked.on('error', reject);
      asked.end(options.body);
    });
  }

  async end(): Promise<void> {
    for (const client of this.#clients) client.close();
    await this.#control?.close();
    await rm(this.directory, { recursive: true, force: true });
  }
}

const hash = '0'.repeat(64);

export function targetReport(
  atMs: number,
  machine: string,
  points: readonly number[],
  more: Record<string, unknown> = {},
) {
  const mark = points.length > 0 ? { point: Math.max(...points), cutTimeMs: atMs } : null;
  return {
    role: 'target' as const,
    atMs,
    version: 'test',
    recoveryFileWritten: true,
    freeBytes: 1,
    machines: [
      {
        name: machine,
        oldestPoint: null,
        damagedBlocks: 0,
        disks: [{ name: 'root', size: 1024, committed: mark, proven: mark }],
        points: points.map((point) => ({
          point,
          cutTimeMs: atMs,
          committedMs: atMs,
          provenMs: null,
          consistency: 'crash' as const,
          disks: [{ name: 'root', size: 1024, root: hash }],
        })),
        ...more,
      },
    ],
  };
}

export function agentReport(atMs: number, lagBytes: number | null = 0) {
  const disks = [{ name: 'root', size: 1024, lagBytes, phase: 'delta' }];
  return { role: 'agent' as const, atMs, version: 'test', connected: true, disks };
}

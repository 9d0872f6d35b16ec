/** A whole site for tests: an authority in memory's place on disk, credentials for any role, a listener and a client. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import type { Clock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { issueInMemory, openAuthority } from '../../src/transport/authority.ts';
import type { Authority } from '../../src/transport/authority.ts';
import { connect } from '../../src/transport/client.ts';
import type { ConnectOptions } from '../../src/transport/client.ts';
import type { Connection, Role } from '../../src/transport/connection.ts';
import type { Credentials } from '../../src/transport/credentials.ts';
import { listen } from '../../src/transport/server.ts';
import type { Listener, ListenOptions, Refusal } from '../../src/transport/server.ts';

export const dayMs = 24 * 3600 * 1000;

/** The real clock with its wall hands moved. */
export function clockShifted(byMs: number): Clock {
  return { ...systemClock, wallMs: () => Date.now() + byMs };
}

export interface TestSite {
  readonly directory: string;
  readonly authority: Authority;
  credentials(
    role: Role,
    name: string,
    options?: { days?: number; clock?: Clock; hosts?: string[] },
  ): Promise<Credentials>;
  remove(): void;
}

/** `shiftMs` moves the clock of the authority when it is made and when it signs. */
export async function makeSite(shiftMs = 0): Promise<TestSite> {
  const directory = mkdtempSync(path.join(tmpdir(), 'tidemark-site-'));
  const clock = clockShifted(shiftMs);
  const authority = await openAuthority(posixFiles, directory, clock);
  return {
    directory,
    authority,
    credentials: (role, name, options = {}) =>
      issueInMemory(
        authority,
        { role, name, days: options.days ?? 30, hosts: options.hosts ?? [] },
        options.clock ?? clock,
      ),
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}

export interface TestServer {
  readonly listener: Listener;
  readonly refusals: Refusal[];
  /** The next connection that arrives, handed out once. */
  accepted(): Promise<Connection>;
}

/** Listens on a free loopback port. Frames are read (so that closes are seen) unless `onConnection` is given. */
export async function startServer(credentials: Credentials, options: Partial<ListenOptions> = {}): Promise<TestServer> {
  const refusals: Refusal[] = [];
  const ready: Connection[] = [];
  const waiting: ((connection: Connection) => void)[] = [];
  const listener = await listen({
    host: '127.0.0.1',
    port: 0,
    credentials,
    accept: ['agent'],
    clock: systemClock,
    onRefused: (refusal) => refusals.push(refusal),
    ...options,
    onConnection: (connection) => {
      if (options.onConnection) options.onConnection(connection);
      else connection.onFrame(() => undefined);
      const taker = waiting.shift();
      if (taker) taker(connection);
      else ready.push(connection);
    },
  });
  const accepted = (): Promise<Connection> => {
    const first = ready.shift();
    return first ? Promise.resolve(first) : new Promise((resolve) => waiting.push(resolve));
  };
  return { listener, refusals, accepted };
}

export function dial(
  port: number,
  credentials: Credentials,
  options: Partial<ConnectOptions> = {},
): Promise<Connection> {
  return connect({
    host: '127.0.0.1',
    port,
    credentials,
    expectRole: 'process-server',
    clock: systemClock,
    ...options,
  });
}

/** The error a promise rejects with; fails if it does not. */
export async function refusalOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => {
      throw new Error('expected a rejection');
    },
    (error: unknown) => error,
  );
}

/**
 * The NBD server: listens on a Unix socket or on TCP and gives each client a session.
 *
 * Invariants:
 *  1. Nobody from outside gets in: a Unix socket has mode 0600 from its first moment, and TCP without TLS is bound to loopback only. With TLS
 *     (`tls.ts`) a client shows its certificate before it is told anything.
 *  2. A socket file is removed only if it is one and nobody answers on it.
 *  3. `close` answers the requests in flight, waits at most `closeMs` for clients to take the answers, and never leaves a
 *     connection or the socket file behind. When it resolves, no call to a backend is under way any more: a backend may be
 *     closed then, not before.
 */
import { connect, createServer, isIP, type Server, type Socket } from 'node:net';
import type { Clock } from '../kit/clock.ts';
import { Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import type { Backend } from './backend.ts';
import { BufferPool } from './buffer-pool.ts';
import type { Exports } from './negotiation.ts';
import { Session, type NbdLogger } from './session.ts';
import type { NbdTls } from './tls.ts';

export type NbdAddress = { readonly unixPath: string } | { readonly host: string; readonly port: number };
/** TLS, where it is given, is required of every client. */
export type NbdListen =
  { readonly unixPath: string } | { readonly host: string; readonly port: number; readonly tls?: NbdTls };

export interface NbdServerOptions {
  /** Looked at whenever a client asks, so it may change while the server runs. */
  readonly exports: ReadonlyMap<string, Backend>;
  /** The export a client gets that names none; default: the only one, if there is just one. */
  readonly defaultExport?: string;
  /** Port 0 lets the system choose. */
  readonly listen: NbdListen;
  readonly clock: Clock;
  readonly files: Files;
  readonly logger?: NbdLogger;
  /** Data of one client's requests in flight, bytes; at least the largest request. Default: `limits.nbd`. */
  readonly inFlightBytesMax?: number;
  /** Request memory kept for the next requests, bytes. Default: `limits.nbd`. */
  readonly poolBytesMax?: number;
}

export interface NbdServer {
  /** Where it listens, with the real port. */
  readonly address: NbdAddress;
  /** Clients connected now. */
  readonly connections: number;
  /** The NBD URI of an export, as qemu, libnbd and nbdkit read it. */
  uri(exportName: string): string;
  /** Idempotent. */
  close(): Promise<void>;
}

/** @throws Problem `locked` (someone answers there), `bad-argument` (path too long, not a socket, host neither loopback nor behind TLS), `refused`. */
export async function serveNbd(options: NbdServerOptions): Promise<NbdServer> {
  const { listen, clock, logger, inFlightBytesMax = limits.nbd.inFlightBytesMax } = options;
  const tls = 'unixPath' in listen ? undefined : listen.tls;
  const sessions = new Set<Session>();
  const exports = exportsOf(options);
  const pool = new BufferPool(options.poolBytesMax ?? limits.nbd.poolBytesMax);
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    const onEnded = (): void => {
      sessions.delete(session);
      waiting.forEach((check) => check());
    };
    const shared = { exports, clock, pool, inFlightBytesMax, ...(tls ? { tls } : {}), ...(logger ? { logger } : {}) };
    const session = new Session({ socket, ...shared, onEnded });
    sessions.add(session);
  });
  server.maxConnections = limits.nbd.connectionsMax;
  const waiting = new Set<() => void>();
  const allEnded = (): Promise<void> =>
    new Promise((resolve) => {
      const check = (): void => {
        if (sessions.size > 0) return;
        waiting.delete(check);
        resolve();
      };
      waiting.add(check);
      check();
    });

  if ('unixPath' in listen) await removeStaleSocket(listen.unixPath, options.files);
  else if (tls) requireName(listen.host);
  else requireLoopback(listen.host);
  await startListening(server, listen);
  // Such as "too many open files" at accept: bad for the one client, no reason to fall.
  server.on('error', (error) => logger?.warn({ message: error.message }, 'NBD server can not accept'));
  server.on('drop', () =>
    logger?.warn({ connectionsMax: limits.nbd.connectionsMax }, 'NBD connection dropped: too many'),
  );

  const address = addressOf(server, listen);
  let closing: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    for (const session of sessions) session.drain('the server closes');
    const deadline = clock.after(limits.nbd.closeMs, () => {
      for (const session of sessions) session.destroy('the server did not wait any longer');
    });
    await allEnded();
    await closed;
    deadline.cancel();
  };
  return {
    address,
    get connections() {
      return sessions.size;
    },
    uri: (exportName) => uriOf(address, exportName, tls),
    close: () => (closing ??= close()),
  };
}

function exportsOf(options: NbdServerOptions): Exports {
  const { exports, defaultExport } = options;
  return {
    names: () => [...exports.keys()],
    find(name) {
      const exact = exports.get(name);
      if (exact || name !== '') return exact;
      if (defaultExport !== undefined) return exports.get(defaultExport);
      return exports.size === 1 ? [...exports.values()][0] : undefined;
    },
  };
}

function uriOf(address: NbdAddress, exportName: string, tls?: NbdTls): string {
  const name = encodeURIComponent(exportName);
  if ('unixPath' in address) {
    return `nbd+unix:///${name}?socket=${inQuery(address.unixPath)}`;
  }
  const host = isIP(address.host) === 6 ? `[${address.host}]` : address.host;
  if (!tls) return `nbd://${host}:${address.port}/${name}`;
  return `nbds://${host}:${address.port}/${name}?tls-certificates=${inQuery(tls.clientDirectory)}`;
}

function inQuery(path: string): string {
  return encodeURIComponent(path).replaceAll('%2F', '/');
}

function addressOf(server: Server, listen: NbdListen): NbdAddress {
  const bound = server.address();
  if ('unixPath' in listen) return listen;
  return { host: listen.host, port: bound === null || typeof bound === 'string' ? listen.port : bound.port };
}

function requireLoopback(host: string): void {
  if (host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))) return;
  throw new Problem(
    'bad-argument',
    `NBD can not listen on ${host}: without TLS it has neither encryption nor passwords`,
    {
      remedy: 'use TLS, or a Unix socket, or a loopback address and a tunnel',
    },
  );
}

/** One that a client can be told, and a certificate can hold: no "all addresses". */
function requireName(host: string): void {
  const version = isIP(host);
  if (version === 4 ? host !== '0.0.0.0' : version === 6 ? /[^0:]/.test(host) : /[a-z]/i.test(host)) return;
  throw new Problem('bad-argument', `${host} is no address that clients could be told`, {
    remedy: 'name the one address of this host by which clients reach it',
  });
}

/** Bytes of `sun_path` less its closing zero. */
const socketPathBytesMax = 107;

/** Invariant 2. Two servers starting at once on one stale path both get here; the second then fails in `listen`. */
async function removeStaleSocket(unixPath: string, files: Files): Promise<void> {
  if (Buffer.byteLength(unixPath) > socketPathBytesMax) {
    throw new Problem('bad-argument', `the socket path ${unixPath} is longer than ${socketPathBytesMax} bytes`, {
      remedy: 'choose a shorter path, such as one in /run',
    });
  }
  if (!(await files.exists(unixPath))) return;
  if ((await files.facts(unixPath)).kind !== 'other') {
    throw new Problem('bad-argument', `${unixPath} exists and is no socket`, {
      remedy: 'move it away, or choose another path',
    });
  }
  if (await someoneAnswers(unixPath)) {
    throw new Problem('locked', `another process answers on ${unixPath}`, {
      remedy: 'stop it, or choose another path',
    });
  }
  await files.remove(unixPath);
}

function someoneAnswers(unixPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe: Socket = connect(unixPath);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    // Anything but "refused" (a full backlog, no permission) means that somebody is there.
    probe.once('error', (error) => resolve(!['ECONNREFUSED', 'ENOENT'].includes(systemCode(error) ?? '')));
  });
}

function startListening(server: Server, listen: NbdListen): Promise<void> {
  return new Promise((resolve, reject) => {
    const where = 'unixPath' in listen ? listen.unixPath : `${listen.host}:${listen.port}`;
    const onError = (error: Error): void => {
      const code = systemCode(error) === 'EADDRINUSE' ? 'locked' : 'refused';
      reject(
        new Problem(code, `can not listen on ${where}: ${error.message}`, {
          remedy: 'choose another address, or stop what uses this one',
          cause: error,
        }),
      );
    };
    server.once('error', onError);
    server.once('listening', () => {
      server.off('error', onError);
      resolve();
    });
    if ('unixPath' in listen) listenPrivately(server, listen.unixPath);
    else server.listen({ host: listen.host, port: listen.port });
  });
}

/** The file is made inside `listen`, at once; a mode set afterwards would come too late (invariant 1). */
function listenPrivately(server: Server, unixPath: string): void {
  const before = process.umask(0o177);
  try {
    server.listen({ path: unixPath });
  } finally {
    process.umask(before);
  }
}

/**
 * The control plane of a site as one function: state, authority, HTTPS. Thin on purpose: no bulk data passes it, and data keeps
 * flowing while it is down. Its directory:
 *
 *   control.json    {"format": 1}; another number is refused
 *   operator.token  the operator's bearer token, 0600: tmo1.<secret>.<SHA-256 of the CA certificate>
 *   authority/      the site's CA (transport/authority.ts)
 *   state/          LMDB (state-lmdb.ts), unless the state is kept on PostgreSQL
 *
 * Several of them on one PostgreSQL are one control plane: each may do all of it. They share the authority by having the same files: `authority/` is
 * copied from the first to every other (`operator.token` too, where one token is to be good for all). Its key is not put into the database, not even
 * wrapped: what unwraps it would have to be copied just so, and who can read the database, or a backup of it, must not become anyone on the site. The
 * state notes which authority the site has, and an API with another one, or none, does not start: it would shut out every enrolled agent.
 *
 * The server's own key and certificate live in memory only and are made anew at each start: peers trust the CA.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { isIP } from 'node:net';
import * as path from 'node:path';
import { type SecureContextOptions, TLSSocket } from 'node:tls';
import { fastify, type FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { Clock } from '../kit/clock.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { Files } from '../posix/files.ts';
import { type Authority, issueInMemory, openAuthority } from '../transport/authority.ts';
import { identityOf } from '../transport/identity.ts';
import { tlsOptions } from '../transport/tls-options.ts';
import { forgetLeasesAgainAndAgain } from './forgotten-leases.ts';
import { createHandlers, statusOf } from './handlers.ts';
import { type Identity, registerRoutes } from './http.ts';
import { policySchema } from './schemas.ts';
import type { StatusReport } from './status-schemas.ts';
import { openLmdbState } from './state-lmdb.ts';
import { openPostgresState, type PostgresOptions } from './state-postgres.ts';
import type { State } from './state.ts';

const { bodyBytesMax, requestMs, keepAliveMs, connectionsMax, certificateDays, serverCertificateRenewMs } =
  limits.control;
const format = 1;
const siteAuthority = z.object({ fingerprint: z.string() });

export interface ControlOptions {
  /** Made if missing. One process at a time is the caller's to ensure. */
  readonly dataDir: string;
  readonly host?: string;
  /** 0 takes any. */
  readonly port?: number;
  /** Where the state is; default: embedded, in the directory. */
  readonly postgres?: PostgresOptions;
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

export interface Control {
  readonly port: number;
  readonly url: string;
  readonly tokenFile: string;
  /** SHA-256 of the CA certificate, lower-case hex. */
  readonly caFingerprint: string;
  /** When the site's CA certificate ends. */
  readonly caNotAfterMs: number;
  /** What `GET /v1/status` answers. */
  status(): Promise<StatusReport>;
  close(): Promise<void>;
}

async function checkFormat(files: Files, dataDir: string): Promise<void> {
  await files.makeDirectory(dataDir);
  const file = path.join(dataDir, 'control.json');
  if (!(await files.exists(file))) await files.replaceFile(file, Buffer.from(`${JSON.stringify({ format })}\n`));
  const text = (await files.readWhole(file)).toString();
  if (!new RegExp(`^\\s*\\{\\s*"format"\\s*:\\s*${format}\\s*\\}\\s*$`).test(text)) {
    throw new Problem('wrong-version', `${file} is not of format ${format}`, {
      remedy: 'use the version of tidemark that made it',
    });
  }
}

async function operatorToken(options: ControlOptions, file: string, authority: Authority): Promise<string> {
  const { files, random } = options;
  if (!(await files.exists(file))) {
    await files.replaceFile(
      file,
      Buffer.from(`tmo1.${random.bytes(32).toString('base64url')}.${authority.fingerprint}\n`),
      0o600,
    );
  }
  const token = (await files.readWhole(file)).toString().trim();
  if (/^tmo1\.[\w-]{43}\.[0-9a-f]{64}$/.test(token)) return token;
  throw new Problem('bad-config', `${file} does not hold an operator token`, {
    remedy: 'remove the file: a new token is made at the next start',
  });
}

/** Who sent a request: a bearer token if there is one, else the client certificate, verified by TLS against the site's CA. */
function identifier(token: string, clock: Clock): (request: FastifyRequest) => Identity {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  const expected = digest(token);
  const refuse = (message: string): Problem =>
    new Problem('not-authenticated', message, {
      remedy: 'send the operator token, or a client certificate of this site',
    });
  return (request) => {
    const { authorization } = request.headers;
    if (authorization !== undefined) {
      const [, shown] = /^Bearer +(\S+)$/i.exec(authorization) ?? [];
      // Digests have one length, so the comparison takes one time.
      if (shown === undefined || !timingSafeEqual(digest(shown), expected))
        throw refuse('the operator token is not right');
      return { role: 'operator' };
    }
    const { socket } = request.raw;
    const certificate = socket instanceof TLSSocket ? socket.getPeerX509Certificate() : undefined;
    if (!(socket instanceof TLSSocket) || !certificate) throw refuse('no token and no client certificate was shown');
    if (!socket.authorized)
      throw refuse(`the client certificate is not good here: ${messageOf(socket.authorizationError)}`);
    return identityOf(certificate, clock.wallMs());
  };
}

/** A fresh key and certificate for the server; the CA goes along, so that a client can pin it by its fingerprint. */
async function contextOf({ host, clock }: ControlOptions, authority: Authority): Promise<SecureContextOptions> {
  const hosts = host === undefined || isIP(host) !== 0 ? [] : [host.toLowerCase()];
  const issue = { role: 'control', name: 'control', days: certificateDays, hosts } as const;
  const credentials = await issueInMemory(authority, issue, clock);
  return { ...tlsOptions(credentials), cert: credentials.certPem + credentials.caPem };
}

/** The site's authority: the one its state knows. @throws Problem `no-key`. */
async function authorityOf({ files, clock, dataDir }: ControlOptions, state: State): Promise<Authority> {
  const directory = path.join(dataDir, 'authority');
  const record = await state.get('site', 'authority');
  const known = record && siteAuthority.parse(record.value).fingerprint;
  const fault = (message: string): Problem =>
    new Problem('no-key', message, {
      remedy: `copy the directory authority/ of another control API of the site, or of a backup, to ${directory}`,
    });
  if (known !== undefined && !(await files.exists(path.join(directory, 'ca.pem')))) {
    throw fault(`${directory} does not hold the site's authority ${known}`);
  }
  const authority = await openAuthority(files, directory, clock);
  const { fingerprint } = authority;
  if (known !== undefined && known !== fingerprint) {
    throw fault(`the authority in ${directory} is ${fingerprint}, not the site's, which is ${known}`);
  }
  if (known === undefined) {
    const change = { collection: 'site', id: 'authority', value: { fingerprint }, expected: 0 } as const;
    // Two start at the same time, for the first time.
    if (!(await state.commit([change])).ok) throw fault(`another control API of the site made its authority just now`);
  }
  return authority;
}

export async function startControl(options: ControlOptions): Promise<Control> {
  const { dataDir, files, clock, postgres } = options;
  await checkFormat(files, dataDir);
  const state = postgres ? await openPostgresState(postgres, files) : openLmdbState(path.join(dataDir, 'state'), clock);
  try {
    return await serve(options, state);
  } catch (error) {
    await state.close();
    throw error;
  }
}

/** Closes the state with itself. */
async function serve(options: ControlOptions, state: State): Promise<Control> {
  const { dataDir, host = '127.0.0.1', port = 8443, clock, random, logger } = options;
  const authority = await authorityOf(options, state);
  await state.commit([{ collection: 'policies', id: 'default', value: policySchema.parse({}), expected: 0 }]);
  const tokenFile = path.join(dataDir, 'operator.token');
  const token = await operatorToken(options, tokenFile, authority);
  const serverContext = () => contextOf(options, authority);
  const app = fastify({
    https: { ...(await serverContext()), requestCert: true, rejectUnauthorized: false, handshakeTimeout: requestMs },
    bodyLimit: bodyBytesMax,
    requestTimeout: requestMs,
    keepAliveTimeout: keepAliveMs,
    forceCloseConnections: true,
    logger: false,
  });
  app.server.maxConnections = connectionsMax;
  app.server.headersTimeout = requestMs;
  const renewal = clock.every(serverCertificateRenewMs, () => {
    serverContext().then(
      (context) => app.server.setSecureContext(context),
      (error: unknown) => logger.error({ error }, 'the server certificate was not renewed'),
    );
  });
  const forgetting = forgetLeasesAgainAndAgain(state, clock, logger);
  let closing: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    renewal.cancel();
    await Promise.all([app.close(), forgetting.end()]);
    await state.close();
  };
  try {
    registerRoutes(app, {
      clock,
      logger,
      handlers: createHandlers({ state, authority, clock, random }),
      identify: identifier(token, clock),
    });
    await app.listen({ host, port });
  } catch (cause) {
    await close();
    throw new Problem('bad-config', `control can not listen on ${host}:${port}: ${messageOf(cause)}`, {
      remedy: 'choose another address or port',
      cause,
    });
  }
  const address = app.server.address();
  const bound = typeof address === 'object' && address !== null ? address.port : port;
  const url = `https://${host.includes(':') ? `[${host}]` : host}:${bound}`;
  logger.info({ url, caFingerprint: authority.fingerprint }, 'control is listening');
  return {
    port: bound,
    url,
    tokenFile,
    caFingerprint: authority.fingerprint,
    caNotAfterMs: authority.notAfterMs,
    status: () => statusOf(state, clock),
    close: () => (closing ??= close()),
  };
}

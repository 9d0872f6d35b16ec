/**
 * The one client of the control API, for commands and roles, typed by the table of routes.
 *
 * Invariants:
 *  1. Nothing of ours is sent before the server showed a certificate of the site's authority with the role `control`. Who has the
 *     CA certificate uses it; who has only its fingerprint (in the operator's token, in a registration key) fetches the CA from
 *     the server first, keeps it only if the fingerprint fits, and then verifies like everyone else.
 *  2. Every call has a deadline and a bound on what it reads.
 *  3. It fails with a Problem: the server's own, or `unreachable`, `timeout`, `bad-certificate`. It never repeats a call by
 *     itself, except to enrol, where Idempotency-Key makes the repetition harmless.
 */
import { X509Certificate } from 'node:crypto';
import { Agent, request as httpsRequest } from 'node:https';
import { isIP } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import { z } from 'zod';
import type { Clock } from '../kit/clock.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import { type Credentials, makeRequest, storeCertificate } from '../transport/credentials.ts';
import { badCertificate, fingerprintOf, identityOf } from '../transport/identity.ts';
import { tlsOptions } from '../transport/tls-options.ts';
import { type BodyOf, type QueryOf, type ReplyOf, type Route, type RouteName, routes } from './api.ts';
import { type EnrolledRole } from './fields.ts';
import { problemReply } from './status-schemas.ts';

const { requestMs, responseBytesMax } = limits.control;

/** With what a client shows who it is, and by what it knows the server. */
export type Access =
  | { readonly kind: 'operator'; readonly token: string }
  | { readonly kind: 'role'; readonly credentials: Credentials }
  | { readonly kind: 'registration-key'; readonly registrationKey: string };

export interface ControlClientOptions {
  /** `https://host:8443`. */
  readonly url: string;
  readonly access: Access;
  readonly clock: Clock;
  /** For one call, all in all. */
  readonly deadlineMs?: number;
}

export interface CallOptions<K extends RouteName> {
  readonly name?: string;
  readonly query?: QueryOf<K, 'input'>;
  readonly body?: BodyOf<K, 'input'>;
  /** The version that is to be replaced; without it PUT only makes. */
  readonly ifMatch?: number;
  /** For POST: the same key and body are done once, and answered alike. */
  readonly idempotencyKey?: string;
}

export interface CallResult<K extends RouteName> {
  readonly value: ReplyOf<K>;
  /** Of the record read or written (its ETag). */
  readonly version: number | undefined;
}

interface Response {
  readonly status: number;
  readonly etag: string | undefined;
  readonly text: string;
}

/** @throws Problem `bad-argument`: not a token or key of this site's form. */
function fingerprintIn(text: string, prefix: 'tmk1' | 'tmo1'): string {
  const [, fingerprint] = new RegExp(`^${prefix}\\.[\\w-]+\\.([0-9a-f]{64})$`).exec(text) ?? [];
  if (fingerprint !== undefined) return fingerprint;
  const what = prefix === 'tmk1' ? 'registration key' : 'operator token';
  throw new Problem('bad-argument', `this is not a whole ${what}`, {
    remedy: `copy all of it; it begins with ${prefix}.`,
  });
}

export class ControlClient {
  readonly #options: ControlClientOptions;
  readonly #url: URL;
  readonly #pin: string | undefined;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 4 });
  #caPem: string | undefined;

  /** @throws Problem `bad-argument`. */
  constructor(options: ControlClientOptions) {
    const { access } = options;
    this.#options = options;
    if (!URL.canParse(options.url) || new URL(options.url).protocol !== 'https:') {
      throw new Problem('bad-argument', `'${options.url}' is not the address of a control API`, {
        remedy: 'write https://host:8443',
      });
    }
    this.#url = new URL(options.url);
    if (access.kind === 'role') this.#caPem = access.credentials.caPem;
    else
      this.#pin =
        access.kind === 'operator'
          ? fingerprintIn(access.token, 'tmo1')
          : fingerprintIn(access.registrationKey, 'tmk1');
  }

  async call<K extends RouteName>(key: K, options: CallOptions<K> = {}): Promise<CallResult<K>> {
    const route: Route = routes[key];
    const url = new URL(route.path.replace('{name}', encodeURIComponent(options.name ?? '')), this.#url);
    const query: Readonly<Record<string, string | number | undefined>> = options.query ?? {};
    for (const [name, value] of Object.entries(query))
      if (value !== undefined) url.searchParams.set(name, String(value));
    const { access } = this.#options;
    const { idempotencyKey, ifMatch } = options;
    const body = options.body === undefined ? undefined : JSON.stringify(options.body);
    const headers = {
      ...(access.kind === 'operator' ? { authorization: `Bearer ${access.token}` } : {}),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...(ifMatch === undefined ? {} : { 'if-match': `"${ifMatch}"` }),
      ...(idempotencyKey === undefined ? {} : { 'idempotency-key': idempotencyKey }),
    };
    const { status, etag, text } = await this.#withDeadline((signal) =>
      this.#send(url, { method: route.method, headers, signal }, body),
    );
    if (status >= 300) throw problemIn(status, text, this.#url.host);
    const value = (route.reply ?? z.undefined()).safeParse(route.reply ? jsonIn(text) : undefined);
    if (!value.success) throw this.#protocolError();
    const version = etag === undefined ? undefined : Number(etag.replaceAll('"', ''));
    return { value: value.data as ReplyOf<K>, version };
  }

  /** Ends kept connections. Idempotent. */
  close(): void {
    this.#agent.destroy();
  }

  /** Invariant 2. */
  async #withDeadline<T>(run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { clock, deadlineMs = requestMs } = this.#options;
    const end = new AbortController();
    const timer = clock.after(deadlineMs, () => end.abort());
    try {
      return await run(end.signal);
    } catch (error) {
      if (!end.signal.aborted) throw this.#problemOf(error);
      const message = `control at ${this.#url.host} did not answer within ${deadlineMs} ms`;
      throw new Problem('timeout', message, {
        remedy: 'see whether control runs and is not overloaded',
        retryable: true,
      });
    } finally {
      timer.cancel();
    }
  }

  async #send(
    url: URL,
    options: { method: string; headers: Record<string, string>; signal: AbortSignal },
    body: string | undefined,
  ) {
    const { access } = this.#options;
    const ca = (this.#caPem ??= await this.#fetchAuthority(options.signal));
    const tls = access.kind === 'role' ? tlsOptions(access.credentials) : ({ ca, minVersion: 'TLSv1.3' } as const);
    const checkServerIdentity = (_host: string, { raw }: { raw: Buffer }) => this.#checkServer(raw);
    return await new Promise<Response>((resolve, reject) => {
      const request = httpsRequest(url, { ...options, ...tls, agent: this.#agent, checkServerIdentity }, (response) => {
        const chunks: Buffer[] = [];
        let bytes = 0;
        response.on('data', (chunk: Buffer) => {
          chunks.push(chunk);
          bytes += chunk.length;
          if (bytes > responseBytesMax) request.destroy(this.#protocolError());
        });
        response.on('error', reject);
        response.on('end', () => {
          resolve({
            status: response.statusCode ?? 0,
            etag: response.headers.etag,
            text: Buffer.concat(chunks).toString(),
          });
        });
      });
      request.on('error', reject);
      request.end(body);
    });
  }

  /** Invariant 1; TLS has checked that the authority signed it. */
  #checkServer(raw: Buffer): Error | undefined {
    try {
      const { role } = identityOf(new X509Certificate(raw), this.#options.clock.wallMs());
      return role === 'control' ? undefined : badCertificate(`${this.#url.host} is a ${role}, not control`);
    } catch (error) {
      return isProblem(error) ? error : badCertificate(messageOf(error), error);
    }
  }

  /** Invariant 1: the CA certificate the server sends behind its own, if it is the one whose fingerprint we were given. */
  #fetchAuthority(signal: AbortSignal): Promise<string> {
    const host = this.#url.hostname.replace(/^\[|\]$/g, '');
    const servername = isIP(host) === 0 ? { servername: host } : {};
    const port = Number(this.#url.port || 443);
    return new Promise((resolve, reject) => {
      const socket = tlsConnect({ host, port, ...servername, rejectUnauthorized: false, minVersion: 'TLSv1.3' }, () => {
        const authority = socket.getPeerX509Certificate()?.issuerCertificate;
        socket.destroy();
        if (authority && fingerprintOf(authority) === this.#pin) resolve(authority.toString());
        else reject(badCertificate(`control at ${this.#url.host} is not of the site this token or key was made for`));
      });
      socket.on('error', reject);
      socket.on('close', () => reject(new Error('the connection was closed during the handshake')));
      signal.addEventListener('abort', () => socket.destroy(), { once: true });
    });
  }

  #protocolError(): Problem {
    return new Problem('protocol-error', `${this.#url.host} does not answer like a control API of this version`, {
      remedy: 'see whether the address is right and both ends are of one version',
    });
  }

  #problemOf(error: unknown): Problem {
    if (isProblem(error)) return error;
    const code = systemCode(error) ?? '';
    if (/CERT|ISSUER|SIGNATURE|ERR_SSL_.*_CA/.test(code))
      return badCertificate(`control at ${this.#url.host}: ${messageOf(error)}`, error);
    const message = `control at ${this.#url.host} can not be reached: ${messageOf(error) || code}`;
    return new Problem('unreachable', message, {
      remedy: 'see whether control runs, and whether address and port are right',
      retryable: true,
      cause: error,
    });
  }
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function problemIn(status: number, text: string, host: string): Problem {
  const said = problemReply.safeParse(jsonIn(text));
  if (said.success) return new Problem(said.data.code, said.data.detail, said.data);
  return new Problem('protocol-error', `${host} answered with status ${status} and no problem`, {
    remedy: 'see whether this is the address of control',
  });
}

const enrolAttempts = 3;
const enrolPauseMs = 500;

/**
 * Turns a registration key into credentials in `directory` (transport/credentials.ts): key and request are made here, the
 * private key stays here. Invariant 3: a lost answer is asked for again.
 */
export async function enroll(
  options: Omit<ControlClientOptions, 'access'> & {
    random: Random;
    registrationKey: string;
    role: EnrolledRole;
    name: string;
    files: Files;
    directory: string;
  },
): Promise<Credentials> {
  const { registrationKey, role, name, files, directory, clock, random } = options;
  const client = new ControlClient({ ...options, access: { kind: 'registration-key', registrationKey } });
  const body = { registrationKey, role, name, csrPem: await makeRequest(files, directory, name) };
  const idempotencyKey = random.bytes(16).toString('hex');
  try {
    for (let attempt = 1; ; attempt += 1) {
      try {
        const { value } = await client.call('enroll', { body, idempotencyKey });
        return await storeCertificate(files, directory, value, clock.wallMs());
      } catch (error) {
        if (attempt === enrolAttempts || !isProblem(error) || !error.retryable) throw error;
        await clock.sleep(enrolPauseMs);
      }
    }
  } finally {
    client.close();
  }
}

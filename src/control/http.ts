/**
 * HTTP around the table of routes: who calls, is the request well formed, one reply or one problem (RFC 9457). Handlers know
 * nothing of HTTP.
 *
 * Invariants:
 *  1. Nothing of a request is parsed by a handler before its caller was authenticated and allowed; no route is without `callers`.
 *  2. A problem that was not made on purpose leaves as `internal`, without its text; the log has it.
 *  3. Requests are logged by route, status, time and caller: never headers, bodies or raw paths.
 *  4. Idempotent replies live in bounded memory only: one of them holds a registration key in clear, which is never stored.
 */
import { createHash } from 'node:crypto';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import type { Clock } from '../kit/clock.ts';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { PeerIdentity } from '../transport/connection.ts';
import { type BodyOf, type QueryOf, type ReplyOf, type Route, type RouteName, routes } from './api.ts';
import { nameSchema } from './fields.ts';

export type Identity = { readonly role: 'operator' | 'anyone' } | PeerIdentity;

export interface Call<K extends RouteName> {
  readonly identity: Identity;
  /** The `{name}` of the path, '' where there is none. */
  readonly name: string;
  readonly query: QueryOf<K>;
  readonly body: BodyOf<K>;
  /** If-Match: a version, `any` for `*`, undefined when not sent. */
  readonly ifMatch: number | 'any' | undefined;
}
export interface Answer<K extends RouteName> {
  readonly value: ReplyOf<K, 'input'>;
  readonly version?: number;
  readonly made?: boolean;
}
export type Handlers = { readonly [K in RouteName]: (call: Call<K>) => Promise<Answer<K>> };

const { idempotencyEntriesMax, idempotencySeconds } = limits.control;
const bodyTooLarge = 413;
/** What lies behind control, its state, does not answer or takes nothing: try again later. */
const unavailable = 503;
const statusOfCode: Readonly<Record<string, number>> = {
  'bad-argument': 400,
  'not-authenticated': 401,
  'bad-certificate': 401,
  'bad-registration-key': 403,
  'not-authorised': 403,
  'not-found': 404,
  unprotected: 410,
  'version-conflict': 412,
  'too-large': bodyTooLarge,
  'idempotency-mismatch': 422,
  'precondition-required': 428,
  unreachable: unavailable,
  'not-writable': unavailable,
  full: unavailable,
  timeout: unavailable,
};

/** Zod's complaints without the values that caused them. */
function parsed<S extends z.ZodType>(schema: S, value: unknown, what: string): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const complaints = result.error.issues
    .slice(0, 5)
    .map(({ path, message }) => `${[what, ...path].join('.')}: ${message}`);
  throw new Problem('bad-argument', complaints.join('; '), {
    remedy: 'correct the request; src/control/openapi.json has its form',
  });
}

function versionOf(header: string | undefined): number | 'any' | undefined {
  if (header === undefined) return undefined;
  if (header.trim() === '*') return 'any';
  const [, digits] = /^"(\d{1,15})"$/.exec(header.trim()) ?? [];
  if (digits === undefined)
    throw new Problem('bad-argument', 'If-Match is not an ETag of this API', {
      remedy: 'send the ETag of the last GET or PUT',
    });
  return Number(digits);
}

/** Anything thrown, as the problem that leaves (invariant 2). */
function problemOf(error: unknown): Problem {
  if (isProblem(error)) return error;
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : 500;
  if (status === bodyTooLarge) {
    return new Problem('too-large', `a request is at most ${limits.control.bodyBytesMax} bytes`, {
      remedy: 'send less at a time',
    });
  }
  if (typeof status === 'number' && status < 500)
    return new Problem('bad-argument', messageOf(error), { remedy: 'send JSON as src/control/openapi.json says' });
  return new Problem('internal', 'control failed to answer', { remedy: 'see the log of control', retryable: true });
}

/** Remembers replies to POSTs by caller, route and Idempotency-Key (invariant 4). The same key is for the same path and body. */
class Replies {
  readonly #entries = new Map<string, { body: string; expiresMs: number; answer: Promise<unknown> }>();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  async once<T>(key: string, body: unknown, run: () => Promise<T>): Promise<T> {
    const now = this.#clock.monotonicMs();
    const digest = createHash('sha256').update(JSON.stringify(body)).digest('hex');
    const known = this.#entries.get(key);
    if (known && known.expiresMs > now) {
      if (known.body !== digest)
        throw new Problem('idempotency-mismatch', 'this Idempotency-Key came with another request before', {
          remedy: 'use a new key',
        });
      return (await known.answer) as T;
    }
    const answer = run();
    this.#entries.delete(key);
    this.#entries.set(key, { body: digest, expiresMs: now + idempotencySeconds * 1000, answer });
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= idempotencyEntriesMax) break;
      this.#entries.delete(oldest);
    }
    // Only what was done is remembered: a refusal may be followed by a better try.
    await answer.catch(() => this.#entries.delete(key));
    return await answer;
  }
}

export interface HttpOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly handlers: Handlers;
  /** Who sent this request; throws Problem `not-authenticated` or `bad-certificate`. */
  readonly identify: (request: FastifyRequest) => Identity;
}

const headerOf = (request: FastifyRequest, name: string): string | undefined => {
  const value = request.headers[name];
  return Array.isArray(value) ? value.join(', ') : value;
};

function admit(route: Route, request: FastifyRequest, identify: HttpOptions['identify']): Identity {
  if (route.callers.includes('anyone')) return { role: 'anyone' };
  const identity = identify(request);
  if (route.callers.some((caller) => caller === identity.role)) return identity;
  throw new Problem('not-authorised', `${identity.role} may not do this; ${route.callers.join(' or ')} may`, {
    remedy: 'use the operator token, or the certificate of the role named',
  });
}

/** What the table promises of a row's types holds row by row; here a row is any row. */
type AnyHandler = (call: Call<RouteName>) => Promise<Answer<RouteName>>;

function register(app: FastifyInstance, key: RouteName, options: HttpOptions, replies: Replies): void {
  const route: Route = routes[key];
  const handler: AnyHandler = options.handlers[key];
  const callers = new WeakMap<FastifyRequest, Identity>();
  app.route({
    method: route.method,
    url: route.path.replace('{name}', ':name'),
    // Invariant 1: before the body is read.
    onRequest: async (request) => {
      await Promise.resolve();
      callers.set(request, admit(route, request, options.identify));
    },
    onResponse: async (request, reply) => {
      await Promise.resolve();
      const identity = callers.get(request);
      const caller = identity && 'name' in identity ? `${identity.role}/${identity.name}` : identity?.role;
      const fields = { operation: key, status: reply.statusCode, ms: Math.round(reply.elapsedTime), caller };
      if (reply.statusCode >= 400) options.logger.warn(fields, 'request refused');
      else options.logger.debug(fields, 'request served');
    },
    handler: async (request, reply) => {
      const identity = callers.get(request) ?? { role: 'anyone' };
      const { name } = request.params as { name?: string };
      const call = {
        identity,
        name: name === undefined ? '' : parsed(nameSchema, name, 'name'),
        query: route.query && parsed(route.query, request.query, 'query'),
        body: route.body && parsed(route.body, request.body, 'body'),
        ifMatch: versionOf(headerOf(request, 'if-match')),
      } as Call<RouteName>;
      const idempotencyKey = headerOf(request, 'idempotency-key')?.slice(0, 128);
      const run = (): ReturnType<AnyHandler> => handler(call);
      const once = `${JSON.stringify([identity.role, 'name' in identity ? identity.name : '', key])} ${idempotencyKey}`;
      const useOnce = route.method === 'POST' && idempotencyKey !== undefined;
      const answer = await (useOnce ? replies.once(once, [call.name, call.body], run) : run());
      if (answer.version !== undefined) reply.header('etag', `"${answer.version}"`);
      reply.header('cache-control', 'no-store');
      if (!route.reply) return await reply.code(204).send();
      return await reply.code(answer.made ? 201 : 200).send(route.reply.parse(answer.value));
    },
  });
}

/** Puts every route of the table on `app`, and problems in place of Fastify's own errors. */
export function registerRoutes(app: FastifyInstance, options: HttpOptions): void {
  const replies = new Replies(options.clock);
  for (const key of Object.keys(routes) as RouteName[]) register(app, key, options, replies);
  app.setNotFoundHandler(() => {
    throw new Problem('not-found', 'there is no such route', { remedy: 'see src/control/openapi.json' });
  });
  app.setErrorHandler(async (error, request, reply) => {
    const { code, message, remedy, retryable } = problemOf(error);
    const status = statusOfCode[code] ?? 500;
    if (status === 500) options.logger.error({ error, operation: request.routeOptions.url }, 'a request failed');
    if (status === 401) reply.header('www-authenticate', 'Bearer');
    const body = {
      type: `urn:tidemark:problem:${code}`,
      title: code.replaceAll('-', ' '),
      status,
      detail: message,
      code,
      remedy,
      retryable,
    };
    return await reply.code(status).type('application/problem+json').send(JSON.stringify(body));
  });
}

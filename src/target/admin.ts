/**
 * The door for commands on the target's own host: `admin.sock` in its directory, HTTP/1.1 with JSON. Whoever runs a target on the directory is the
 * only writer of `points.log`, so a command has it write. One request so far:
 *
 *   POST /v1/asides  {machine, entry: {type, body}}  →  200 {}, or {code, message, remedy, retryable} with 400 (409, 500)
 *
 * Invariants:
 *  1. Only the owner of the directory gets in: the socket has mode 0600 from its first moment.
 *  2. Bounded, then parsed, then checked by its schema (C7). Nothing that makes a point can be asked for.
 *  3. Answered when the record is durable, or refused and nothing written.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import * as path from 'node:path';
import { z } from 'zod';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { Files } from '../posix/files.ts';
import { shortPathOf } from '../posix/short-path.ts';
import { asideSchema, type Aside } from '../store/points-record.ts';
import { machineName } from '../wire/control-body.ts';

export const adminSocketName = 'admin.sock';
export const asidesPath = '/v1/asides';

const requestSchema = z.strictObject({ machine: machineName, entry: asideSchema });
export type AsideRequest = z.infer<typeof requestSchema>;

export interface AdminOptions {
  readonly files: Files;
  readonly logger: Logger;
  /** The target's directory, locked by this process: a socket that lies there is nobody's. */
  readonly data: string;
  readonly record: (machine: string, entry: Aside) => Promise<void>;
}

export interface Admin {
  /** Answers what is under way. Idempotent. */
  close(): Promise<void>;
}

export async function startAdmin(options: AdminOptions): Promise<Admin> {
  const { files, data } = options;
  await files.remove(path.join(data, adminSocketName));
  const short = shortPathOf(data);
  const { requestMs, connectionsMax } = limits.admin;
  const server = createServer({ requestTimeout: requestMs, keepAliveTimeout: 1 }, (request, response) => {
    void answer(options, request, response);
  });
  server.maxConnections = connectionsMax;
  let closing: Promise<void> | null = null;
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      const before = process.umask(0o177);
      try {
        server.listen({ path: path.join(short.path, adminSocketName) }, resolve);
      } finally {
        process.umask(before);
      }
    });
  } catch (error) {
    short.close();
    throw error;
  }
  server.on('error', (error) => {
    options.logger.warn({ error }, 'the admin socket can not accept');
  });
  return {
    close: () =>
      (closing ??= new Promise<void>((resolve) => {
        server.close(() => {
          short.close();
          resolve();
        });
      })),
  };
}

async function answer(options: AdminOptions, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const reply = (status: number, body: unknown): void => {
    response.writeHead(status, { 'content-type': 'application/json', connection: 'close' });
    response.end(JSON.stringify(body));
  };
  try {
    if (request.method !== 'POST' || request.url !== asidesPath) {
      throw new Problem('bad-argument', `${request.method ?? ''} ${request.url ?? ''} is not known here`);
    }
    const { machine, entry } = requestOf(await bodyOf(request));
    await options.record(machine, entry);
    options.logger.info({ machine, type: entry.type, body: entry.body }, 'a record was written for a command');
    reply(200, {});
  } catch (error) {
    const problem = isProblem(error) ? error : new Problem('internal', messageOf(error), { cause: error });
    if (!isProblem(error)) options.logger.error({ error }, 'a request on the admin socket failed unexpectedly');
    const { code, message, remedy, retryable } = problem;
    reply(problem.code === 'internal' ? 500 : problem.code === 'bad-record' ? 409 : 400, {
      code,
      message,
      remedy,
      retryable,
    });
  }
}

function requestOf(text: string): AsideRequest {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Problem('bad-argument', 'the request is not JSON');
  }
  const parsed = requestSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new Problem('bad-argument', `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'does not fit its schema'}`);
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of request as AsyncIterable<Buffer>) {
    bytes += piece.byteLength;
    if (bytes > limits.admin.bodyBytesMax) throw new Problem('too-large', 'the request is too large');
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString('utf8');
}

/**
 * What dashboards and supervisors ask a role: `/metrics`, `/healthz` (the process is alive: it answered) and `/readyz` (200 or
 * 503, with reasons). Plain HTTP on loopback by default; it shows names and numbers, never keys.
 *
 * Several roles on one host: when the port is taken the next ones are tried, and the port used is returned so that it can be
 * said. Port 0 takes any.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { messageOf, Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from './logger.ts';
import type { MetricRegistry } from './registry.ts';

export interface Readiness {
  readonly ready: boolean;
  /** What is missing, for people; empty when ready. */
  readonly reasons: readonly string[];
}

export interface ObserveServer {
  readonly port: number;
  readonly url: string;
  close(): Promise<void>;
}

interface Reply {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
}

const { portsTried, requestMs, connectionsMax } = limits.observe;
const json = (status: number, value: unknown): Reply => ({
  status,
  contentType: 'application/json',
  body: `${JSON.stringify(value)}\n`,
});

/** Resolves with the port, or null when it is taken. */
function listen(server: Server, host: string, port: number): Promise<number | null> {
  return new Promise((resolve, reject) => {
    const failed = (error: Error): void => {
      server.off('listening', listening);
      if (systemCode(error) === 'EADDRINUSE') resolve(null);
      else reject(error);
    };
    const listening = (): void => {
      server.off('error', failed);
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : port);
    };
    server.once('error', failed);
    server.once('listening', listening);
    server.listen({ host, port, exclusive: true });
  });
}

async function listenNear(server: Server, host: string, port: number): Promise<number> {
  const last = port === 0 ? 0 : Math.min(port + portsTried - 1, 65_535);
  for (let candidate = port; candidate <= last; candidate += 1) {
    let got: number | null;
    try {
      got = await listen(server, host, candidate);
    } catch (cause) {
      throw new Problem('bad-config', `metrics: can not listen on ${host}:${candidate}: ${messageOf(cause)}`, {
        remedy: 'choose another address or port',
        cause,
      });
    }
    if (got !== null) return got;
  }
  throw new Problem('bad-config', `metrics: ports ${port} to ${last} on ${host} are all taken`, {
    remedy: 'choose another metrics port',
  });
}

/** @param options.ready asked at each `/readyz`; a rejection counts as not ready. */
export async function startObserveServer(options: {
  host?: string;
  port: number;
  registry: MetricRegistry;
  logger: Logger;
  ready: () => Readiness | Promise<Readiness>;
}): Promise<ObserveServer> {
  const { host = '127.0.0.1', registry, logger, ready } = options;

  const readiness = async (): Promise<Reply> => {
    const now = await Promise.resolve()
      .then(ready)
      .catch((error: unknown): Readiness => ({ ready: false, reasons: [messageOf(error)] }));
    return json(now.ready ? 200 : 503, now);
  };
  const answer = async (request: IncomingMessage): Promise<Reply> => {
    if (request.method !== 'GET' && request.method !== 'HEAD') return json(405, { error: 'only GET is served here' });
    const path = (request.url ?? '').split('?')[0];
    if (path === '/healthz') return json(200, { alive: true });
    if (path === '/readyz') return await readiness();
    if (path !== '/metrics') return json(404, { error: 'there are /metrics, /healthz and /readyz' });
    const { text, contentType } = await registry.expose();
    return { status: 200, contentType, body: text };
  };
  const serve = (request: IncomingMessage, response: ServerResponse): void => {
    request.resume();
    void answer(request)
      .catch((error: unknown) => {
        logger.error({ error, url: request.url }, 'a request for metrics or health failed');
        return json(500, { error: 'internal' });
      })
      .then(({ status, contentType, body }) => {
        response.writeHead(status, { 'content-type': contentType, 'cache-control': 'no-store' });
        response.end(request.method === 'HEAD' ? '' : body);
      });
  };

  const server = createServer({ requestTimeout: requestMs, headersTimeout: requestMs }, serve);
  server.maxConnections = connectionsMax;
  const port = await listenNear(server, host, options.port);
  return {
    port,
    url: `http://${host.includes(':') ? `[${host}]` : host}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

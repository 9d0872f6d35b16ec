import { createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { createRegistry } from '../../src/observe/registry.ts';
import { startObserveServer, type ObserveServer, type Readiness } from '../../src/observe/server.ts';

const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

async function started(
  options: { port?: number; ready?: () => Readiness | Promise<Readiness> } = {},
): Promise<ObserveServer> {
  const logger = createLogger({ level: 'silent', clock: systemClock });
  const ready = options.ready ?? (() => ({ ready: true, reasons: [] }));
  const registry = createRegistry();
  registry.counter({ name: 'tidemark_test_things_total', help: 'Things.', type: 'counter', labels: [] }).add({}, 2);
  const server = await startObserveServer({ port: options.port ?? 0, registry, logger, ready });
  ends.push(() => server.close());
  return server;
}

describe('metrics and health server', () => {
  it('serves metrics and says it is alive', async () => {
    const { url } = await started();
    const metrics = await fetch(`${url}/metrics`);
    expect(metrics.headers.get('content-type')).toContain('text/plain');
    expect(await metrics.text()).toContain('tidemark_test_things_total 2');
    const health = await fetch(`${url}/healthz`);
    expect([health.status, await health.json()]).toEqual([200, { alive: true }]);
    expect((await fetch(`${url}/other`)).status).toBe(404);
    expect((await fetch(`${url}/metrics`, { method: 'POST' })).status).toBe(405);
  });

  it('is ready with 200, not ready with 503 and the reasons, also when the question fails', async () => {
    let now: () => Readiness | Promise<Readiness> = () => ({ ready: true, reasons: [] });
    const { url } = await started({ ready: () => now() });
    expect((await fetch(`${url}/readyz`)).status).toBe(200);
    now = () => ({ ready: false, reasons: ['no target'] });
    const not = await fetch(`${url}/readyz`);
    expect([not.status, await not.json()]).toEqual([503, { ready: false, reasons: ['no target'] }]);
    now = () => Promise.reject(new Error('target lost'));
    const failed = await fetch(`${url}/readyz`);
    expect([failed.status, await failed.json()]).toEqual([503, { ready: false, reasons: ['target lost'] }]);
  });

  it('takes the next port when one is taken and says which', async () => {
    const first = await started();
    const second = await started({ port: first.port });
    expect(second.port).toBeGreaterThan(first.port);
    expect(second.port).toBeLessThanOrEqual(first.port + 16);
    expect((await fetch(`${second.url}/healthz`)).status).toBe(200);
  });

  it('gives up after 16 more, naming them', async () => {
    const blockers: ReturnType<typeof createServer>[] = [];
    const base = await started();
    for (let port = base.port + 1; port <= base.port + 16; port += 1) {
      const blocker = createServer();
      await new Promise<void>((resolve) => {
        blocker.once('error', () => resolve());
        blocker.listen(port, '127.0.0.1', resolve);
      });
      blockers.push(blocker);
    }
    await expect(started({ port: base.port })).rejects.toMatchObject({
      code: 'bad-config',
      message: expect.stringContaining(String(base.port + 16)) as unknown,
    });
    for (const blocker of blockers) blocker.close();
  });

  it('closes at once although a client keeps its connection', async () => {
    const server = await started();
    await fetch(`${server.url}/healthz`);
    await server.close();
    await expect(fetch(`${server.url}/healthz`)).rejects.toThrow();
  });
});

import { readFile, writeFile } from 'node:fs/promises';
import { fastify } from 'fastify';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { type Route, routes } from '../../src/control/api.ts';
import { type Handlers, registerRoutes } from '../../src/control/http.ts';
import { openApiDocument } from '../../src/control/openapi.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { createLogger } from '../../src/observe/logger.ts';

const checkedIn = new URL('../../src/control/openapi.json', import.meta.url);
interface Operation {
  readonly operationId: string;
  readonly requestBody?: { content: Record<string, { schema: object }> };
  readonly responses: Record<string, { content?: Record<string, { schema: object }> }>;
}
type Document = Record<string, unknown> & { paths: Record<string, Record<string, Operation>> };

/** The routes a server really has, not the table they were made from. */
async function routesOfServer(): Promise<string[]> {
  const app = fastify({ exposeHeadRoutes: false });
  const found: string[] = [];
  app.addHook('onRoute', ({ method, url }) => {
    found.push(`${String(method)} ${url.replace(/:(\w+)/g, '{$1}')}`);
  });
  const logger = createLogger({ level: 'silent', clock: systemClock });
  registerRoutes(app, { clock: systemClock, logger, handlers: {} as Handlers, identify: () => ({ role: 'operator' }) });
  await app.ready();
  await app.close();
  return found.sort();
}

describe('the OpenAPI document', () => {
  it('that is checked in is the one the code makes (TIDEMARK_WRITE_OPENAPI=1 writes it)', async () => {
    const made = openApiDocument();
    if (process.env['TIDEMARK_WRITE_OPENAPI'] === '1') await writeFile(checkedIn, `${JSON.stringify(made, null, 2)}\n`);
    expect(JSON.parse(await readFile(checkedIn, 'utf8'))).toEqual(made);
  });

  it('names the routes the server has, with their schemas', async () => {
    const { paths } = JSON.parse(await readFile(checkedIn, 'utf8')) as Document;
    const named = Object.entries(paths).flatMap(([path, operations]) =>
      Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(named.sort()).toEqual(await routesOfServer());
    for (const [name, route] of Object.entries<Route>(routes)) {
      const operation = paths[route.path]?.[route.method.toLowerCase()];
      expect(operation?.operationId).toBe(name);
      const strip = (schema: z.ZodType, io: 'input' | 'output') => ({
        ...z.toJSONSchema(schema, { io }),
        $schema: undefined,
      });
      const body = operation?.requestBody?.content['application/json']?.schema;
      expect(body).toEqual(route.body && strip(route.body, 'input'));
      const reply = operation?.responses['200']?.content?.['application/json']?.schema;
      expect(reply).toEqual(route.reply && strip(route.reply, 'output'));
      expect(operation?.responses['default']?.content).toHaveProperty(['application/problem+json']);
    }
  });

  it('is OpenAPI 3.1 in form', () => {
    const document = openApiDocument() as Document;
    expect(document['openapi']).toMatch(/^3\.1\./);
    const ids = Object.values(document.paths).flatMap((operations) =>
      Object.values(operations).map(({ operationId }) => operationId),
    );
    expect(new Set(ids).size).toBe(ids.length);
    expect(JSON.stringify(document)).not.toContain('"$schema"');
  });
});

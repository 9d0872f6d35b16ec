/** The OpenAPI 3.1 document, made from the table in `api.ts`. Checked in as `openapi.json`; a test compares both with the server. */
import { z } from 'zod';
import { type Route, routes } from './api.ts';
import { problemReply } from './status-schemas.ts';

type Json = Record<string, unknown>;

function schemaOf(schema: z.ZodType, io: 'input' | 'output'): Json {
  const made: Json = { ...z.toJSONSchema(schema, { io }) };
  delete made['$schema'];
  return made;
}

const stringParameter = (name: string, where: 'path' | 'header', required: boolean, description: string): Json => ({
  name,
  in: where,
  required,
  description,
  schema: { type: 'string' },
});
const content = (type: string, schema: Json): Json => ({ content: { [type]: { schema } } });

function parametersOf(route: Route): Json[] {
  const parameters: Json[] = [];
  if (route.path.includes('{name}'))
    parameters.push(stringParameter('name', 'path', true, 'A name as in certificates.'));
  if (route.method === 'POST')
    parameters.push(
      stringParameter('Idempotency-Key', 'header', false, 'The same key and body: the same reply, done once.'),
    );
  if (route.versioned && route.method !== 'GET')
    parameters.push(stringParameter('If-Match', 'header', false, 'The ETag that is to be replaced.'));
  const query = route.query ? schemaOf(route.query, 'input') : {};
  for (const [name, schema] of Object.entries((query['properties'] ?? {}) as Json))
    parameters.push({ name, in: 'query', required: false, schema });
  return parameters;
}

function operationOf(operationId: string, route: Route): Json {
  const good = route.reply ? content('application/json', schemaOf(route.reply, 'output')) : {};
  const etag = route.versioned && route.reply ? { headers: { ETag: { schema: { type: 'string' } } } } : {};
  const ok = { description: 'Done.', ...good, ...etag };
  const success = route.reply
    ? { 200: ok, ...(route.method === 'PUT' ? { 201: { ...ok, description: 'Made.' } } : {}) }
    : { 204: { description: 'Done.' } };
  const parameters = parametersOf(route);
  const security = route.callers.map((caller) =>
    caller === 'anyone' ? {} : caller === 'operator' ? { operator: [] } : { certificate: [] },
  );
  return {
    operationId,
    summary: route.summary,
    security: [...new Map(security.map((entry) => [JSON.stringify(entry), entry])).values()],
    'x-callers': route.callers,
    ...(parameters.length > 0 ? { parameters } : {}),
    ...(route.body
      ? { requestBody: { required: true, ...content('application/json', schemaOf(route.body, 'input')) } }
      : {}),
    responses: {
      ...success,
      default: {
        description: 'A problem (RFC 9457).',
        ...content('application/problem+json', { $ref: '#/components/schemas/Problem' }),
      },
    },
  };
}

export function openApiDocument(): Json {
  const paths: Record<string, Json> = {};
  for (const [name, route] of Object.entries<Route>(routes)) {
    (paths[route.path] ??= {})[route.method.toLowerCase()] = operationOf(name, route);
  }
  return {
    openapi: '3.1.0',
    info: { title: 'Tidemark control API', version: '1' },
    paths,
    components: {
      schemas: { Problem: schemaOf(problemReply, 'output') },
      securitySchemes: { operator: { type: 'http', scheme: 'bearer' }, certificate: { type: 'mutualTLS' } },
    },
  };
}

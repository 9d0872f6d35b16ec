/**
 * The control API as one table: what the server serves, the client calls and the OpenAPI document says. A handler gets what
 * its row's schemas made of the request; what it returns passes the row's reply schema.
 */
import type { z } from 'zod';
import * as enrolment from './enrolment-schemas.ts';
import type * as fields from './fields.ts';
import * as leases from './lease-schemas.ts';
import * as reports from './report-schemas.ts';
import * as schemas from './schemas.ts';
import * as status from './status-schemas.ts';
import * as throttle from './throttle-schemas.ts';

/** Who may call: the operator by bearer token, a role by its certificate, anyone (who must then show a registration key). */
export type Caller = 'operator' | 'anyone' | fields.EnrolledRole;

export interface Route {
  readonly method: 'GET' | 'PUT' | 'POST' | 'DELETE';
  /** OpenAPI form; `{name}` is the only parameter there is. */
  readonly path: string;
  readonly summary: string;
  readonly callers: readonly Caller[];
  readonly query?: z.ZodType;
  readonly body?: z.ZodType;
  /** Absent: 204, nothing. */
  readonly reply?: z.ZodType;
  /** One record with an ETag; PUT makes it (201) or, with If-Match, updates it (200). */
  readonly versioned?: true;
}

const operator = ['operator'] as const;

export const routes = {
  createRegistrationKey: {
    method: 'POST',
    path: '/v1/registration-keys',
    summary: 'Make a single-use key with which one role can enrol',
    callers: operator,
    body: enrolment.registrationKeyRequest,
    reply: enrolment.registrationKeyReply,
  },
  enroll: {
    method: 'POST',
    path: '/v1/enroll',
    summary: 'Turn a registration key and a certificate request into a certificate',
    callers: ['anyone'],
    body: enrolment.enrollRequest,
    reply: enrolment.enrollReply,
  },
  getMachine: {
    method: 'GET',
    path: '/v1/machines/{name}',
    summary: 'What is protected of a machine',
    callers: operator,
    reply: schemas.machineReply,
    versioned: true,
  },
  putMachine: {
    method: 'PUT',
    path: '/v1/machines/{name}',
    summary: 'Protect a machine, or change what is protected',
    callers: operator,
    body: schemas.machineSchema,
    reply: status.machinePutReply,
    versioned: true,
  },
  deleteMachine: {
    method: 'DELETE',
    path: '/v1/machines/{name}',
    summary: 'Disable protection; the replica stays with its target unless it is to be deleted',
    callers: operator,
    query: schemas.unprotectQuery,
    versioned: true,
  },
  listPoints: {
    method: 'GET',
    path: '/v1/machines/{name}/points',
    summary: 'Recovery points of a machine, newest first',
    callers: operator,
    query: status.pointsQuery,
    reply: status.pointsReply,
  },
  requestResync: {
    method: 'POST',
    path: '/v1/machines/{name}/resync',
    summary: 'Have a machine compare its disks with their replica, block by block',
    callers: operator,
    body: schemas.resyncRequest,
    reply: schemas.resyncReply,
  },
  getPolicy: {
    method: 'GET',
    path: '/v1/policies/{name}',
    summary: 'A replication policy',
    callers: operator,
    reply: schemas.policyReply,
    versioned: true,
  },
  putPolicy: {
    method: 'PUT',
    path: '/v1/policies/{name}',
    summary: 'Make or change a replication policy',
    callers: operator,
    body: schemas.policySchema,
    reply: status.policyPutReply,
    versioned: true,
  },
  getAgentConfig: {
    method: 'GET',
    path: '/v1/agent/config',
    summary: 'What the calling agent is to protect, and how',
    callers: ['agent'],
    reply: schemas.agentConfigReply,
  },
  holdLeases: {
    method: 'POST',
    path: '/v1/leases',
    summary: 'A process server takes, keeps and gives up machines',
    callers: ['process-server'],
    body: leases.leasesRequest,
    reply: leases.leasesReply,
  },
  listProcessServers: {
    method: 'GET',
    path: '/v1/process-servers',
    summary: 'Process servers that were heard, and the machines they have',
    callers: operator,
    reply: leases.processServersReply,
  },
  getProcessServerLimit: {
    method: 'GET',
    path: '/v1/process-servers/{name}/limit',
    summary: 'What was set as the limit of a process server',
    callers: operator,
    reply: throttle.processServerLimitReply,
    versioned: true,
  },
  putProcessServerLimit: {
    method: 'PUT',
    path: '/v1/process-servers/{name}/limit',
    summary: 'Limit what a process server sends to its targets; it hears of it with its next report',
    callers: operator,
    body: throttle.processServerLimit,
    reply: throttle.processServerLimitReply,
    versioned: true,
  },
  moveMachine: {
    method: 'POST',
    path: '/v1/machines/{name}/move',
    summary: 'Have another process server take a machine over',
    callers: operator,
    body: leases.moveRequest,
    reply: leases.moveReply,
  },
  report: {
    method: 'POST',
    path: '/v1/reports',
    summary: 'A role says how it is; the newest report of each is kept',
    callers: ['agent', 'process-server', 'target'],
    body: reports.reportRequest,
    reply: reports.reportReply,
  },
  getStatus: {
    method: 'GET',
    path: '/v1/status',
    summary: 'Am I protected, how far behind, and why',
    callers: operator,
    reply: status.statusReply,
  },
} as const satisfies Record<string, Route>;

export type Routes = typeof routes;
export type RouteName = keyof Routes;

type Part<R, P extends string, F extends 'input' | 'output'> =
  R extends Record<P, infer S extends z.ZodType> ? (F extends 'input' ? z.input<S> : z.output<S>) : undefined;
/** As the server sees it (defaults filled in) and as a client writes it. */
export type QueryOf<K extends RouteName, F extends 'input' | 'output' = 'output'> = Part<Routes[K], 'query', F>;
export type BodyOf<K extends RouteName, F extends 'input' | 'output' = 'output'> = Part<Routes[K], 'body', F>;
export type ReplyOf<K extends RouteName, F extends 'input' | 'output' = 'output'> = Part<Routes[K], 'reply', F>;

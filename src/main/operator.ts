/** What an operator asks of the control API: registration keys, enrolment, protection, status. */
import * as path from 'node:path';
import type {
  EnrollReport,
  PauseReport,
  PauseRequest,
  ProtectReport,
  ProtectRequest,
  ResyncReport,
  ResyncRequest,
  Roles,
  UnprotectReport,
  UnprotectRequest,
  TokenReport,
} from '../cli/roles.ts';
import type { StatusReason, StatusReport } from '../cli/status-report.ts';
import type { LimitRequest, MoveReport, MoveRequest, ProcessServersReport } from '../cli/placement-roles.ts';
import type { ClientConfig } from '../config.ts';
import { ControlClient, enroll as enrollWith } from '../control/client.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { definitionOf } from './machine-definition.ts';
import type { Parts } from './parts.ts';

const tokenFileName = 'operator.token';

/** Runs `use` with a client that shows the operator's token. */
async function withControl<T>(
  parts: Parts,
  config: ClientConfig,
  use: (client: ControlClient) => Promise<T>,
): Promise<T> {
  const { files, clock } = parts;
  const file = path.join(config.credentials, tokenFileName);
  if (!(await files.exists(file))) {
    throw new Problem('not-found', `${file} does not exist`, {
      remedy: "run this on control's host, or copy its operator.token into a directory and name it with --credentials",
    });
  }
  const token = (await files.readWhole(file)).toString('utf8').trim();
  const client = new ControlClient({ url: config.controlUrl, access: { kind: 'operator', token }, clock });
  try {
    return await use(client);
  } finally {
    client.close();
  }
}

export function createToken(parts: Parts, request: Parameters<Roles['createToken']>[0]): Promise<TokenReport> {
  const { role, name, hours } = request;
  return withControl(parts, request, async (client) => {
    const body = { role, ttlSeconds: hours * 3600, ...(name === undefined ? {} : { name }) };
    return (await client.call('createRegistrationKey', { body })).value;
  });
}

export async function enroll(parts: Parts, request: Parameters<Roles['enroll']>[0]): Promise<EnrollReport> {
  const { files, clock, random } = parts;
  const { controlUrl, registrationKey, role, name, into } = request;
  const credentials = await enrollWith({
    url: controlUrl,
    registrationKey,
    role,
    name,
    directory: into,
    files,
    clock,
    random,
  });
  return { role, name, credentials: into, expiresMs: credentials.identity.notAfterMs };
}

/** Reads a record, or null where there is none. */
async function existing<T>(call: () => Promise<T>): Promise<T | null> {
  try {
    return await call();
  } catch (error) {
    if (isProblem(error) && error.code === 'not-found') return null;
    throw error;
  }
}

/** What is not undefined. */
const said = (values: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));

export async function protect(parts: Parts, request: ProtectRequest): Promise<ProtectReport> {
  const { machine, disks, policy, change, own } = request;
  const definition = request.definition && definitionOf(request.definition, disks);
  return withControl(parts, request, async (client) => {
    const warnings: StatusReason[] = [];
    const wanted = said(change);
    const oldPolicy = await existing(() => client.call('getPolicy', { name: policy }));
    if (oldPolicy === null || Object.keys(wanted).length > 0) {
      const before = Object.fromEntries(Object.entries(oldPolicy?.value ?? {}).filter(([key]) => key !== 'name'));
      const ifMatch = oldPolicy?.version;
      const set = await client.call('putPolicy', {
        name: policy,
        body: { ...before, ...wanted },
        ...(ifMatch === undefined ? {} : { ifMatch }),
      });
      warnings.push(...(set.value.warnings ?? []));
    }
    const oldMachine = await existing(() => client.call('getMachine', { name: machine }));
    const ifMatch = oldMachine?.version;
    const known = Object.fromEntries(Object.entries(oldMachine?.value ?? {}).filter(([key]) => key !== 'name'));
    const body = { ...known, ...said({ ...own, definition }), disks: disks.map((name) => ({ name })), policy };
    const made = await client.call('putMachine', {
      name: machine,
      body,
      ...(ifMatch === undefined ? {} : { ifMatch }),
    });
    // Both look at the policy; the machine's own word is in both where it was protected by it before.
    for (const warning of made.value.warnings ?? [])
      if (!warnings.some(({ message }) => message === warning.message)) warnings.push(warning);
    return { machine, disks, policy, warnings };
  });
}

export function pause(parts: Parts, request: PauseRequest): Promise<PauseReport> {
  const { machine, paused } = request;
  return withControl(parts, request, async (client) => {
    const { value, version } = await client.call('getMachine', { name: machine });
    const { name, ...body } = value;
    const changed = body.paused !== paused;
    if (changed) {
      const ifMatch = version === undefined ? {} : { ifMatch: version };
      await client.call('putMachine', { name, body: { ...body, paused }, ...ifMatch });
    }
    return { machine, paused, changed };
  });
}

export function unprotect(parts: Parts, request: UnprotectRequest): Promise<UnprotectReport> {
  const { machine, deleteReplica } = request;
  return withControl(parts, request, async (client) => {
    await client.call('deleteMachine', { name: machine, query: { deleteReplica: String(deleteReplica) } });
    return { machine, deleteReplica };
  });
}

export function resync(parts: Parts, request: ResyncRequest): Promise<ResyncReport> {
  const { machine, disks, now } = request;
  return withControl(parts, request, async (client) => {
    const body = { now, ...(disks === undefined ? {} : { disks: [...disks] }) };
    return (await client.call('requestResync', { name: machine, body })).value;
  });
}

export function processServers(parts: Parts, request: ClientConfig): Promise<ProcessServersReport> {
  return withControl(parts, request, async (client) => (await client.call('listProcessServers')).value);
}

export function limitProcessServer(parts: Parts, request: LimitRequest): Promise<void> {
  const { processServer: name, throttle, throttleTimeZone } = request;
  return withControl(parts, request, async (client) => {
    const old = await existing(() => client.call('getProcessServerLimit', { name }));
    const known = Object.fromEntries(Object.entries(old?.value ?? {}).filter(([key]) => key !== 'name'));
    const ifMatch = old?.version;
    const body = { ...known, ...said({ throttle, throttleTimeZone }) };
    await client.call('putProcessServerLimit', { name, body, ...(ifMatch === undefined ? {} : { ifMatch }) });
  });
}

export function move(parts: Parts, request: MoveRequest): Promise<MoveReport> {
  const { machine, to } = request;
  const body = to === undefined ? {} : { to };
  return withControl(
    parts,
    request,
    async (client) => (await client.call('moveMachine', { name: machine, body })).value,
  );
}

export function status(parts: Parts, request: Parameters<Roles['status']>[0]): Promise<StatusReport> {
  return withControl(parts, request, async (client) => {
    const { value } = await client.call('getStatus');
    const { machine } = request;
    if (machine === undefined) return value;
    const machines = value.machines.filter((each) => each.name === machine);
    if (machines.length === 0) {
      throw new Problem('not-found', `machine ${machine} is not protected`, {
        remedy: `run tidemark protect ${machine}`,
      });
    }
    return { ...value, machines };
  });
}

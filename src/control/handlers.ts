/**
 * What the routes do, over the state port. Every handler is one read, one decision, one commit; a commit that conflicts is the
 * caller's to repeat (ETag) or a refusal (registration key), never retried with a decision made on what was read before.
 */
import { createHash } from 'node:crypto';
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import type { Authority } from '../transport/authority.ts';
import { leaseRemoved } from './forgotten-leases.ts';
import { foreseenBy } from './foresight.ts';
import type { Handlers } from './http.ts';
import { preflightOf } from './preflight.ts';
import { leasing, processServersFor } from './leasing.ts';
import { conflict, listAll, machineOf, policyOf, put } from './records.ts';
import { pendingResync, resyncing } from './resync.ts';
import * as enrolment from './enrolment-schemas.ts';
import * as reports from './report-schemas.ts';
import * as schemas from './schemas.ts';
import { limiting, limitOfServer } from './server-limits.ts';
import type { Change, State } from './state.ts';
import { judge } from './status.ts';
import type { StatusReport } from './status-schemas.ts';
import { throttles } from './throttles.ts';
import { protectAgain, refuseUnprotected, replicasDeleted, unprotectedMachines } from './unprotected.ts';

const { certificateDays, pageItemsMax, pointsPerMachineMax } = limits.control;
const secretBytes = 32;
/** `<machine>/<point>`: `/` is in no name, so machines do not mix; padded, so that byte order is number order. */
const pointPrefix = (machine: string): string => `${machine}/`;
const pointId = (machine: string, point: number): string => `${pointPrefix(machine)}${String(point).padStart(16, '0')}`;
const hashOf = (secret: string): string => createHash('sha256').update(secret).digest('hex');
const badKey = (why: string, remedy = 'make a new one with `tidemark token create`'): Problem =>
  new Problem('bad-registration-key', `the registration key is not accepted: ${why}`, { remedy });

interface Parts {
  readonly state: State;
  readonly authority: Authority;
  readonly clock: Clock;
  readonly random: Random;
}

function enrolling({ state, authority, clock, random }: Parts): Pick<Handlers, 'createRegistrationKey' | 'enroll'> {
  return {
    async createRegistrationKey({ body: { role, name, ttlSeconds } }) {
      const secret = random.bytes(secretBytes).toString('base64url');
      const expiresMs = clock.wallMs() + ttlSeconds * 1000;
      const bound = { role, ...(name === undefined ? {} : { name }), expiresMs };
      const stored = { ...bound, usedMs: null, usedBy: null } satisfies enrolment.StoredRegistrationKey;
      // What has expired is refused with or without its record.
      const ended = (await listAll(state, 'registration-keys')).filter(
        ({ value }) => enrolment.storedRegistrationKey.parse(value).expiresMs <= clock.wallMs(),
      );
      const result = await state.commit([
        { collection: 'registration-keys', id: hashOf(secret), value: stored, expected: 0 },
        ...ended.map(({ id }): Change => ({ collection: 'registration-keys', id, value: undefined })),
      ]);
      invariant(result.ok, 'a fresh secret is new');
      return { value: { registrationKey: `tmk1.${secret}.${authority.fingerprint}`, ...bound } };
    },

    /** The certificate is made first and handed out only to the one whose commit marks the key as used. */
    async enroll({ body: { registrationKey, role, name, csrPem } }) {
      const [, secret] = /^tmk1\.([\w-]{43})\.[0-9a-f]{64}$/.exec(registrationKey) ?? [];
      if (secret === undefined) throw badKey('it is not complete');
      const id = hashOf(secret);
      const record = await state.get('registration-keys', id);
      if (!record) throw badKey('it is not known here');
      const key = enrolment.storedRegistrationKey.parse(record.value);
      const nowMs = clock.wallMs();
      if (key.usedMs !== null) throw badKey('it was used before');
      if (nowMs >= key.expiresMs) throw badKey('it has expired');
      if (key.role !== role || (key.name ?? name) !== name)
        throw badKey('it was made for another role or name', 'enroll under the `--role` and the name it was made for');
      const issued = await authority.issue({ csrPem, role, name, days: certificateDays });
      const used = { ...key, usedMs: nowMs, usedBy: name };
      const result = await state.commit([
        { collection: 'registration-keys', id, value: used, expected: record.version },
      ]);
      if (!result.ok) throw badKey('it was used before');
      return { value: { ...issued, role, name } };
    },
  };
}

type MachineHandlers = Pick<
  Handlers,
  'getMachine' | 'putMachine' | 'deleteMachine' | 'listPoints' | 'getPolicy' | 'putPolicy' | 'getAgentConfig'
>;

function protection({ state, clock }: Parts): MachineHandlers {
  return {
    async getMachine({ name }) {
      const { version, ...machine } = await machineOf(state, name);
      return { value: { name, ...machine }, version };
    },
    async putMachine(call) {
      const { policy } = await policyOf(state, call.body.policy);
      const again = await protectAgain(state, call.name);
      const made = await put(state, 'machines', call, call.body, again);
      const warnings = await preflightOf(state, clock.wallMs(), call.body.policy, policy, call.name);
      return { value: { name: call.name, ...call.body, ...warnings }, ...made };
    },
    async deleteMachine({ name, ifMatch, query: { deleteReplica } }) {
      const { version } = await machineOf(state, name);
      if (typeof ifMatch === 'number' && ifMatch !== version) throw conflict(name);
      const points = await listAll(state, 'points', pointPrefix(name));
      const listed = points.map(({ id }): Change => ({ collection: 'points', id, value: undefined }));
      const machine = { collection: 'machines', id: name, value: undefined, expected: version } as const;
      const report = { collection: 'reports', id: `agent/${name}`, value: undefined } as const;
      const resync = { collection: 'resyncs', id: name, value: undefined } as const;
      const value = { atMs: clock.wallMs(), deleteReplica };
      const left = { collection: 'unprotected', id: name, value } as const;
      const lease = await leaseRemoved(state, name);
      if (!(await state.commit([machine, report, resync, left, ...lease, ...listed])).ok) throw conflict(name);
      return { value: undefined };
    },
    async listPoints({ name, query: { cursor, limit } }) {
      await machineOf(state, name);
      const after = cursor === undefined ? {} : { after: pointId(name, Number(cursor)) };
      const records = await state.list('points', {
        prefix: pointPrefix(name),
        backwards: true,
        limit: limit + 1,
        ...after,
      });
      const points = records.slice(0, limit).map(({ value }) => reports.pointReport.parse(value));
      return { value: { points, next: records.length > limit ? String(points.at(-1)?.point) : null } };
    },
    async getPolicy({ name }) {
      const { policy, version } = await policyOf(state, name);
      return { value: { name, ...policy }, version };
    },
    async putPolicy(call) {
      const made = await put(state, 'policies', call, call.body);
      const warnings = await preflightOf(state, clock.wallMs(), call.name, call.body);
      return { value: { name: call.name, ...call.body, ...warnings }, ...made };
    },
    async getAgentConfig({ identity }) {
      invariant('name' in identity, 'an agent has a name');
      await refuseUnprotected(state, identity.name);
      const { disks, paused, definition, ...machine } = await machineOf(state, identity.name);
      const { policy } = await policyOf(state, machine.policy);
      const processServers = await processServersFor(state, identity.name);
      const duties = { disks, policyName: machine.policy, policy, paused, definition, processServers };
      return { value: { machine: identity.name, ...duties } };
    },
  };
}

function retentionOf(policy: schemas.Policy): NonNullable<reports.ReportReply['machines'][number]['retention']> {
  const { retentionHours: hours, thinAfterHours: afterHours, thinToMinutes: everyMinutes } = policy;
  return { hours, thinning: afterHours === null ? null : { afterHours, everyMinutes } };
}

/** What a target's word about one machine changes: its points, and those it no longer keeps. */
async function pointChanges(state: State, reported: reports.TargetReport['machines'][number]): Promise<Change[]> {
  const { name, oldestPoint, points, retired } = reported;
  const prefix = pointPrefix(name);
  const [last] = await state.list('points', { prefix, backwards: true, limit: 1 });
  const newest = Math.max(
    0,
    ...points.map(({ point }) => point),
    ...(last ? [Number(last.id.slice(prefix.length))] : []),
  );
  const oldest = pointId(name, Math.max(oldestPoint ?? 0, newest - pointsPerMachineMax + 1));
  const [first] = await state.list('points', { prefix, limit: 1 });
  const known = first && first.id < oldest ? await state.list('points', { prefix, limit: pageItemsMax }) : [];
  const gone = known
    .filter(({ id }) => id < oldest)
    .map(({ id }): Change => ({ collection: 'points', id, value: undefined }));
  const come = points.map((point): Change => ({ collection: 'points', id: pointId(name, point.point), value: point }));
  const thinned = retired.map((point): Change => ({
    collection: 'points',
    id: pointId(name, point),
    value: undefined,
  }));
  return [...gone, ...thinned, ...come.filter(({ id }) => id >= oldest)];
}

function reporting({ state, clock }: Parts): Pick<Handlers, 'report' | 'getStatus'> {
  return {
    async report({ identity, body }) {
      invariant('name' in identity, 'a role has a name');
      if (identity.role !== body.role) {
        throw new Problem('not-authorised', `a ${identity.role} can not report as ${body.role}`, {
          remedy: 'report as the role in the certificate',
        });
      }
      const { name } = identity;
      const changes: Change[] = [];
      const protectedHere: { readonly name: string; readonly policy: string }[] = [];
      let report: reports.Report = body;
      if (body.role === 'target') {
        for (const machine of body.machines) {
          const record = await state.get('machines', machine.name);
          if (!record) continue;
          protectedHere.push({ name: machine.name, policy: schemas.machineSchema.parse(record.value).policy });
          changes.push(...(await pointChanges(state, machine)));
        }
        changes.push(...(await replicasDeleted(state, body.deleted)));
        report = { ...body, machines: body.machines.map((machine) => ({ ...machine, points: [] })) };
      }
      const receivedMs = clock.wallMs();
      const foreseen = body.role === 'agent' ? await foreseenBy(state, name, body, receivedMs) : null;
      const value = { name, receivedMs, report, foreseen } satisfies reports.StoredReport;
      const result = await state.commit([...changes, { collection: 'reports', id: `${body.role}/${name}`, value }]);
      invariant(result.ok, 'a commit without conditions is made');
      const machines = [];
      for (const machine of protectedHere) {
        const prefix = pointPrefix(machine.name);
        const [newest] = await state.list('points', { prefix, backwards: true, limit: 1 });
        const newestPoint = newest ? Number(newest.id.slice(prefix.length)) : null;
        const retention = retentionOf((await policyOf(state, machine.policy)).policy);
        machines.push({ name: machine.name, newestPoint, retention });
      }
      const unprotected = body.role === 'target' ? await unprotectedMachines(state) : [];
      const resync = body.role === 'agent' ? await pendingResync(state, name, body.resyncDone) : null;
      const isServer = body.role === 'process-server';
      const throttle = isServer ? await throttles(state) : [];
      const ownThrottle = isServer ? await limitOfServer(state, name) : null;
      return { value: { machines, resync, unprotected, throttle, ownThrottle } };
    },

    getStatus: async () => ({ value: await statusOf(state, clock) }),
  };
}

/** The one report value that API, command line and metrics show. */
export async function statusOf(state: State, clock: Clock): Promise<StatusReport> {
  const machines = await listAll(state, 'machines');
  const policies = await listAll(state, 'policies');
  const reported = await listAll(state, 'reports');
  const resyncs = await listAll(state, 'resyncs');
  return judge({
    nowMs: clock.wallMs(),
    machines: machines.map(({ id, value: machine }) => ({ name: id, ...schemas.machineSchema.parse(machine) })),
    policies: new Map(policies.map(({ id, value: policy }) => [id, schemas.policySchema.parse(policy)])),
    reports: reported.map(({ value: report }) => reports.storedReport.parse(report)),
    resyncs: new Map(resyncs.map(({ id, value: resync }) => [id, schemas.storedResync.parse(resync)])),
  });
}

export function createHandlers(parts: Parts): Handlers {
  return {
    ...enrolling(parts),
    ...protection(parts),
    ...resyncing(parts),
    ...leasing(parts.state),
    ...limiting(parts.state),
    ...reporting(parts),
  };
}

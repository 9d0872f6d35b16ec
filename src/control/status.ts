/**
 * "Am I protected, how far behind, why": one pure function from what is configured and what the roles reported to one report value,
 * which API, CLI and metrics all show. Nothing is guessed: what no role reported is `null`, and a role that fell silent is a
 * reason of its own, because its last words may no longer be true.
 */
import { limits } from '../limits.ts';
import type {
  AgentReport,
  Health,
  Machine,
  Policy,
  Reason,
  StatusReport,
  StoredReport,
  TargetReport,
} from './schemas.ts';

const { reportSilentMs, rpoWarningIntervals, rpoCriticalIntervals, rpoGraceMs, proofGraceMs } = limits.control;

export interface StatusInput {
  readonly nowMs: number;
  readonly machines: readonly (Machine & { readonly name: string })[];
  readonly policies: ReadonlyMap<string, Policy>;
  readonly reports: readonly StoredReport[];
}

interface Heard<R> {
  readonly report: R;
  readonly silent: boolean;
}

type DiskStatus = StatusReport['machines'][number]['disks'][number];
type MachineStatus = StatusReport['machines'][number];
type ReportedProblem = StoredReport['report']['problems'][number];

const reason = (severity: Reason['severity'], code: string, message: string, remedy: string): Reason => ({
  severity,
  code,
  message,
  remedy,
});
const warning = (code: string, message: string, remedy: string): Reason => reason('warning', code, message, remedy);

function worst(reasons: readonly { severity: Health }[], others: readonly { health: Health }[] = []): Health {
  const found = new Set<Health>([...reasons.map(({ severity }) => severity), ...others.map(({ health }) => health)]);
  return found.has('critical') ? 'critical' : found.has('warning') ? 'warning' : 'ok';
}

/** M10: what can be retried is a warning, what stopped is critical. */
const reasonOfProblem = ({ retryable, code, message, remedy }: ReportedProblem): Reason =>
  reason(retryable ? 'warning' : 'critical', code, message, remedy);

/** The smallest, or the sum, only if all are known. */
function allKnown(values: readonly (number | null)[], join: (values: readonly number[]) => number): number | null {
  const known = values.filter((value) => value !== null);
  return known.length === values.length && known.length > 0 ? join(known) : null;
}

const ageSeconds = (nowMs: number, thenMs: number | null): number | null =>
  thenMs === null ? null : Math.max(0, nowMs - thenMs) / 1000;

function recencyReasons(
  nowMs: number,
  committedMs: number | null,
  provenMs: number | null,
  intervalMs: number | null,
): Reason[] {
  if (committedMs === null) {
    return [
      warning(
        'no-point',
        'no recovery point is committed yet',
        'wait for the initial replication, or see what stops it',
      ),
    ];
  }
  const reasons: Reason[] = [];
  const age = nowMs - committedMs - rpoGraceMs;
  const message = `the newest committed point is ${Math.round((nowMs - committedMs) / 1000)} s old, the interval is ${(intervalMs ?? 0) / 1000} s`;
  const remedy = 'see whether agent, process server and target run and reach one another';
  if (intervalMs !== null && age > intervalMs * rpoCriticalIntervals)
    reasons.push(reason('critical', 'rpo-breached', message, remedy));
  else if (intervalMs !== null && age > intervalMs * rpoWarningIntervals)
    reasons.push(warning('behind', message, remedy));
  if (provenMs === null || committedMs - provenMs > proofGraceMs) {
    // A point that was committed just now can not be proven yet.
    if (provenMs !== null || nowMs - committedMs > proofGraceMs) {
      reasons.push(
        warning(
          'unproven',
          'newer points are committed but not proven',
          'see whether the target has its vault key and is not overloaded',
        ),
      );
    }
  }
  return reasons;
}

function judgeMachine(input: StatusInput, machine: StatusInput['machines'][number], heard: Sources): MachineStatus {
  const { nowMs } = input;
  const { name } = machine;
  const agent = heard.agents.get(name);
  const held = heard.replicas.get(name);
  const problems = heard.problems.filter((problem) => problem.machine === name);
  const interval = input.policies.get(machine.policy)?.intervalSeconds ?? null;

  const disks = machine.disks.map((disk): DiskStatus => {
    const seen = agent?.report.disks.find((candidate) => candidate.name === disk.name);
    const replica = held?.report.disks.find((candidate) => candidate.name === disk.name);
    const newestCommittedMs = replica?.committed?.cutTimeMs ?? null;
    const newestProvenMs = replica?.proven?.cutTimeMs ?? null;
    const reasons = problems.filter((problem) => problem.disk === disk.name).map(reasonOfProblem);
    reasons.push(
      ...recencyReasons(nowMs, newestCommittedMs, newestProvenMs, interval === null ? null : interval * 1000),
    );
    if (agent && !seen)
      reasons.push(
        warning('disk-not-captured', `the agent does not capture disk ${disk.name}`, 'start the agent with this disk'),
      );
    return {
      name: disk.name,
      size: seen?.size ?? replica?.size ?? null,
      phase: seen?.phase ?? null,
      health: worst(reasons),
      reasons,
      newestCommittedMs,
      newestProvenMs,
      lagBytes: seen?.lagBytes ?? null,
      rpoActualSeconds: ageSeconds(nowMs, newestCommittedMs),
    };
  });

  const names = new Set(machine.disks.map((disk) => disk.name));
  const reasons = problems.filter(({ disk }) => disk === undefined || !names.has(disk)).map(reasonOfProblem);
  if (!agent)
    reasons.push(warning('agent-never-seen', `no agent has reported for ${name}`, 'enroll and start the agent'));
  else if (agent.silent)
    reasons.push(
      warning(
        'agent-silent',
        `the agent of ${name} does not report any more`,
        'see whether it runs and reaches control',
      ),
    );
  else if (!agent.report.connected)
    reasons.push(
      warning(
        'agent-disconnected',
        `the agent of ${name} has no process server`,
        'see whether the process server runs',
      ),
    );
  if (held?.silent)
    reasons.push(
      warning(
        'target-silent',
        `the target that holds ${name} does not report any more`,
        'see whether it runs and reaches control',
      ),
    );
  const damaged = held?.report.damagedBlocks ?? 0;
  if (damaged > 0)
    reasons.push(
      reason(
        'critical',
        'damaged',
        `${damaged} stored blocks of ${name} failed their check`,
        'leave the agent running: it sends them again',
      ),
    );
  const newestCommittedMs = allKnown(
    disks.map((disk) => disk.newestCommittedMs),
    (values) => Math.min(...values),
  );
  return {
    name,
    policy: machine.policy,
    rpoIntervalSeconds: interval,
    health: worst(reasons, disks),
    reasons,
    newestCommittedMs,
    newestProvenMs: allKnown(
      disks.map((disk) => disk.newestProvenMs),
      (values) => Math.min(...values),
    ),
    lagBytes: allKnown(
      disks.map((disk) => disk.lagBytes),
      (values) => values.reduce((sum, value) => sum + value, 0),
    ),
    rpoActualSeconds: ageSeconds(nowMs, newestCommittedMs),
    disks,
  };
}

interface Sources {
  readonly agents: ReadonlyMap<string, Heard<AgentReport>>;
  /** What the target heard last says about each machine. */
  readonly replicas: ReadonlyMap<string, Heard<TargetReport['machines'][number]>>;
  /** All problems; an agent's are about its own machine. */
  readonly problems: readonly ReportedProblem[];
}

function sourcesOf(nowMs: number, reports: readonly StoredReport[]): Sources {
  const agents = new Map<string, Heard<AgentReport>>();
  const replicas = new Map<string, Heard<TargetReport['machines'][number]>>();
  const problems: ReportedProblem[] = [];
  for (const { name, receivedMs, report } of [...reports].sort((a, b) => a.receivedMs - b.receivedMs)) {
    const silent = nowMs - receivedMs > reportSilentMs;
    for (const problem of report.problems)
      problems.push(report.role === 'agent' ? { ...problem, machine: name } : problem);
    if (report.role === 'agent') agents.set(name, { report, silent });
    if (report.role === 'target')
      for (const machine of report.machines) replicas.set(machine.name, { report: machine, silent });
  }
  return { agents, replicas, problems };
}

/** The site as a whole: servers, and the recovery file without which an empty machine can not recover anything (DESIGN §4). */
function siteReasons(nowMs: number, reports: readonly StoredReport[], problems: readonly ReportedProblem[]): Reason[] {
  const reasons = problems.filter(({ machine }) => machine === undefined).map(reasonOfProblem);
  for (const { name, receivedMs, report } of reports) {
    if (report.role !== 'agent' && nowMs - receivedMs > reportSilentMs) {
      reasons.push(
        warning('silent', `${report.role} ${name} does not report any more`, 'see whether it runs and reaches control'),
      );
    }
    if (report.role === 'target' && !report.recoveryFileWritten) {
      reasons.push(
        warning(
          'no-recovery-file',
          `no recovery file of target ${name} was written: without it and the target's disk nothing can be recovered`,
          'run `tidemark key export` on the target and keep the file elsewhere',
        ),
      );
    }
  }
  if (!reports.some(({ report }) => report.role === 'target'))
    reasons.push(warning('no-target', 'no target has reported yet', 'enroll and start a target'));
  return reasons;
}

export function judge(input: StatusInput): StatusReport {
  const sources = sourcesOf(input.nowMs, input.reports);
  const machines = input.machines.map((machine) => judgeMachine(input, machine, sources));
  const reasons = siteReasons(input.nowMs, input.reports, sources.problems);
  const roles = input.reports.map(({ name, receivedMs, report }) => {
    return {
      role: report.role,
      name,
      version: report.version,
      receivedMs,
      silent: input.nowMs - receivedMs > reportSilentMs,
    };
  });
  return { atMs: input.nowMs, health: worst(reasons, machines), reasons, machines, roles };
}

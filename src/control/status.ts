/**
 * "Am I protected, how far behind, why": one pure function from what is configured and what the roles reported to one report value,
 * which API, CLI and metrics all show. Nothing is guessed: what no role reported is `null`, and a role that fell silent is a
 * reason of its own, because its last words may no longer be true.
 */
import { localTimeIn } from '../kit/local-time.ts';
import { limits } from '../limits.ts';
import type { AgentReport, StoredReport, TargetReport } from './report-schemas.ts';
import type { Machine, Policy, StoredResync } from './schemas.ts';
import type { Health, Reason, StatusReport } from './status-schemas.ts';

const { reportSilentMs, rpoWarningIntervals, rpoCriticalIntervals, rpoGraceMs, proofGraceMs } = limits.control;

export interface StatusInput {
  readonly nowMs: number;
  readonly machines: readonly (Machine & { readonly name: string })[];
  readonly policies: ReadonlyMap<string, Policy>;
  readonly reports: readonly StoredReport[];
  /** Asked for and not done, by machine. */
  readonly resyncs: ReadonlyMap<string, StoredResync>;
}

interface Heard<R> {
  readonly report: R;
  readonly silent: boolean;
}

interface Machinery {
  readonly agent: Heard<AgentReport> | undefined;
  readonly held: Heard<TargetReport['machines'][number]> | undefined;
  readonly asked: StoredResync | undefined;
}

type DiskStatus = StatusReport['machines'][number]['disks'][number];
type MachineStatus = StatusReport['machines'][number];
type ReportedProblem = StoredReport['report']['problems'][number];

/** Every reason control itself finds, with what to do about it. */
const known = {
  paused: ['warning', 'let it go on with `tidemark resume`'],
  'no-point': ['warning', 'wait for the initial replication, or see what stops it'],
  behind: ['warning', 'see whether agent, process server and target run and reach one another'],
  'rpo-breached': ['critical', 'see whether agent, process server and target run and reach one another'],
  unproven: ['warning', 'see whether the target has its vault key and is not overloaded'],
  'disk-not-captured': ['warning', 'start the agent with this disk'],
  'resync-asked': ['warning', 'start the agent if it does not run; one that runs begins within seconds'],
  'resync-waiting': [
    'warning',
    'wait, or begin at once with `tidemark resync --now`; the points there are stay usable',
  ],
  resync: ['warning', 'wait until it is done; the points there are stay usable'],
  'agent-never-seen': ['warning', 'enroll and start the agent'],
  'agent-silent': ['warning', 'see whether it runs and reaches control'],
  'agent-disconnected': ['warning', 'see whether the process server runs'],
  'target-silent': ['warning', 'see whether it runs and reaches control'],
  damaged: ['critical', 'leave the agent running: it sends them again'],
  silent: ['warning', 'see whether it runs and reaches control'],
  'no-target': ['warning', 'enroll and start a target'],
  'no-recovery-file': ['warning', 'run `tidemark key export` on the target and keep the file elsewhere'],
} as const;

function because(code: keyof typeof known, message: string): Reason {
  const [severity, remedy] = known[code];
  return { severity, code, message, remedy };
}

/** M10: what can be retried is a warning, what stopped is critical. */
function becauseOf({ retryable, code, message, remedy }: ReportedProblem): Reason {
  return { severity: retryable ? 'warning' : 'critical', code, message, remedy };
}

function worst(reasons: readonly Reason[], others: readonly { health: Health }[] = []): Health {
  const found = new Set<Health>([...reasons.map(({ severity }) => severity), ...others.map(({ health }) => health)]);
  return found.has('critical') ? 'critical' : found.has('warning') ? 'warning' : 'ok';
}

/** The smallest, or the sum, only if all are known. */
function allKnown(values: readonly (number | null)[], join: (values: readonly number[]) => number): number | null {
  const those = values.filter((value) => value !== null);
  return those.length === values.length ? join(those) : null;
}

function ageSeconds(nowMs: number, thenMs: number | null): number | null {
  return thenMs === null ? null : Math.max(0, nowMs - thenMs) / 1000;
}

function* recency(nowMs: number, committedMs: number | null, provenMs: number | null, interval: number | null) {
  if (committedMs === null) {
    yield because('no-point', 'no recovery point is committed yet');
    return;
  }
  const agoMs = nowMs - committedMs;
  if (interval !== null) {
    const intervals = (agoMs - rpoGraceMs) / 1000 / interval;
    const message = `the newest committed point is ${Math.round(agoMs / 1000)} s old, the interval is ${interval} s`;
    if (intervals > rpoCriticalIntervals) yield because('rpo-breached', message);
    else if (intervals > rpoWarningIntervals) yield because('behind', message);
  }
  // Where nothing is proven yet, the commit's own age counts: a point committed just now can not be proven.
  const unprovenMs = provenMs === null ? agoMs : committedMs - provenMs;
  if (unprovenMs > proofGraceMs) yield because('unproven', 'newer points are committed but not proven');
}

type ReportedDisk = AgentReport['disks'][number];

function resyncOf(seen: ReportedDisk | undefined, asked: boolean): DiskStatus['resync'] {
  if (seen?.resync) {
    const { doneBytes, totalBytes } = seen.resync;
    return { ...seen.resync, percent: Math.floor((100 * Math.min(doneBytes, totalBytes)) / Math.max(totalBytes, 1)) };
  }
  if (!asked) return null;
  const totalBytes = seen?.size ?? 0;
  return { reason: 'requested', phase: 'asked', doneBytes: 0, totalBytes, opensAtMs: null, timeZone: null, percent: 0 };
}

/** The clock of the window's zone; UTC where this runtime does not know that zone. */
function windowText(ms: number, timeZone: string | null): string {
  try {
    return localTimeIn(timeZone ?? 'UTC').text(ms);
  } catch {
    return localTimeIn('UTC').text(ms);
  }
}

/** Never `ok` while a disk's blocks are suspect: its replica may differ, and the next point waits for the comparison. */
function* resyncReasons(name: string, resync: DiskStatus['resync']) {
  if (resync === null) return;
  const { phase, reason, opensAtMs, timeZone, percent } = resync;
  if (phase === 'asked') yield because('resync-asked', `the resync of disk ${name} that was asked for has not begun`);
  else if (phase === 'waiting') {
    const until = opensAtMs === null ? '' : ` until ${windowText(opensAtMs, timeZone)}`;
    yield because('resync-waiting', `the resync of disk ${name} (${reason}) waits${until}`);
  } else yield because('resync', `every block of disk ${name} is compared (${reason}): ${phase}, ${percent} %`);
}

function judgeDisk(
  nowMs: number,
  name: string,
  interval: number | null,
  problems: readonly Reason[],
  of: Machinery,
): DiskStatus {
  const seen = of.agent?.report.disks.find((disk) => disk.name === name);
  const replica = of.held?.report.disks.find((disk) => disk.name === name);
  const newestCommittedMs = replica?.committed?.cutTimeMs ?? null;
  const newestProvenMs = replica?.proven?.cutTimeMs ?? null;
  const asked = of.asked?.disks.some((disk) => disk.name === name) ?? false;
  const resync = resyncOf(seen, asked);
  const recent = recency(nowMs, newestCommittedMs, newestProvenMs, interval);
  const reasons = [...problems, ...recent, ...resyncReasons(name, resync)];
  if (of.agent && !seen) reasons.push(because('disk-not-captured', `the agent does not capture disk ${name}`));
  return {
    name,
    size: seen?.size ?? replica?.size ?? null,
    phase: seen?.phase ?? null,
    resync,
    health: worst(reasons),
    reasons,
    newestCommittedMs,
    newestProvenMs,
    lagBytes: seen?.lagBytes ?? null,
    rpoActualSeconds: ageSeconds(nowMs, newestCommittedMs),
  };
}

function* machineReasons(name: string, { agent, held }: Machinery) {
  if (!agent) yield because('agent-never-seen', `no agent has reported for ${name}`);
  else if (agent.silent) yield because('agent-silent', `the agent of ${name} does not report any more`);
  // What it says itself is nearer to the cause.
  else if (!agent.report.connected && agent.report.problems.length === 0)
    yield because('agent-disconnected', `the agent of ${name} has no process server`);
  if (held?.silent) yield because('target-silent', `the target that holds ${name} does not report any more`);
  const damaged = held?.report.damagedBlocks ?? 0;
  if (damaged > 0) yield because('damaged', `${damaged} stored blocks of ${name} failed their check`);
}

/** What the machine's points can claim is what the weakest of its captures can. */
function consistencyOf(disks: readonly ReportedDisk[]): MachineStatus['consistency'] {
  const claims = disks.map(({ consistency }) => consistency);
  return claims.includes('none') ? 'none' : claims.length === 0 || claims.includes(null) ? null : 'crash';
}

function judgeMachine(input: StatusInput, machine: StatusInput['machines'][number], heard: Sources): MachineStatus {
  const { nowMs } = input;
  const { name } = machine;
  const of = { agent: heard.agents.get(name), held: heard.replicas.get(name), asked: input.resyncs.get(name) };
  const problems = heard.problems.filter((problem) => problem.machine === name);
  const interval = input.policies.get(machine.policy)?.intervalSeconds ?? null;
  const disks = machine.disks.map((disk) => {
    const own = problems.filter((problem) => problem.disk === disk.name).map(becauseOf);
    return judgeDisk(nowMs, disk.name, interval, own, of);
  });
  const isOfDisk = ({ disk }: ReportedProblem): boolean => machine.disks.some((one) => one.name === disk);
  const others = problems.filter((problem) => !isOfDisk(problem)).map(becauseOf);
  const paused = machine.paused ? [because('paused', `replication of ${name} is paused`)] : [];
  const reasons = [...paused, ...others, ...machineReasons(name, of)];
  const oldest = (times: readonly number[]): number => Math.min(...times);
  const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
  const newestCommittedMs = allKnown(
    disks.map((disk) => disk.newestCommittedMs),
    oldest,
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
      oldest,
    ),
    lagBytes: allKnown(
      disks.map((disk) => disk.lagBytes),
      sum,
    ),
    rpoActualSeconds: ageSeconds(nowMs, newestCommittedMs),
    consistency: consistencyOf(of.agent?.report.disks ?? []),
    booted: of.held?.report.booted ?? null,
    replica: of.held?.report.replica ?? null,
    gaps: of.agent?.report.gaps ?? [],
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
function* siteReasons(nowMs: number, reports: readonly StoredReport[]) {
  for (const { name, receivedMs, report } of reports) {
    const silent = report.role !== 'agent' && nowMs - receivedMs > reportSilentMs;
    if (silent) yield because('silent', `${report.role} ${name} does not report any more`);
    if (report.role === 'target' && !report.recoveryFileWritten) {
      yield because(
        'no-recovery-file',
        `target ${name}: no recovery file was written; without it a lost vault key loses every point`,
      );
    }
  }
  if (!reports.some(({ report }) => report.role === 'target')) yield because('no-target', 'no target has reported yet');
}

export function judge(input: StatusInput): StatusReport {
  const sources = sourcesOf(input.nowMs, input.reports);
  const machines = input.machines.map((machine) => judgeMachine(input, machine, sources));
  // Also of machines that are not protected any more: their replicas are there, and may be what can not be deleted.
  const isProtected = new Set<string | undefined>(input.machines.map(({ name }) => name));
  const unplaced = sources.problems.filter(({ machine }) => !isProtected.has(machine)).map(becauseOf);
  const reasons = [...unplaced, ...siteReasons(input.nowMs, input.reports)];
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

/**
 * "Am I protected, how far behind, why": one pure function from what is configured and what the roles reported to one report value,
 * which API, CLI and metrics all show. Nothing is guessed: what no role reported is `null`, and a role that fell silent is a
 * reason of its own, because its last words may no longer be true. Machines are judged in `machine-status.ts`, disks in `disk-status.ts`; here the site: its
 * servers, and the recovery file without which an empty machine can not recover anything (DESIGN §4).
 */
import { durationText } from '../kit/figures.ts';
import { limits } from '../limits.ts';
import { judgeMachine, oldestOf, sumOf } from './machine-status.ts';
import { because, becauseOf, worst } from './reasons.ts';
import type { ProcessServerReport, StoredReport, TargetReport } from './report-schemas.ts';
import type { Machine, Policy, StoredResync } from './schemas.ts';
import { isSilent, sourcesOf } from './sources.ts';
import type { StatusReport } from './status-schemas.ts';

export interface StatusInput {
  readonly nowMs: number;
  readonly machines: readonly (Machine & { readonly name: string })[];
  readonly policies: ReadonlyMap<string, Policy>;
  readonly reports: readonly StoredReport[];
  /** Asked for and not done, by machine. */
  readonly resyncs: ReadonlyMap<string, StoredResync>;
}

type MachineStatus = StatusReport['machines'][number];

function* targetReasons(nowMs: number, name: string, { recoveryFileWritten, flow }: TargetReport) {
  if (!recoveryFileWritten) {
    yield because(
      'no-recovery-file',
      `target ${name}: no recovery file was written; without it a lost vault key loses every point`,
    );
  }
  const fullAtMs = flow?.fullAtMs ?? null;
  if (fullAtMs !== null && fullAtMs - nowMs < limits.control.fullForecastMs) {
    const left = durationText(Math.max(0, fullAtMs - nowMs) / 1000);
    yield because('target-filling', `target ${name} is full in ${left} if what it keeps goes on to grow as it does`);
  }
}

function* spoolReasons(name: string, { spool }: ProcessServerReport) {
  if (!spool || spool.level === 'ok') return;
  const { level, usedBytes, limitBytes } = spool;
  const is = `the spool of process server ${name} is ${Math.floor((100 * usedBytes) / Math.max(limitBytes, 1))} % full`;
  if (level === 'full') yield because('spool-full', `${is}: it takes nothing more`);
  else if (level === 'throttling') yield because('spool-throttling', `${is}: agents are slowed down`);
  else yield because('spool-low', `${is}, ${level === 'warning-25' ? 25 : 30} % or less of it is free`);
}

function* siteReasons(nowMs: number, reports: readonly StoredReport[]) {
  for (const { name, receivedMs, report } of reports) {
    if (report.role !== 'agent' && isSilent(nowMs, receivedMs)) {
      const ago = durationText((nowMs - receivedMs) / 1000);
      yield because('silent', `${report.role} ${name} does not report any more; what it said last is ${ago} old`);
    }
    if (report.role === 'target') yield* targetReasons(nowMs, name, report);
    if (report.role === 'process-server') yield* spoolReasons(name, report);
  }
  if (!reports.some(({ report }) => report.role === 'target')) yield because('no-target', 'no target has reported yet');
}

/** The machine nearest to its RPO target, or farthest beyond it; undefined: of none both are known. */
function worstOf(machines: readonly MachineStatus[]): MachineStatus | undefined {
  const share = ({ rpoActualSeconds, rpoTargetSeconds }: MachineStatus): number =>
    rpoActualSeconds === null || rpoTargetSeconds === null ? -1 : rpoActualSeconds / rpoTargetSeconds;
  const [worst] = [...machines].sort((a, b) => share(b) - share(a));
  return worst && share(worst) >= 0 ? worst : undefined;
}

/** The figures of the site: sums and oldest times of all its machines, and of the worst of them what can not be summed. */
function siteFigures(machines: readonly MachineStatus[]) {
  const worst = worstOf(machines);
  const plans = machines.flatMap(({ name, next }) => next.map((plan) => ({ ...plan, machine: name })));
  return {
    worst: worst?.name ?? null,
    rpoTargetSeconds: worst?.rpoTargetSeconds ?? null,
    rpoIntervalSeconds: worst?.rpoIntervalSeconds ?? null,
    rpoActualSeconds: worst?.rpoActualSeconds ?? null,
    stage: worst?.stage ?? null,
    forecast: worst?.forecast ?? null,
    newestCommittedMs: machines.length === 0 ? null : oldestOf(machines.map((machine) => machine.newestCommittedMs)),
    newestProvenMs: machines.length === 0 ? null : oldestOf(machines.map((machine) => machine.newestProvenMs)),
    lagBytes: sumOf(machines.map((machine) => machine.lagBytes)),
    next: plans.sort((a, b) => a.atMs - b.atMs)[0] ?? null,
  };
}

export function judge({ nowMs, reports, ...input }: StatusInput): StatusReport {
  const sources = sourcesOf(nowMs, reports);
  const machines = input.machines.map((machine) =>
    judgeMachine(nowMs, machine, input.policies.get(machine.policy), input.resyncs.get(machine.name), sources),
  );
  // Also of machines that are not protected any more: their replicas are there, and may be what can not be deleted.
  const isProtected = new Set<string | undefined>(input.machines.map(({ name }) => name));
  const unplaced = sources.problems.filter(({ machine }) => !isProtected.has(machine)).map(becauseOf);
  const reasons = [...unplaced, ...siteReasons(nowMs, reports)];
  const roles = reports.map(({ name, receivedMs, report }) => ({
    role: report.role,
    name,
    version: report.version,
    receivedMs,
    silent: isSilent(nowMs, receivedMs),
  }));
  const spools = reports.flatMap(({ name, receivedMs, report }) =>
    report.role === 'process-server' && report.spool && !isSilent(nowMs, receivedMs)
      ? [{ ...report.spool, processServer: name }]
      : [],
  );
  return {
    atMs: nowMs,
    health: worst(reasons, machines),
    reasons,
    ...siteFigures(machines),
    spools,
    machines,
    roles,
  };
}

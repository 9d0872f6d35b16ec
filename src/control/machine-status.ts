/** One machine: what its disks have in common, what binds, what is to be expected, and who said so. */
import { bitRateText, durationText } from '../kit/figures.ts';
import { isBehind, judgeDisk, newestPointsOf, type Machinery } from './disk-status.ts';
import { forecastOf, isForeseen } from './forecast.ts';
import { because, becauseOf, type ReportedProblem, worst } from './reasons.ts';
import type { AgentReport } from './report-schemas.ts';
import { rpoActual, rpoTargetOf } from './rpo.ts';
import type { Machine, Policy, StoredResync } from './schemas.ts';
import type { Sources } from './sources.ts';
import { bindingStage, stageRemedies } from './stage.ts';
import type { Forecast, Reason, Stage, StatusReport } from './status-schemas.ts';
import { upcomingOf } from './upcoming.ts';

type MachineStatus = StatusReport['machines'][number];

/** The smallest, or the sum, only if all are known. */
function allKnown(values: readonly (number | null)[], join: (values: readonly number[]) => number): number | null {
  const those = values.filter((value) => value !== null);
  return those.length === values.length ? join(those) : null;
}
export const oldestOf = (times: readonly (number | null)[]): number | null =>
  allKnown(times, (those) => Math.min(...those));
export const sumOf = (values: readonly (number | null)[]): number | null =>
  allKnown(values, (those) => those.reduce((total, value) => total + value, 0));

const lastWords = (nowMs: number, thenMs: number): string =>
  `what it said last is ${durationText((nowMs - thenMs) / 1000)} old and may no longer be true`;

function* machineReasons(name: string, { nowMs, agent, held }: Machinery) {
  if (!agent) yield because('agent-never-seen', `no agent has reported for ${name}`);
  else if (agent.silent)
    yield because(
      'agent-silent',
      `the agent of ${name} does not report any more; ${lastWords(nowMs, agent.receivedMs)}`,
    );
  // What it says itself is nearer to the cause.
  else if (!agent.report.connected && agent.report.problems.length === 0)
    yield because('agent-disconnected', `the agent of ${name} has no process server`);
  if (held?.silent)
    yield because(
      'target-silent',
      `the target that holds ${name} does not report any more; ${lastWords(nowMs, held.receivedMs)}`,
    );
  const damaged = held?.report.damagedBlocks ?? 0;
  if (damaged > 0) yield because('damaged', `${damaged} stored blocks of ${name} failed their check`);
  const overdueMs = held?.report.flow?.scrubOverdueMs ?? null;
  if (overdueMs !== null && overdueMs <= nowMs)
    yield because(
      'scrub-overdue',
      `the check of everything stored of ${name} should have ended ${durationText((nowMs - overdueMs) / 1000)} ago`,
    );
}

/** Says nothing where the target is breached already: that is a reason of its disks. */
function* forecastReasons(of: Machinery, forecast: Forecast | null, stage: Stage | null) {
  if (forecast?.breachInSeconds === 0 || !isForeseen(of.agent?.foreseen ?? null, of.nowMs)) return;
  const target = `the RPO target of ${durationText(of.target ?? 0)}`;
  const remedy = stage === null ? undefined : `what binds: ${stage.name}; ${stageRemedies[stage.name]}`;
  const breachInSeconds = forecast?.breachInSeconds ?? null;
  if (forecast === null || breachInSeconds === null) {
    yield because('breach-foreseen', `a moment ago a breach of ${target} was foreseen`, remedy);
    return;
  }
  const { needsBytesPerSecond, hasBytesPerSecond } = forecast;
  const when = `at this churn and drain rate ${target} is breached in ${durationText(breachInSeconds)}`;
  const rates = `needs ${bitRateText(needsBytesPerSecond)}, has ${bitRateText(hasBytesPerSecond)}`;
  yield because('breach-foreseen', `${when}; ${rates}`, remedy);
}

/** What the machine's points can claim is what the weakest of its captures can. */
function consistencyOf(disks: AgentReport['disks']): MachineStatus['consistency'] {
  const claims = disks.map(({ consistency }) => consistency);
  return claims.includes('none') ? 'none' : claims.length === 0 || claims.includes(null) ? null : 'crash';
}

/** Why the agent makes no points whatever lies behind it, or null. */
function heldBy(machine: Machine, { agent, ...of }: Machinery, age: number | null): string | null {
  if (machine.paused) return 'replication is paused';
  const stopped = agent?.silent === false ? agent.report.problems.find(({ retryable }) => !retryable) : undefined;
  if (stopped) return `it stopped: ${stopped.message}`;
  return agent?.silent === true && isBehind(of, age) ? 'it does not report any more, and no points come' : null;
}

function stageOf(machine: Machine & { readonly name: string }, of: Machinery, age: number | null, sources: Sources) {
  const { nowMs, interval, agent, held } = of;
  const oldestUnprovenMs = held?.silent === false ? (held.report.flow?.oldestUnprovenMs ?? null) : null;
  return bindingStage({
    nowMs,
    intervalMs: interval === null ? null : interval * 1000,
    held: heldBy(machine, of, age),
    connected: agent?.silent === false ? agent.report.connected : null,
    processServers: sources.processServers,
    targetUnreachable: sources.targetUnreachable,
    agent: agent?.silent === false ? agent.report.flow : null,
    session: sources.sessions.get(machine.name) ?? null,
    target: held?.silent === false ? held.target : null,
    unprovenMs: oldestUnprovenMs === null ? null : nowMs - oldestUnprovenMs,
  });
}

/** What flows, by the words of who still reports. */
function flowFacts(of: Machinery, sources: Sources, name: string) {
  const flow = of.agent?.silent === false ? of.agent.report.flow : null;
  return {
    pointsInFlight: flow?.pointsInFlight ?? null,
    flow: { churn: flow?.churn?.minute ?? null, drain: flow?.drain?.minute ?? null },
    unprovenPoints: of.held?.report.flow?.unprovenPoints ?? null,
    spooled: sources.sessions.get(name)?.spool ?? null,
    next: upcomingOf({
      nowMs: of.nowMs,
      agent: of.agent?.silent === false ? of.agent.report : null,
      held: of.held?.silent === false ? of.held.report : null,
    }),
    heardMs: { agent: of.agent?.receivedMs ?? null, target: of.held?.receivedMs ?? null },
  };
}

export function judgeMachine(
  nowMs: number,
  machine: Machine & { readonly name: string },
  policy: Policy | undefined,
  asked: StoredResync | undefined,
  sources: Sources,
): MachineStatus {
  const { name } = machine;
  const target = policy ? rpoTargetOf(policy) : null;
  const interval = policy?.intervalSeconds ?? null;
  const [agent, held] = [sources.agents.get(name), sources.replicas.get(name)];
  const of: Machinery = { nowMs, target, interval, agent, held, asked };
  const newestCommittedMs = oldestOf(machine.disks.map((disk) => newestPointsOf(disk.name, held).committedMs));
  const age = rpoActual(nowMs, newestCommittedMs, held?.receivedMs ?? null);
  const lagBytes = sumOf(
    machine.disks.map((disk) => agent?.report.disks.find((seen) => seen.name === disk.name)?.lagBytes ?? null),
  );
  const stage = stageOf(machine, of, age, sources);
  const flow = agent?.silent === false ? agent.report.flow : null;
  const cutOff = sources.sessions.get(name)?.target?.reachable === false || agent?.report.connected === false;
  const forecast = machine.paused ? null : forecastOf(flow, { age, target, interval, behind: lagBytes }, cutOff);
  const problems = sources.problems.filter((problem) => problem.machine === name);
  const disks = machine.disks.map((disk) => {
    const own = problems.filter((problem) => problem.disk === disk.name).map(becauseOf);
    return judgeDisk(disk.name, of, own, { stage, forecast });
  });
  const isOfDisk = ({ disk }: ReportedProblem): boolean => machine.disks.some((one) => one.name === disk);
  const others = problems.filter((problem) => !isOfDisk(problem)).map(becauseOf);
  const paused = machine.paused ? [because('paused', `replication of ${name} is paused`)] : [];
  const reasons: Reason[] = [
    ...paused,
    ...others,
    ...machineReasons(name, of),
    ...forecastReasons(of, forecast, stage),
  ];
  return {
    name,
    policy: machine.policy,
    health: worst(reasons, disks),
    reasons,
    rpoTargetSeconds: target,
    rpoIntervalSeconds: interval,
    rpoActualSeconds: age,
    newestCommittedMs,
    newestProvenMs: oldestOf(disks.map((disk) => disk.newestProvenMs)),
    lagBytes,
    stage,
    forecast,
    ...flowFacts(of, sources, name),
    consistency: consistencyOf(agent?.report.disks ?? []),
    booted: held?.report.booted ?? null,
    replica: held?.report.replica ?? null,
    gaps: agent?.report.gaps ?? [],
    disks,
  };
}

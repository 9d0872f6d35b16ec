/** What an agent says about itself: to control (`control/schemas.ts`), and to whoever asks whether it is ready. */
import type { AgentReport } from '../agent/agent.ts';
import { logRemedy } from '../agent/log-watch.ts';
import type { AgentFlow } from '../control/flow-schemas.ts';
import type { Report } from '../control/report-schemas.ts';
import type { Readiness } from '../observe/server.ts';

export function readiness(report: AgentReport): Readiness {
  const ready = report.state === 'idle' || report.state === 'cycling' || report.state === 'opening';
  return { ready, reasons: ready ? [] : [`${report.state}: ${report.reason || 'no session yet'}`] };
}

export interface AgentFacts {
  readonly report: AgentReport;
  readonly version: string;
  readonly atMs: number;
  /** What a cut of each disk can claim. */
  readonly consistency: ReadonlyMap<string, 'crash' | 'none'>;
  /** Of the window resyncs wait for. */
  readonly timeZone: string;
  readonly resyncDone: number | null;
  /** Why the machine may still be frozen, or null (`AppConsistency.owed`). */
  readonly owed: string | null;
  /** What is wrong with the images (`source-watch.ts`). */
  readonly faults: Report['problems'];
}

type ReportedProblem = Report['problems'][number];

function problemsOf({ report, owed }: AgentFacts): ReportedProblem[] {
  const { machine, state, reason, remedy: way } = report;
  const problem = (code: string, message: string, remedy: string, retryable: boolean): ReportedProblem => ({
    code,
    message: message.slice(0, 1000),
    remedy,
    retryable,
    machine,
  });
  return [
    // That it is paused control knows by itself.
    ...(reason === '' || state === 'paused' ? [] : [problem(state, reason, way, state !== 'critical')]),
    ...(owed === null
      ? []
      : [problem('frozen', `the machine may still be frozen: ${owed}`, 'thaw it: virsh domfsthaw', true)]),
    ...report.disks.flatMap(({ disk, logFailure }) =>
      logFailure === null
        ? []
        : [{ ...problem('log-failed', `the change log failed: ${logFailure}`, logRemedy, true), disk }],
    ),
  ];
}

const whole = (ms: number | null): number | null => (ms === null ? null : Math.round(ms));

function stagesOf(stages: AgentReport['flow']['cycle']): AgentFlow['cycle'] {
  if (stages === null) return null;
  const { cutMs, sentMs, durableMs, committedMs } = stages;
  return {
    cutMs: Math.round(cutMs),
    sentMs: whole(sentMs),
    durableMs: whole(durableMs),
    committedMs: whole(committedMs),
  };
}

/** As it is, with times that are whole milliseconds. */
function flowOf({ cycle, open, retry, nextCutMs, nextAppPointMs, ...flow }: AgentReport['flow']): AgentFlow {
  return {
    ...flow,
    cycle: stagesOf(cycle),
    open: stagesOf(open),
    retry: retry === null ? null : { ...retry, atMs: Math.round(retry.atMs) },
    nextCutMs: whole(nextCutMs),
    nextAppPointMs: whole(nextAppPointMs),
  };
}

export function reportOf(facts: AgentFacts): Report {
  const { report, version, atMs, consistency, timeZone, resyncDone } = facts;
  return {
    role: 'agent',
    atMs: Math.round(atMs),
    version,
    problems: [...problemsOf(facts), ...facts.faults],
    connected: report.state === 'idle' || report.state === 'cycling' || report.state === 'paused',
    resyncDone,
    flow: flowOf(report.flow),
    gaps: [...report.gaps].flatMap(([reason, points]) => (points > 0 ? [{ reason, points }] : [])),
    disks: report.disks.map(({ disk, size, lagBytes, resync }) => ({
      name: disk,
      size,
      lagBytes,
      phase: report.state,
      resync: resync === null ? null : { ...resync, timeZone },
      consistency: consistency.get(disk) ?? null,
    })),
  };
}

/** Who said what last, and whether it may still be true. The newest word counts; a role that fell silent is known by its last one. */
import { limits } from '../limits.ts';
import type { SessionFlow, TargetFlow } from './flow-schemas.ts';
import type { Foreseen } from './forecast.ts';
import type { ReportedProblem } from './reasons.ts';
import type { AgentReport, StoredReport, TargetReport } from './report-schemas.ts';

export interface Heard<R> {
  readonly report: R;
  readonly receivedMs: number;
  readonly silent: boolean;
}

export interface Sources {
  readonly agents: ReadonlyMap<string, Heard<AgentReport> & { readonly foreseen: Foreseen | null }>;
  /** What the target heard last says about each machine, and about itself. */
  readonly replicas: ReadonlyMap<
    string,
    Heard<TargetReport['machines'][number]> & { readonly target: TargetFlow | null }
  >;
  /** By machine; of process servers that still report. */
  readonly sessions: ReadonlyMap<string, SessionFlow>;
  /** How many process servers still report, and whether one of them does not reach its target. */
  readonly processServers: number;
  readonly targetUnreachable: boolean;
  /** All problems; an agent's are about its own machine. */
  readonly problems: readonly ReportedProblem[];
}

export const isSilent = (nowMs: number, receivedMs: number): boolean =>
  nowMs - receivedMs > limits.control.reportSilentMs;

export function sourcesOf(nowMs: number, reports: readonly StoredReport[]): Sources {
  const agents = new Map<string, Heard<AgentReport> & { readonly foreseen: Foreseen | null }>();
  const replicas = new Map<string, Heard<TargetReport['machines'][number]> & { readonly target: TargetFlow | null }>();
  const sessions = new Map<string, SessionFlow>();
  const problems: ReportedProblem[] = [];
  let [processServers, targetUnreachable] = [0, false];
  for (const { name, receivedMs, report, foreseen } of [...reports].sort((a, b) => a.receivedMs - b.receivedMs)) {
    const silent = isSilent(nowMs, receivedMs);
    for (const problem of report.problems)
      problems.push(report.role === 'agent' ? { ...problem, machine: name } : problem);
    switch (report.role) {
      case 'agent':
        agents.set(name, { report, receivedMs, silent, foreseen });
        break;
      case 'target':
        for (const machine of report.machines)
          replicas.set(machine.name, { report: machine, receivedMs, silent, target: report.flow });
        break;
      case 'process-server':
        if (silent) break;
        processServers += 1;
        targetUnreachable ||= report.target?.reachable === false;
        for (const session of report.machines) sessions.set(session.machine, session);
        break;
    }
  }
  return { agents, replicas, sessions, processServers, targetUnreachable, problems };
}

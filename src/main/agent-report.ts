/** What an agent says about itself: to control (`control/schemas.ts`), and to whoever asks whether it is ready. */
import type { AgentReport } from '../agent/agent.ts';
import type { Report } from '../control/schemas.ts';
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
}

export function reportOf({ report, version, atMs, consistency, timeZone, resyncDone }: AgentFacts): Report {
  const problem = {
    code: report.state,
    message: report.reason.slice(0, 1000),
    remedy: '',
    retryable: report.state !== 'critical',
    machine: report.machine,
  };
  return {
    role: 'agent',
    atMs: Math.round(atMs),
    version,
    problems: report.reason === '' ? [] : [problem],
    connected: report.state === 'idle' || report.state === 'cycling',
    resyncDone,
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

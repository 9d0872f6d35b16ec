/** One report of all shards: to control they are one process server. */
import type { ProcessServerReport } from '../control/report-schemas.ts';
import { limits } from '../limits.ts';
import { spoolLevels } from '../process-server/spool-report.ts';

type Spool = NonNullable<ProcessServerReport['spool']>;

const problemsMax = 64;
const sum = (values: readonly number[]): number => values.reduce((all, value) => all + value, 0);

/** @param reports the newest of each shard that runs; at least one. */
export function mergedReport(reports: readonly ProcessServerReport[], first: ProcessServerReport): ProcessServerReport {
  const problems = new Map(
    reports.flatMap((report) => report.problems.map((one) => [`${one.code} ${one.machine ?? ''}`, one])),
  );
  // Of a machine that just went from one to another: what the one says that has its session.
  const machines = new Map(
    reports
      .flatMap((report) => report.machines)
      .sort((a, b) => Number(a.target?.reachable ?? false) - Number(b.target?.reachable ?? false))
      .map((one) => [one.machine, one]),
  );
  const targets = reports.flatMap(({ target }) => target ?? []);
  return {
    ...first,
    atMs: Math.max(...reports.map(({ atMs }) => atMs)),
    problems: [...problems.values()].slice(0, problemsMax),
    sessions: sum(reports.map(({ sessions }) => sessions)),
    inFlightBytes: sum(reports.map(({ inFlightBytes }) => inFlightBytes)),
    machines: [...machines.values()].slice(0, limits.control.sessionsPerReportMax),
    spool: mergedSpool(reports.flatMap(({ spool }) => spool ?? [])),
    target: targets.find(({ reachable }) => reachable) ?? targets[0] ?? null,
  };
}

function mergedSpool(spools: readonly Spool[]): Spool | null {
  if (spools.length === 0) return null;
  const level = spoolLevels.findLast((one) => spools.some((spool) => spool.level === one)) ?? 'ok';
  return {
    level,
    usedBytes: sum(spools.map(({ usedBytes }) => usedBytes)),
    limitBytes: sum(spools.map(({ limitBytes }) => limitBytes)),
  };
}

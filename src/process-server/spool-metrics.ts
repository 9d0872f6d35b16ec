/** What a process server exports of its spool and of what its sessions wait for (`spool-report.ts`, `waits.ts`). */
import type { Clock } from '../kit/clock.ts';
import type { MetricRegistry, Sample } from '../observe/registry.ts';
import type { ProcessServer } from './server.ts';
import { spoolLevels, type MachineSpoolReport } from './spool-report.ts';
import type { WaitsFor } from './waits.ts';

const gauge = <const L extends readonly string[]>(name: string, help: string, labels: L) =>
  ({ name: `tidemark_process_server_${name}`, help, type: 'gauge', labels }) as const;

const used = gauge('spool_used_bytes', 'Sealed bytes in the spool. Absent without a spool, as are the next two.', []);
const limit = gauge('spool_limit_bytes', 'What the spool may hold, or its file system allows, whichever is less.', []);
const level = gauge(
  'spool_level',
  '1 for how full the spool is for the machine that is worst off, 0 for the other levels: above 30 % free, 30, 25 (both warn), 20 (agents are throttled), nothing.',
  ['state'],
);
const spooled = gauge('spooled_bytes', 'Sealed bytes of the machine in the spool.', ['machine']);
const waiting = gauge('points_waiting', 'Points of the machine that the target has not answered.', ['machine']);
const oldest = gauge('oldest_point_waiting_cut_timestamp_seconds', 'Cut time of the oldest of them.', ['machine']);
const connected = gauge(
  'target_connected',
  '0 while something of the machine waits for its target, which is away; 1 while it drains.',
  ['machine'],
);
const failed = gauge('spool_write_failed', '1 while the newest write to the spool failed.', ['machine']);
const headWait = gauge(
  'head_wait_ratio',
  'Share of the last ten seconds in which what is next to leave for the target waited for: agent (nothing was there), pool, target, spool, throttle.',
  ['machine', 'stage'],
);

const stages = ['agent', 'pool', 'target', 'spool', 'throttle'] as const satisfies readonly WaitsFor[];

export function registerSpoolSeries(registry: MetricRegistry, server: ProcessServer, clock: Clock): void {
  const whole = (value: (report: ReturnType<ProcessServer['spoolReport']>) => number) => (): Sample<never>[] => {
    const report = server.spoolReport();
    return report.limitBytes > 0 ? [{ labels: {}, value: value(report) }] : [];
  };
  const each = (value: (report: MachineSpoolReport) => number | undefined) => (): Sample<'machine'>[] =>
    server.spoolReport().machines.map((report) => ({ labels: { machine: report.machine }, value: value(report) }));
  registry.sampled(
    used,
    whole(({ usedBytes }) => usedBytes),
  );
  registry.sampled(
    limit,
    whole(({ limitBytes }) => limitBytes),
  );
  registry.sampled(level, () => {
    const report = server.spoolReport();
    if (report.limitBytes === 0) return [];
    return spoolLevels.map((state) => ({ labels: { state }, value: state === report.level ? 1 : 0 }));
  });
  registry.sampled(
    spooled,
    each(({ bytes }) => bytes),
  );
  registry.sampled(
    waiting,
    each(({ points }) => points),
  );
  registry.sampled(
    oldest,
    each(({ oldestMs }) => (oldestMs === null ? undefined : (clock.wallMs() - oldestMs) / 1000)),
  );
  registry.sampled(
    connected,
    each(({ targetSinceMs }) => (targetSinceMs === null ? 0 : 1)),
  );
  registry.sampled(
    failed,
    each(({ failure }) => (failure === null ? 0 : 1)),
  );
  registry.sampled(headWait, () =>
    server.sessions.flatMap(({ machine }) => {
      const waits = server.waits(machine);
      const total = waits === null ? 0 : stages.reduce((sum, stage) => sum + waits[stage], 0);
      if (waits === null || total === 0) return [];
      return stages.map((stage) => ({ labels: { machine, stage }, value: waits[stage] / total }));
    }),
  );
}

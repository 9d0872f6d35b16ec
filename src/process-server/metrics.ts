/** The series of a process server, sampled from plain counters when somebody scrapes. */
import { providers } from '../kernels/providers.ts';
import { limits } from '../limits.ts';
import type { MetricRegistry, SeriesDeclaration } from '../observe/registry.ts';
import type { SessionCounters } from './counters.ts';
import type { ProcessServer } from './server.ts';

const perMachine = <const T extends 'counter' | 'gauge'>(name: string, type: T, help: string) =>
  ({ name: `tidemark_process_server_${name}`, type, help, labels: ['machine'] }) as const;

/** Counters that share a series, or that no one series shows. */
type NotAlone =
  | 'stageMs'
  | 'agentBytesIn'
  | 'agentBytesOut'
  | 'targetBytesIn'
  | 'targetBytesOut'
  /** Points that were asked for: committed, rejected, merged and waiting ones. */
  | 'points'
  /** Part of `pool_tasks`. */
  | 'sealing';

/** What is shown of each counter, beside those of the connections: a new one does not compile without its series. */
const ofMachines: Readonly<Record<Exclude<keyof SessionCounters, NotAlone>, SeriesDeclaration<'machine'>>> = {
  batchBytesIn: perMachine('received_bytes_total', 'counter', 'Bytes of change batches taken from agents.'),
  plainBytes: perMachine('plain_bytes_total', 'counter', 'Bytes of pages before compression.'),
  storedBytes: perMachine('stored_bytes_total', 'counter', 'Bytes of pages after compression and sealing.'),
  sealedBytesOut: perMachine('sent_bytes_total', 'counter', 'Bytes of sealed batches sent to the target.'),
  batches: perMachine('batches_total', 'counter', 'Batches taken from agents.'),
  batchesDurable: perMachine('batches_durable_total', 'counter', 'Batches the target made durable.'),
  records: perMachine('records_total', 'counter', 'Records sealed.'),
  zeroRecords: perMachine('zero_records_total', 'counter', 'All-zero blocks, which travel without payload.'),
  leafCheckedRecords: perMachine(
    'leaf_checked_records_total',
    'counter',
    'Whole-block records checked against their leaf.',
  ),
  checksums: perMachine('checksums_compared_total', 'counter', 'Checksums of the source compared with the target’s.'),
  checksumsDiffering: perMachine('checksums_differing_total', 'counter', 'Compared checksums that differed.'),
  checksumBytesIn: perMachine('checksum_bytes_total', 'counter', 'Bytes of checksums taken from agents.'),
  compareMs: perMachine('compare_seconds_total', 'counter', 'Time workers compared checksums.'),
  pointsCommitted: perMachine('points_committed_total', 'counter', 'Recovery points the target committed.'),
  pointsRejected: perMachine('points_rejected_total', 'counter', 'Recovery points the target rejected.'),
  inFlightBytes: perMachine('in_flight_bytes', 'gauge', 'Bytes taken from the agent and neither durable nor spooled.'),
  pointsMerged: perMachine(
    'points_merged_total',
    'counter',
    'Points left out because a later one waited for the target, too.',
  ),
  spooledBytes: perMachine('spool_written_bytes_total', 'counter', 'Bytes of frames written to the spool.'),
  drainedBytes: perMachine(
    'spool_drained_bytes_total',
    'counter',
    'Bytes of sealed batches sent to the target from the spool.',
  ),
  targetLosses: perMachine('target_losses_total', 'counter', 'Times the target was lost and the session went on.'),
  spoolsDropped: perMachine('spools_dropped_total', 'counter', 'Times what was spooled was of no use any more.'),
};

const processServerSeries = {
  stageSeconds: {
    name: 'tidemark_process_server_stage_seconds_total',
    type: 'counter',
    help: 'Time batches spent per stage, summed over batches.',
    labels: ['machine', 'stage'],
  },
  connectionBytes: {
    name: 'tidemark_process_server_connection_bytes_total',
    type: 'counter',
    help: 'Everything that went over the connections, TLS included, by the role at the other end.',
    labels: ['machine', 'role', 'direction'],
  },
  sessions: {
    name: 'tidemark_process_server_sessions',
    type: 'gauge',
    help: 'Sessions by state.',
    labels: ['state'],
  },
  ended: {
    name: 'tidemark_process_server_sessions_ended_total',
    type: 'counter',
    help: 'Sessions that ended, by reason.',
    labels: ['reason'],
  },
  poolTasks: {
    name: 'tidemark_process_server_pool_tasks',
    type: 'gauge',
    help: 'Batches and ranges of checksums with the worker pool or waiting for it.',
    labels: [],
  },
  grantedBytes: {
    name: 'tidemark_process_server_granted_bytes',
    type: 'gauge',
    help: 'Bytes granted to all agents together, in use or not.',
    labels: [],
  },
  windowLimitBytes: {
    name: 'tidemark_process_server_window_limit_bytes',
    type: 'gauge',
    help: 'What the bytes granted to all agents together never exceed.',
    labels: [],
  },
  poolTasksLimit: {
    name: 'tidemark_process_server_pool_tasks_limit',
    type: 'gauge',
    help: 'Tasks the worker pool takes; more of them wait in their sessions.',
    labels: [],
  },
  targetReachable: {
    name: 'tidemark_process_server_target_reachable',
    type: 'gauge',
    help: '0 while the newest attempt to reach the target failed.',
    labels: [],
  },
  kernelFallback: {
    name: 'tidemark_kernel_fallback',
    type: 'gauge',
    help: '1 where a kernel runs on a slower provider than preferred.',
    labels: ['kernel', 'provider'],
  },
} as const;

const msPerSecond = 1000;

const connections = [
  ['agent', 'in', 'agentBytesIn'],
  ['agent', 'out', 'agentBytesOut'],
  ['target', 'in', 'targetBytesIn'],
  ['target', 'out', 'targetBytesOut'],
] as const;

/** Registers the series above over `server`; once per registry. */
export function registerProcessServerSeries(registry: MetricRegistry, server: ProcessServer): void {
  const series = processServerSeries;
  for (const [field, declaration] of Object.entries(ofMachines) as [
    keyof typeof ofMachines,
    SeriesDeclaration<'machine'>,
  ][])
    registry.sampled(declaration, () =>
      [...server.totals()].map(([machine, { [field]: value }]) => ({
        labels: { machine },
        value: field === 'compareMs' ? value / msPerSecond : value,
      })),
    );
  registry.sampled(series.stageSeconds, () =>
    [...server.totals()].flatMap(([machine, { stageMs }]) =>
      Object.entries(stageMs).map(([stage, ms]) => ({ labels: { machine, stage }, value: ms / msPerSecond })),
    ),
  );
  registry.sampled(series.connectionBytes, () =>
    [...server.totals()].flatMap(([machine, counters]) =>
      connections.map(([role, direction, counter]) => ({
        labels: { machine, role, direction },
        value: counters[counter],
      })),
    ),
  );
  registry.sampled(series.sessions, () => {
    const byState = new Map<string, number>();
    for (const { phase } of server.sessions) byState.set(phase, (byState.get(phase) ?? 0) + 1);
    return [...byState].map(([state, value]) => ({ labels: { state }, value }));
  });
  registry.sampled(series.ended, () =>
    [...server.endedByReason].map(([reason, value]) => ({ labels: { reason }, value })),
  );
  registry.sampled(series.poolTasks, () => [{ labels: {}, value: server.poolPending }]);
  registry.sampled(series.grantedBytes, () => [{ labels: {}, value: server.grantedBytes }]);
  registry.sampled(series.windowLimitBytes, () => [{ labels: {}, value: server.windowLimitBytes }]);
  registry.sampled(series.poolTasksLimit, () => [{ labels: {}, value: limits.processServer.poolQueueTasksMax }]);
  registry.sampled(series.targetReachable, () => [{ labels: {}, value: server.targetFailure ? 0 : 1 }]);
  registry.sampled(series.kernelFallback, () =>
    providers().map(({ kernel, provider, fallback }) => ({
      labels: { kernel, provider: labelOf(provider) },
      value: fallback ? 1 : 0,
    })),
  );
}

/** A package's scope and spaces are not part of a label value. */
function labelOf(provider: string): string {
  return provider.replace(/^@/, '').replace(/[^A-Za-z0-9_.:-]/g, '-');
}

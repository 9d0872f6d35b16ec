/** What an agent exports, sampled from its report at each scrape. */
import { limits } from '../limits.ts';
import type { MetricRegistry, SeriesDeclaration } from '../observe/registry.ts';
import type { Agent } from './agent.ts';
import type { AgentCounters } from './counters.ts';

const counter = (name: string, help: string) =>
  ({ name: `tidemark_agent_${name}_total`, help, type: 'counter', labels: [] }) as const satisfies SeriesDeclaration;

/** Counters of the whole agent: a new one does not compile without its series. */
const counters: Readonly<
  Record<Exclude<keyof AgentCounters, 'stageMs' | 'writersHeldMsMax'>, SeriesDeclaration<never>>
> = {
  blocksHashed: counter('blocks_hashed', 'Blocks read and hashed.'),
  blocksSurveyed: counter('blocks_surveyed', 'Blocks hashed by surveys, to be compared with the replica.'),
  blocksUnchanged: counter('blocks_unchanged', 'Blocks whose leaf was what the target has; not sent.'),
  batchesSent: counter('batches_sent', 'Batches handed to the connection.'),
  batchesDurable: counter('batches_durable', 'Batches the target said are durable.'),
  payloadBytesSent: counter('payload_sent_bytes', 'Pages sent, before compression.'),
  payloadBytesResent: counter(
    'payload_resent_bytes',
    'Pages sent again because their session ended before they were durable.',
  ),
  frameBytesSent: counter('frames_sent_bytes', 'Batch frames sent, headers included.'),
  sessions: counter('sessions', 'Sessions opened with a process server.'),
  pointsCommitted: counter('points_committed', 'Recovery points committed.'),
  pointsRejected: counter('points_rejected', 'Recovery points the target rejected.'),
  cutsGivenUp: counter('cuts_given_up', 'Cuts given up; the sets returned to current.'),
};

const heldSeconds = {
  name: 'tidemark_agent_writers_held_max_seconds',
  help: 'Longest time a cut held writers.',
  type: 'gauge',
  labels: [],
} as const satisfies SeriesDeclaration;
const lagBytes = {
  name: 'tidemark_disk_lag_bytes',
  help: 'Changed and not yet in a committed point, by page masks.',
  type: 'gauge',
  labels: ['machine', 'disk'],
} as const;
const logFailed = {
  name: 'tidemark_agent_change_log_failed',
  help: '1 while the change log of a disk can not be written: a crash then costs a comparison by checksum.',
  type: 'gauge',
  labels: ['machine', 'disk'],
} as const;
const newestCut = {
  name: 'tidemark_agent_newest_point_cut_timestamp_seconds',
  help: 'Cut time of the newest point this agent had committed since it started.',
  type: 'gauge',
  labels: ['machine'],
} as const;

const states = ['connecting', 'opening', 'idle', 'cycling', 'paused', 'stopped', 'critical'] as const;
const agentState = {
  name: 'tidemark_agent_state',
  help: '1 for what the agent does now, 0 for the rest. Critical: it stopped for something that has to be mended.',
  type: 'gauge',
  labels: ['machine', 'state'],
} as const;

const pointsInFlight = {
  name: 'tidemark_agent_points_in_flight',
  help: 'Points cut and sent that wait for their answer.',
  type: 'gauge',
  labels: ['machine'],
} as const;
const nextAttempt = {
  name: 'tidemark_agent_next_attempt_timestamp_seconds',
  help: 'When the agent tries again after a failure, by the class of the pause: quick ones first, then those of the table, or after a refusal. Absent while it does not wait for that.',
  type: 'gauge',
  labels: ['machine', 'state'],
} as const;

const stages = ['read', 'hash', 'send', 'commit'] as const;
const stageSeconds = {
  name: 'tidemark_agent_stage_seconds_total',
  help: 'Time by stage, summed: waiting for the disk, hashing, handing batches over, and while a POINT waited for its answer.',
  type: 'counter',
  labels: ['stage'],
} as const;
const inFlightBytes = {
  name: 'tidemark_agent_in_flight_bytes',
  help: 'Pages sent and not known to be durable.',
  type: 'gauge',
  labels: [],
} as const;
const inFlightLimitBytes = {
  name: 'tidemark_agent_in_flight_limit_bytes',
  help: 'The largest window a process server grants.',
  type: 'gauge',
  labels: [],
} as const;

const gapsTotal = {
  name: 'tidemark_gaps_total',
  help: 'Points that were due and not made.',
  type: 'counter',
  labels: ['reason'],
} as const;

const resync = {
  name: 'tidemark_disk_resync',
  help: '1 while a disk is compared with its replica by checksum, with the reason and the stage.',
  type: 'gauge',
  labels: ['machine', 'disk', 'reason', 'stage'],
} as const;
const resyncBytes = {
  done: {
    name: 'tidemark_disk_resync_done_bytes',
    help: 'How much of the disk the present stage of its resync did.',
    type: 'gauge',
    labels: ['machine', 'disk'],
  },
  total: {
    name: 'tidemark_disk_resync_goal_bytes',
    help: 'How much of the disk the present stage of its resync has to do.',
    type: 'gauge',
    labels: ['machine', 'disk'],
  },
} as const;
const resyncOpens = {
  name: 'tidemark_disk_resync_opens_timestamp_seconds',
  help: 'When the window opens for which a resync waits.',
  type: 'gauge',
  labels: ['machine', 'disk'],
} as const;

/** Of the disks that are compared with their replicas; the others have no such series. */
function registerResyncSeries(registry: MetricRegistry, agent: Agent): void {
  const running = () => {
    const { machine, disks } = agent.report();
    return disks.flatMap((disk) => (disk.resync ? [{ labels: { machine, disk: disk.disk }, ...disk.resync }] : []));
  };
  registry.sampled(resync, () =>
    running().map(({ labels, reason, phase }) => ({ labels: { ...labels, reason, stage: phase }, value: 1 })),
  );
  registry.sampled(resyncBytes.done, () => running().map(({ labels, doneBytes }) => ({ labels, value: doneBytes })));
  registry.sampled(resyncBytes.total, () => running().map(({ labels, totalBytes }) => ({ labels, value: totalBytes })));
  registry.sampled(resyncOpens, () =>
    running().map(({ labels, opensAtMs }) => ({ labels, value: opensAtMs === null ? undefined : opensAtMs / 1000 })),
  );
}

export function registerAgentSeries(registry: MetricRegistry, agent: Agent): void {
  for (const [field, declaration] of Object.entries(counters) as [keyof typeof counters, SeriesDeclaration<never>][])
    registry.sampled(declaration, () => [{ labels: {}, value: agent.report().counters[field] }]);
  registry.sampled(heldSeconds, () => [{ labels: {}, value: agent.report().counters.writersHeldMsMax / 1000 }]);
  registry.sampled(stageSeconds, () =>
    stages.map((stage) => ({ labels: { stage }, value: agent.report().counters.stageMs[stage] / 1000 })),
  );
  registry.sampled(gapsTotal, () => [...agent.report().gaps].map(([reason, value]) => ({ labels: { reason }, value })));
  registry.sampled(inFlightBytes, () => [{ labels: {}, value: agent.report().inFlightBytes }]);
  registry.sampled(inFlightLimitBytes, () => [{ labels: {}, value: limits.processServer.sessionWindowBytes }]);
  registry.sampled(lagBytes, () => {
    const { machine, disks } = agent.report();
    return disks.map(({ disk, lagBytes: value }) => ({ labels: { machine, disk }, value: value ?? undefined }));
  });
  registry.sampled(logFailed, () => {
    const { machine, disks } = agent.report();
    return disks.map(({ disk, logFailure }) => ({ labels: { machine, disk }, value: logFailure === null ? 0 : 1 }));
  });
  registry.sampled(agentState, () => {
    const { machine, state: now } = agent.report();
    return states.map((state) => ({ labels: { machine, state }, value: state === now ? 1 : 0 }));
  });
  registry.sampled(pointsInFlight, () => {
    const { machine, flow } = agent.report();
    return [{ labels: { machine }, value: flow.pointsInFlight }];
  });
  registry.sampled(nextAttempt, () => {
    const { machine, flow } = agent.report();
    return flow.retry ? [{ labels: { machine, state: flow.retry.class }, value: flow.retry.atMs / 1000 }] : [];
  });
  registerResyncSeries(registry, agent);
  registry.sampled(newestCut, () => {
    const { machine, lastPoint } = agent.report();
    return [{ labels: { machine }, value: lastPoint === null ? undefined : lastPoint.cutTimeMs / 1000 }];
  });
}

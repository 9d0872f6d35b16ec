/** What a target exports, sampled from its counters and stores at each scrape. */
import { limits } from '../limits.ts';
import type { MetricRegistry, Sample, SeriesDeclaration } from '../observe/registry.ts';
import type { SpaceUse } from '../store/machine-fold.ts';
import type { MachineStore } from '../store/machine-store.ts';
import { longestSpacingMs } from '../store/points-kept.ts';
import type { TargetCounters } from './counters.ts';
import type { Scrubber } from './scrubber.ts';
import type { Target } from './target.ts';

const counter = (name: string, help: string) =>
  ({ name: `tidemark_target_${name}_total`, help, type: 'counter', labels: [] }) as const satisfies SeriesDeclaration;

/** A new counter does not compile without its series. */
const counters: Readonly<Record<Exclude<keyof TargetCounters, 'stageMs' | 'queuedBytes'>, SeriesDeclaration<never>>> = {
  sealedBytesIn: counter('sealed_received_bytes', 'Sealed batches received, rows included.'),
  plainBytesIn: counter('plain_bytes', 'Bytes of pages in them before compression.'),
  recordsIn: counter('records', 'Records received.'),
  batchesDurable: counter('batches_durable', 'Batches made durable and indexed.'),
  pointsCommitted: counter('points_committed', 'Recovery points committed.'),
  pointsRejected: counter('points_rejected', 'Recovery points rejected.'),
  pointsProven: counter('points_proven', 'Recovery points proven from stored bytes.'),
  blocksProven: counter('blocks_proven', 'Blocks rebuilt from stored bytes and matched to their leaf.'),
  integrityErrors: counter('integrity_errors', 'Blocks whose stored bytes failed a check.'),
  scrubbedBytes: counter('scrubbed_bytes', 'Stored bytes read and checked again in the background.'),
  scrubDamage: counter('scrub_damaged_blocks', 'Versions of blocks that were found damaged in doing so.'),
  pointsRetired: counter('points_retired', 'Recovery points no longer kept.'),
  recordsFolded: counter('records_folded', 'Records no kept point reads, taken out of the index.'),
  bytesMoved: counter('moved_bytes', 'Live records copied out of segments with little left in them.'),
  bytesRemoved: counter('removed_bytes', 'Segments removed.'),
  refused: counter('sessions_refused', 'Sessions ended for breaking the protocol or lacking authority.'),
  staleRefused: counter(
    'stale_refused',
    'Sessions of process servers that no longer had the machine, refused at their HELLO or at what they sent.',
  ),
  storesFailed: counter('stores_failed', 'Stores closed and opened again because their index could not be written.'),
};

const perMachine = (name: string, help: string) =>
  ({ name: `tidemark_${name}`, help, type: 'gauge', labels: ['machine'] }) as const;

const newestCommitted = perMachine(
  'newest_committed_point_cut_timestamp_seconds',
  'Cut time of the newest committed point.',
);
const newestProven = perMachine('newest_proven_point_cut_timestamp_seconds', 'Cut time of the newest proven point.');
const points = perMachine('points', 'Recovery points kept.');
const oldest = perMachine('oldest_point_cut_timestamp_seconds', 'Cut time of the oldest point that is kept.');
const spacing = perMachine(
  'points_longest_spacing_seconds',
  'Longest time between the cuts of two recovery points that are kept one after the other.',
);
const pinned = perMachine('points_pinned', 'Recovery points kept whatever the policy says.');
const startedPoint = perMachine(
  'newest_started_point_timestamp_seconds',
  'When a point was last started and answered: the last proven recovery. Absent before the first.',
);
const startSeconds = perMachine('newest_started_point_seconds', 'How long that took, from the command to the answer.');
const full = perMachine('target_full', '1 while there is no space for content and acknowledging has stopped.');
const damagedPoints = perMachine(
  'points_damaged',
  'Recovery points kept of which stored bytes failed a check and are not healed.',
);
const unproven = perMachine(
  'points_unproven',
  'Recovery points kept that are committed and not proven yet: the backlog of proof.',
);
const repairs = perMachine('target_blocks_to_repair', 'Blocks that are asked of the source again.');
const freeBytes = {
  name: 'tidemark_target_free_bytes',
  help: 'Space left on the file system of the target.',
  type: 'gauge',
  labels: [],
} as const;
const scrubCoverage = perMachine(
  'scrub_coverage_ratio',
  'Share of the stored bytes that were checked in the pass over everything that is under way, or in the one before.',
);
const scrubbedSince = perMachine(
  'scrub_oldest_check_timestamp_seconds',
  'When the last whole pass began: everything that was stored by then was checked since. Absent before the first.',
);
const storedBytes = perMachine('target_stored_bytes', 'Segment files, as of the last fold.');
const liveBytes = perMachine('target_live_bytes', 'Records in them that some kept point reads, as of the last fold.');
const backlogBytes = perMachine('target_fold_backlog_bytes', 'What compaction would give back, as of the last fold.');
const stages = ['batch', 'commit', 'proof'] as const;
const stageSeconds = {
  name: 'tidemark_target_stage_seconds_total',
  help: 'Time by stage, summed: batch from arrival to durable, commit from POINT to its answer, proof per point.',
  type: 'counter',
  labels: ['stage'],
} as const;
const queuedBytes = {
  name: 'tidemark_target_queued_bytes',
  help: 'Sealed bytes received and not yet durable.',
  type: 'gauge',
  labels: [],
} as const;
const queuedLimitBytes = {
  name: 'tidemark_target_queued_limit_bytes',
  help: 'What the sessions open now may have outstanding together.',
  type: 'gauge',
  labels: [],
} as const;
const sessions = {
  name: 'tidemark_target_sessions',
  help: 'Sessions open now, one per machine.',
  type: 'gauge',
  labels: [],
} as const;

/** Cut time in milliseconds of the newest point, or of the newest proven one; undefined when there is none. */
function newestCutMs(store: MachineStore, provenOnly: boolean): number | undefined {
  const view = store.points;
  return view.points.findLast(({ point }) => !provenOnly || view.stateOf(point) === 'proven')?.cutTimeMs;
}

const seconds = (ms: number | undefined): number | undefined => (ms === undefined ? undefined : ms / 1000);

function registerScrubSeries(registry: MetricRegistry, target: Target): void {
  const scrubs = (value: (scrubber: Scrubber) => number | undefined) => (): Sample<'machine'>[] =>
    [...target.scrubbers()].map(([machine, scrubber]) => ({ labels: { machine }, value: value(scrubber) }));
  registry.sampled(
    scrubCoverage,
    scrubs(({ coverage }) => coverage),
  );
  registry.sampled(
    scrubbedSince,
    scrubs(({ checkedSinceMs }) => seconds(checkedSinceMs)),
  );
}

/** What the last fold of each machine found. */
function registerSpaceSeries(registry: MetricRegistry, target: Target): void {
  const used = (value: (use: SpaceUse) => number) => (): Sample<'machine'>[] =>
    [...target.folders()].map(([machine, { use }]) => ({ labels: { machine }, value: use ? value(use) : undefined }));
  registry.sampled(
    storedBytes,
    used(({ stored }) => stored),
  );
  registry.sampled(
    liveBytes,
    used(({ live }) => live),
  );
  registry.sampled(
    backlogBytes,
    used(({ backlog }) => backlog),
  );
}

/** What of each machine is not as it should be. */
function registerTroubleSeries(registry: MetricRegistry, each: OfStores): void {
  registry.sampled(
    full,
    each((store) => (store.full ? 1 : 0)),
  );
  registry.sampled(
    damagedPoints,
    each(({ points: view }) => view.kept.filter(({ point }) => view.stateOf(point) === 'damaged').length),
  );
  registry.sampled(
    unproven,
    each((store) => store.unprovenPoints().length),
  );
  registry.sampled(
    repairs,
    each((store) => store.disks.reduce((sum, disk) => sum + disk.blocksToRepair().length, 0)),
  );
}

type OfStores = (value: (store: MachineStore) => number | undefined) => () => Sample<'machine'>[];

/** @param free bytes left for the target's directory. */
export function registerTargetSeries(registry: MetricRegistry, target: Target, free: () => Promise<number>): void {
  for (const [field, declaration] of Object.entries(counters) as [keyof typeof counters, SeriesDeclaration<never>][])
    registry.sampled(declaration, () => [{ labels: {}, value: target.counters[field] }]);
  const each: OfStores = (value) => () =>
    [...target.stores()].map(([machine, store]) => ({ labels: { machine }, value: value(store) }));
  registry.sampled(
    newestCommitted,
    each((store) => seconds(newestCutMs(store, false))),
  );
  registry.sampled(
    newestProven,
    each((store) => seconds(newestCutMs(store, true))),
  );
  registry.sampled(
    points,
    each((store) => store.points.kept.length),
  );
  registry.sampled(
    oldest,
    each((store) => seconds(store.points.kept[0]?.cutTimeMs)),
  );
  registry.sampled(
    spacing,
    each((store) => seconds(longestSpacingMs(store.points.kept))),
  );
  registry.sampled(
    pinned,
    each(({ points: view }) => view.kept.filter(({ point }) => view.isPinned(point)).length),
  );
  registry.sampled(
    startedPoint,
    each((store) => seconds(store.points.newestBooted?.atMs)),
  );
  registry.sampled(
    startSeconds,
    each((store) => store.points.newestBooted?.seconds),
  );
  registerTroubleSeries(registry, each);
  registerScrubSeries(registry, target);
  registerSpaceSeries(registry, target);
  registry.sampled(stageSeconds, () =>
    stages.map((stage) => ({ labels: { stage }, value: target.counters.stageMs[stage] / 1000 })),
  );
  registry.sampled(queuedBytes, () => [{ labels: {}, value: target.counters.queuedBytes }]);
  registry.sampled(queuedLimitBytes, () => [
    { labels: {}, value: target.sessions() * limits.target.sessionWindowBytes },
  ]);
  registry.sampled(sessions, () => [{ labels: {}, value: target.sessions() }]);
  const bytesLeft = registry.asked(free);
  registry.sampled(freeBytes, () => [{ labels: {}, value: bytesLeft() }]);
}

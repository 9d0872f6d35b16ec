/** Bounds of the agent (`limits.ts`). */
import { GiB, KiB, MiB } from '../kit/sizes.ts';

export const agent = {
  /** Payload of one batch: half of what the protocol allows keeps every message below the size at which memory is mapped afresh. */
  batchPayloadBytes: 512 * KiB,
  /** A round smaller than this is made the last one, under a cut. */
  lastRoundBytes: 32 * MiB,
  roundsMax: 16,
  /** Quick tries after a failure: their first and longest pause, and how long they go on; then the longer pauses of the configuration. */
  reconnectBaseMs: 200,
  reconnectMaxMs: 10_000,
  reconnectQuicklyMs: 60_000,
  retryMinutesDefault: [1, 2, 4, 8, 10, 30],
  retryMinutesMax: 32,
  /** A session that stayed open so long was a success, also if no point came of it. */
  sessionGoodMs: 60_000,
  /** After a refusal that trying again does not mend. */
  criticalRetryMs: 300_000,
  /** How often replication that an operator paused looks whether it may go on. */
  holdPollMs: 1000,
  /** What the survey reads in one piece, and what it or an initial replication makes durable at a time. */
  surveyPieceBytes: 32 * MiB,
  /** A resync compares and sends what differs of so much, in whole nodes, while threads hash as much again. */
  resyncStretchBytes: 256 * MiB,
  checkpointBytes: 4 * GiB,
  checkpointMs: 5_000,
  /** Threads that hash a disk: more than these outrun most disks. */
  hashThreadsMax: 4,
  /** After the last piece the survey's threads end. */
  hashThreadIdleMs: 10_000,
  /** A resync that waits for its window looks at least so often whether that was changed. */
  resyncWindowPollMs: 30_000,
  /** Between two looks whether a disk has its change log; below `capture.logRetryBaseMs` / 2, so that no failure passes unseen. */
  logWatchMs: 250,
  /** Answers that are always late are waited for, all together, once per so many points for each that waits: what was sent is forgotten then. */
  pointsPerWait: 32,
  /** Of batches in flight: block numbers kept, 4 bytes each. */
  flightBlocksMax: 1024 * KiB,
  /** Rates are means over these times, counted in buckets. */
  flowMinuteMs: 60_000,
  flowQuarterHourMs: 900_000,
  flowBucketMs: 5_000,
  /** What stages waited is told of the last so many. */
  flowWaitsMs: 10_000,
  /** Gaps kept until they are told; more are merged. */
  gapsKeptMax: 64,
  appRetryMs: 60_000,
  /** Between SIGTERM and SIGKILL of a hook that is not let end by itself. */
  hookGraceMs: 2_000,
  guestAgentLineBytesMax: 64 * KiB,
  /** Pauses between tries to thaw, or to run the post hook. */
  settleBaseMs: 1_000,
  settleMaxMs: 30_000,
  /** How long an agent that stops tries to thaw. */
  settleOnStopMs: 4_000,
  /** Under a ceiling of processor time: how much background work goes on between two looks at what was used. */
  paceEveryBytes: 256 * KiB,
  /** What can be saved up or owed of it, and so the longest pause. */
  paceBurstMs: 500,
  /** Under a ceiling of memory, as measured: the runtime with its code and what waits for its garbage collector, batches and read-ahead. */
  memoryRuntimeBytes: 192 * MiB,
  memoryPerHashThreadBytes: 32 * MiB,
  /** Change log and leaf nodes of 1 TiB, half of it dirty. */
  memoryPerDiskBytes: 24 * MiB,
  copyBeforeWriteMemoryBytesMin: 4 * MiB,
} as const;

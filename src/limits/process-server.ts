/** Bounds of the process server (`limits.ts`). */
import { KiB, MiB } from '../kit/sizes.ts';

export const processServer = {
  /** Plain bytes granted to one agent and not yet durable at the target. */
  sessionWindowBytes: 16 * MiB,
  /** A session always gets this much, so that one batch of the largest size can travel. */
  sessionWindowBytesMin: 2 * MiB,
  /** Everything in flight in the process, all sessions together. */
  inFlightBytesMax: 512 * MiB,
  /** Up to so much in flight windows grow freely; above it only while the pool has a thread to spare. */
  inFlightBytesFree: 128 * MiB,
  poolQueueTasksMax: 256,
  /** Batches of one session with the pool at a time, so that none crowds out the others. */
  sessionTasksMax: 8,
  /** Control frames of one session waiting for the target; above it nothing more is read from the agent. */
  controlQueueBytesMax: 1 * MiB,
  /** Frames waiting for one agent; above it nothing more is read from the target. */
  returnQueueBytesMax: 8 * MiB,
  /** Machines whose counters are kept after their session ended. */
  machinesRememberedMax: 4096,
  /** Checksums asked of targets or being compared, both sides' together, all sessions; further questions wait their turn. */
  comparisonBytesMax: 128 * MiB,
  /** Between tries to reach a target again, while the session with the agent goes on. */
  targetRetryBaseMs: 200,
  targetRetryMaxMs: 10_000,
  /** How long a target may say nothing while it opens the disks of a session again; reading a large replica takes it a while. */
  reopenMs: 60_000,
  /** How long the head of a session waits for its target before what is kept goes to the spool. */
  spoolAfterMs: 1_000,
  /** How long an agent that is out of credit waits for its oldest batch to be durable before the same happens. */
  spoolUnansweredMs: 3_000,
  /** When less than this of the spool is not sent, nothing more is written to it. */
  spoolTailBytes: 4 * MiB,
  /** Of one file of the spool; the last entry may lie across. */
  spoolFileBytes: 64 * MiB,
  /** Frames sent from the spool of one machine that are not answered. */
  spoolFlightsMax: 1_024,
  /** What is free of the spool when it warns for the first and for the second time, and when agents are throttled, as a share of all. */
  spoolWarnFreeFirst: 0.3,
  spoolWarnFreeSecond: 0.25,
  spoolThrottleFree: 0.2,
  /** A throttled agent gets at least so much credit per second: one batch of the largest size. */
  spoolTrickleBytes: 1 * MiB + 256 * KiB,
  /** After a failed write of the spool. */
  spoolRetryMs: 1_000,
  /** Between looks at what its file system has free. */
  spoolLookMs: 5_000,
  /** Credit of an agent that has a limit is given in parts of so much time, but not in crumbs; so much of it may lie unused with the agent, and always a smallest window. */
  creditPartMs: 50,
  creditPartBytesMin: 16 * KiB,
  creditAheadMs: 250,
  /** Processes on one port: each needs a port for its metrics (`observe.portsTried`). */
  shardsMax: 16,
  /** Pauses before one that ended is started again, and after how long it counts as good. */
  shardRestartBaseMs: 500,
  shardRestartMaxMs: 30_000,
  shardSteadyMs: 60_000,
  /** How long one may take to end. */
  shardCloseMs: 8_000,
} as const;

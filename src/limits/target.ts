/** Bounds of the master target (`limits.ts`). */
import { KiB, MiB } from '../kit/sizes.ts';

export const target = {
  /** Sealed bytes of one session received and not yet durable. */
  sessionWindowBytes: 32 * MiB,
  segmentBytesMax: 256 * MiB,
  /** Control frames of one session waiting for their turn; above it nothing more is read. What one frame costs beside its bytes. */
  controlQueueBytesMax: 1 * MiB,
  queuedFrameBytes: 512,
  /** Below this much free space new batches wait; above `freeBytesResume` they go on. */
  freeBytesStop: 64 * MiB,
  freeBytesResume: 96 * MiB,
  /** Entries of one machine written and synced together at most. */
  groupBytesMax: 8 * MiB,
  /** The proof lets ingest go first after so many bytes. */
  proofSliceBytes: 256 * KiB,
  /** A proof that could not read is tried again after this, or when the next point comes. */
  proofRetryMs: 30_000,
  /** Tries after which a block that the medium does not give back is damaged. */
  unreadableTriesMax: 5,
  /** Such blocks counted at a time. */
  unreadableBlocksMax: 4_096,
  /** Of one core, for checking what is stored, all machines together. */
  scrubCpuShare: 0.05,
  /** The shortest pause worth a timer, and how long a step waits for ingest and proof at most. */
  scrubPauseMs: 20,
  scrubYieldMs: 1_000,
  /** From the begin of one pass over everything to the next one's, and from the start to the first step. */
  scrubEveryMs: 24 * 3600 * 1000,
  scrubFirstMs: 60_000,
  /** A pass that could not go on is tried again after this. */
  scrubRetryMs: 30_000,
  scrubSaveMs: 30_000,
  scrubRangesMax: 1_000,
  /** Between two looks whether a fold is due; between two folds while points come, while none come, and while the store is full; what it reads and writes. */
  foldPollMs: 5_000,
  failoversCountedMs: 5_000,
  foldEveryMs: 600_000,
  foldIdleMs: 3_600_000,
  foldFullMs: 30_000,
  foldBytesPerSecond: 64 * MiB,
  /** For each millisecond of a fold's step so many without one; the second while anything is received or proven. */
  foldRests: 1,
  foldRestsBusy: 4,
  /** Gaps of one machine are noted so often, merged by reason, and with each point. */
  gapsEveryMs: 60_000,
} as const;

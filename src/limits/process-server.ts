/** Bounds of the process server (`limits.ts`). */
import { MiB } from '../kit/sizes.ts';

export const processServer = {
  /** Plain bytes granted to one agent and not yet durable at the target. */
  sessionWindowBytes: 16 * MiB,
  /** A session always gets this much, so that one batch of the largest size can travel. */
  sessionWindowBytesMin: 2 * MiB,
  /** Everything in flight in the process, all sessions together. */
  inFlightBytesMax: 512 * MiB,
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
} as const;

/**
 * What roles say of how data flows through them: enough for control to name the stage that binds and to foresee a breach (`stage.ts`,
 * `forecast.ts`). Every field may be null: what a role does not know, or does not know yet, is absent, never 0.
 */
import { z } from 'zod';
import { bytes, count, nameSchema, timeMs } from './fields.ts';

const rate = z.number().min(0).describe('Bytes per second.');
const duration = z.number().min(0).describe('Milliseconds.');
const orNull = <T extends z.ZodType>(schema: T) => schema.nullable().default(null);

/** A mean over the last minute and one over the last quarter of an hour. */
const rates = z.object({ minute: orNull(rate), quarterHour: orNull(rate) });

/** When a point passed each stage; null: not yet. */
const stages = z.object({
  cutMs: timeMs,
  sentMs: orNull(timeMs).describe('All its batches were handed over.'),
  durableMs: orNull(timeMs).describe('All its batches are durable at the target.'),
  committedMs: orNull(timeMs).describe('The target answered.'),
});

export const agentFlow = z.object({
  pointsInFlight: orNull(count).describe('Cut and not answered.'),
  cycle: orNull(stages).describe('The newest point that was committed.'),
  open: orNull(stages).describe('The oldest point in flight.'),
  churn: orNull(rates).describe('What writers change: bytes that became dirty.'),
  drain: orNull(rates).describe('What becomes durable while there is something to send.'),
  waits: orNull(
    z.object({ windowMs: duration, readMs: duration, hashMs: duration, sendMs: duration, commitMs: duration }),
  ).describe(
    'Of the last `windowMs`: waited for reads of the disks, hashed, waited for credit and socket, waited for the answer to a POINT.',
  ),
  retry: orNull(z.object({ atMs: timeMs, class: z.string().max(32) })).describe('The next attempt, after a failure.'),
  nextCutMs: orNull(timeMs),
  nextAppPointMs: orNull(timeMs).describe('When an app-consistent point is due.'),
});
export type AgentFlow = z.infer<typeof agentFlow>;

export const sessionFlow = z.object({
  machine: nameSchema,
  waits: orNull(
    z.object({
      windowMs: duration,
      agentMs: duration,
      poolMs: duration,
      targetMs: duration,
      spoolMs: duration,
      throttleMs: duration,
    }),
  ).describe('Of the last `windowMs`: what the head of its queue waited for; agent: nothing was there to do.'),
  durableMs: orNull(duration).describe('Mean time of a batch from sent to durable at the target.'),
  target: orNull(z.object({ reachable: z.boolean(), sinceMs: orNull(timeMs) })),
  spool: orNull(z.object({ bytes, points: count, oldestMs: orNull(timeMs) })).describe('What waits on disk of it.'),
});
export type SessionFlow = z.infer<typeof sessionFlow>;

export const spoolFlow = z.object({
  level: z.enum(['ok', 'warning-30', 'warning-25', 'throttling', 'full']),
  usedBytes: bytes,
  limitBytes: bytes,
});

/** Of one machine at its target. */
export const replicaFlow = z.object({
  unprovenPoints: orNull(count),
  oldestUnprovenMs: orNull(timeMs).describe('Commit time of the oldest point that is kept and not proven.'),
  nextScrubMs: orNull(timeMs),
  scrubOverdueMs: orNull(timeMs).describe('From when on a pass of checks that has not ended is overdue.'),
});
export type ReplicaFlow = z.infer<typeof replicaFlow>;

/** Of a target as a whole. */
export const targetFlow = z.object({
  batchMs: orNull(duration).describe('Mean time of a batch from its arrival to durable, lately.'),
  commitMs: orNull(duration).describe('Mean time from a POINT to its answer, lately.'),
  queuedBytes: orNull(bytes).describe('Received and not yet durable.'),
  provenBlocksPerSecond: orNull(z.number().min(0)).describe('While points are proven.'),
  growthBytesPerSecond: orNull(z.number()).describe('By which free space falls; negative: it rises.'),
  fullAtMs: orNull(timeMs).describe('When no space is left at that rate.'),
});
export type TargetFlow = z.infer<typeof targetFlow>;

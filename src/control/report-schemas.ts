/** What roles report to control, what it answers, and how a report is stored. */
import { z } from 'zod';
import { limits } from '../limits.ts';
import { bytes, count, diskName, hash, nameSchema, text, timeMs } from './fields.ts';
import { agentFlow, replicaFlow, sessionFlow, spoolFlow, targetFlow } from './flow-schemas.ts';
import { askedDisks } from './schemas.ts';
import { throttleOfMachine, throttleOfServer } from './throttle-schemas.ts';

const { control, disk } = limits;

/** Something a role ran into. Not retryable means that it stopped: health turns critical. */
const problemReport = z.object({
  code: z.string().max(64),
  message: text,
  remedy: text.default(''),
  retryable: z.boolean(),
  machine: nameSchema.optional(),
  disk: diskName.optional(),
});
const common = { atMs: timeMs, version: z.string().max(64), problems: z.array(problemReport).max(64).default([]) };

export const pointReport = z.object({
  point: z.int().min(1),
  cutTimeMs: timeMs,
  committedMs: timeMs,
  provenMs: timeMs.nullable(),
  consistency: z.enum(['crash', 'app', 'none']),
  damaged: z.boolean().default(false),
  disks: z.array(z.object({ name: diskName, size: bytes, root: hash })).max(disk.perMachineMax),
});
export type PointReport = z.infer<typeof pointReport>;

const pointMark = z.object({ point: z.int().min(1), cutTimeMs: timeMs });
export const bootMark = z.object({ point: z.int().min(1), atMs: timeMs, seconds: z.number().min(0) }).nullable();

/** A comparison of every block of a disk with its replica, from the moment it is due until its point is committed. */
export const resyncReport = z.object({
  reason: text.describe('Why the change log can not vouch for what changed, or who asked.'),
  phase: z.string().max(32).describe('waiting (for its window), hashing, comparing or sending.'),
  doneBytes: bytes,
  totalBytes: bytes,
  opensAtMs: timeMs.nullable().describe('When its window opens, while it waits for that.'),
  timeZone: z.string().max(64).nullable().default(null).describe('Of the window.'),
});
export const capturedConsistency = z
  .enum(['crash', 'none'])
  .describe('What a point can claim without hooks; none: the disk is read while it may be written to.');
export const gapReport = z.object({ reason: z.string().max(64), points: z.int().min(1) });

export const agentReport = z.object({
  role: z.literal('agent'),
  ...common,
  connected: z.boolean().describe('Has a session with a process server.'),
  disks: z
    .array(
      z.object({
        name: diskName,
        size: bytes,
        lagBytes: bytes.nullable(),
        phase: z.string().max(32),
        resync: resyncReport.nullable().default(null),
        consistency: capturedConsistency.nullable().default(null),
      }),
    )
    .max(disk.perMachineMax),
  resyncDone: count
    .nullable()
    .default(null)
    .describe('The newest request of control that is done: its points are committed.'),
  gaps: z
    .array(gapReport)
    .max(control.gapReasonsMax)
    .default([])
    .describe('Points that were due and not made since the agent started, by reason.'),
  flow: agentFlow.nullable().default(null),
});
const processServerReport = z.object({
  role: z.literal('process-server'),
  ...common,
  sessions: count,
  inFlightBytes: bytes,
  machines: z.array(sessionFlow).max(control.sessionsPerReportMax).default([]),
  spool: spoolFlow.nullable().default(null),
  target: sessionFlow.shape.target.describe('Whether it reaches its target, and since when.'),
});
export type ProcessServerReport = z.infer<typeof processServerReport>;
export const replicaFacts = z.object({
  points: count.describe('Kept.'),
  oldestCutMs: timeMs.nullable(),
  longestSpacingMs: z.int().min(0).nullable().describe('Between two that are kept one after the other.'),
  pinned: count,
  storedBytes: bytes.nullable().describe('This and the next two: as of the last fold.'),
  liveBytes: bytes.nullable().describe('What some kept point reads.'),
  backlogBytes: bytes.nullable().describe('What compaction would give back.'),
  checkedRatio: z.number().min(0).max(1).nullable().describe('Share of what is stored that this scrub checked.'),
  checkedSinceMs: timeMs.nullable().describe('Everything stored by then was checked since.'),
  failovers: z.array(z.string().max(64)).max(64),
});

export const targetReport = z.object({
  role: z.literal('target'),
  ...common,
  recoveryFileWritten: z.boolean(),
  deleted: z
    .array(nameSchema)
    .max(1024)
    .default([])
    .describe('Unprotected machines it was told to delete and holds nothing of any more.'),
  freeBytes: bytes.nullable(),
  flow: targetFlow.nullable().default(null),
  machines: z
    .array(
      z.object({
        name: nameSchema,
        oldestPoint: z.int().min(1).nullable().describe('Points below it are no longer kept.'),
        damagedBlocks: count,
        booted: bootMark.default(null).describe('The point that was last started and answered.'),
        replica: replicaFacts.nullable().default(null),
        flow: replicaFlow.nullable().default(null),
        disks: z
          .array(
            z.object({ name: diskName, size: bytes, committed: pointMark.nullable(), proven: pointMark.nullable() }),
          )
          .max(disk.perMachineMax),
        points: z
          .array(pointReport)
          .max(control.pointsPerReportMax)
          .default([])
          .describe('New or changed points; everything after `newestPoint` of the last reply.'),
        retired: z
          .array(z.int().min(1))
          .max(control.pointsPerReportMax)
          .default([])
          .describe('Points above `oldestPoint` that are no longer kept.'),
      }),
    )
    .max(1024),
});
export const reportRequest = z.discriminatedUnion('role', [agentReport, processServerReport, targetReport]);
export type Report = z.infer<typeof reportRequest>;
export type TargetReport = z.infer<typeof targetReport>;
export type AgentReport = z.infer<typeof agentReport>;
export const reportReply = z.object({
  machines: z
    .array(
      z.object({
        name: nameSchema,
        newestPoint: z.int().nullable(),
        retention: z
          .object({
            hours: z.int().min(1),
            thinning: z.object({ afterHours: z.int().min(1), everyMinutes: z.int().min(1) }).nullable(),
          })
          .nullable()
          .default(null),
      }),
    )
    .describe(
      'To a target, of each machine it named and that is protected here: the newest point known here, and how long points are kept.',
    ),
  unprotected: z
    .array(z.object({ name: nameSchema, deleteReplica: z.boolean() }))
    .default([])
    .describe('To a target: machines whose sources it refuses, and whether it deletes their replica.'),
  resync: z
    .object({ id: count, disks: askedDisks })
    .nullable()
    .default(null)
    .describe('To an agent: what it is to compare; comes with every answer until `resyncDone` says this id.'),
  throttle: z
    .array(throttleOfMachine)
    .default([])
    .describe('To a process server: limits and priorities, of all machines that have any.'),
  ownThrottle: throttleOfServer
    .nullable()
    .default(null)
    .describe('To a process server: its own limit; null: the one it is configured with, if any.'),
});
export type ReportReply = z.infer<typeof reportReply>;
/** A report as it is stored: who sent it is the certificate's word. */
export const storedReport = z.object({
  name: nameSchema,
  receivedMs: timeMs,
  report: reportRequest,
  foreseen: z
    .object({ firstMs: timeMs, lastMs: timeMs })
    .nullable()
    .default(null)
    .describe('Of an agent: when a breach of its RPO target was foreseen, again and again.'),
});
export type StoredReport = z.infer<typeof storedReport>;

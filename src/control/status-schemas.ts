/** What control says: status, points, problems. */
import { z } from 'zod';
import { limits } from '../limits.ts';
import { bytes, count, diskName, enrolledRole, nameSchema, timeMs } from './fields.ts';
import { sessionFlow, spoolFlow } from './flow-schemas.ts';
import { machineReply, policyReply } from './schemas.ts';
import { bootMark, capturedConsistency, gapReport, pointReport, replicaFacts, resyncReport } from './report-schemas.ts';

const { control } = limits;

export const healthSchema = z.enum(['ok', 'warning', 'critical']);
export type Health = z.infer<typeof healthSchema>;
const reason = z.object({
  severity: z.enum(['warning', 'critical']),
  code: z.string(),
  message: z.string(),
  remedy: z.string(),
});
export type Reason = z.infer<typeof reason>;

const warned = {
  warnings: z.array(reason).optional().describe('What was measured that speaks against it. It is set all the same.'),
};
export const machinePutReply = machineReply.extend(warned);
export const policyPutReply = policyReply.extend(warned);

const judged = { health: healthSchema, reasons: z.array(reason) };
const stage = z.object({
  name: z.enum(['capture', 'agent', 'link', 'process-server', 'throttle', 'spool', 'target', 'proof']),
  why: z.string(),
});
export type Stage = z.infer<typeof stage>;
const rate = z.number().min(0);
const forecast = z.object({
  breachInSeconds: z
    .number()
    .min(0)
    .nullable()
    .describe('At this churn and drain rate; 0: breached. Null: none is foreseen.'),
  caughtUpInSeconds: z.number().min(0).nullable().describe('Null: never, at these rates.'),
  needsBytesPerSecond: rate.describe('Drain rate at which the target holds.'),
  hasBytesPerSecond: rate,
});
export type Forecast = z.infer<typeof forecast>;
const upcoming = z.object({
  what: z.enum(['retry', 'cut', 'resync-window', 'app-point', 'scrub']),
  atMs: timeMs,
  disk: diskName.nullable().describe('Null: all of the machine.'),
});
export type Upcoming = z.infer<typeof upcoming>;
/** Never one for the other: what was promised, how often a cut is made, what is true now. */
const rpo = {
  rpoTargetSeconds: z.number().nullable().describe('How old the newest committed cut may be.'),
  rpoIntervalSeconds: z.number().nullable().describe('From one cut to the next.'),
  rpoActualSeconds: z
    .number()
    .nullable()
    .describe(
      'Age of the newest committed cut when its target told of it; it tells every 5 s, and time counts again when it does not.',
    ),
};
const progress = {
  ...rpo,
  newestCommittedMs: timeMs.nullable().describe('Cut time of the newest committed point.'),
  newestProvenMs: timeMs.nullable().describe('Cut time of the newest proven point.'),
  lagBytes: bytes.nullable().describe('Changed and not committed.'),
  stage: stage.nullable().describe('Which stage binds; null: none, or nobody says enough.'),
  forecast: forecast.nullable().describe('Null: churn or drain rate is not known.'),
};
export const statusReply = z.object({
  atMs: timeMs,
  ...judged,
  ...progress,
  worst: nameSchema
    .nullable()
    .describe('The machine nearest to its RPO target, or farthest beyond; RPO, stage and forecast above are its own.'),
  next: upcoming.extend({ machine: nameSchema }).nullable().describe('What is scheduled next at all.'),
  spools: z.array(spoolFlow.extend({ processServer: nameSchema })),
  machines: z.array(
    z.object({
      name: nameSchema,
      policy: nameSchema,
      ...judged,
      ...progress,
      next: z.array(upcoming).describe('What is scheduled, soonest first.'),
      heardMs: z
        .object({ agent: timeMs.nullable(), target: timeMs.nullable() })
        .describe('When its agent and its target said last what stands here.'),
      pointsInFlight: count.nullable(),
      flow: z
        .object({ churn: rate.nullable(), drain: rate.nullable() })
        .describe('Bytes per second, means over a minute.'),
      unprovenPoints: count.nullable().describe('Committed, kept and not proven.'),
      spooled: sessionFlow.shape.spool.describe('What waits on the disk of its process server.'),
      consistency: capturedConsistency.nullable(),
      replica: replicaFacts.nullable(),
      booted: bootMark.describe('The point that was last started and answered, when, and how long it took.'),
      gaps: z.array(gapReport),
      disks: z.array(
        z.object({
          name: diskName,
          size: bytes.nullable(),
          phase: z.string().nullable(),
          resync: resyncReport
            .extend({ percent: z.int().min(0).max(100) })
            .nullable()
            .describe('Phase `asked`: the agent has not begun what was asked for.'),
          ...judged,
          ...progress,
        }),
      ),
    }),
  ),
  roles: z.array(
    z.object({ role: enrolledRole, name: nameSchema, version: z.string(), receivedMs: timeMs, silent: z.boolean() }),
  ),
});
export type StatusReport = z.infer<typeof statusReply>;

export const pointsQuery = z.strictObject({
  cursor: z
    .string()
    .regex(/^[0-9]{1,16}$/, 'a cursor of an earlier page')
    .optional(),
  limit: z.coerce.number<number>().int().min(1).max(control.pageItemsMax).default(control.pageItemsDefault),
});
export const pointsReply = z.object({
  points: z.array(pointReport).describe('Newest first.'),
  next: z.string().nullable().describe('Cursor of the next page; null: this was the last.'),
});

export const problemReply = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: z.string(),
  remedy: z.string(),
  retryable: z.boolean(),
});

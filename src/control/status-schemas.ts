/** What control says: status, points, problems. */
import { z } from 'zod';
import { limits } from '../limits.ts';
import { bytes, diskName, enrolledRole, nameSchema, timeMs } from './fields.ts';
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

const judged = { health: healthSchema, reasons: z.array(reason) };
const progress = {
  newestCommittedMs: timeMs.nullable().describe('Cut time of the newest committed point.'),
  newestProvenMs: timeMs.nullable().describe('Cut time of the newest proven point.'),
  lagBytes: bytes.nullable(),
  rpoActualSeconds: z.number().nullable().describe('Age of the newest committed cut.'),
};
export const statusReply = z.object({
  atMs: timeMs,
  ...judged,
  machines: z.array(
    z.object({
      name: nameSchema,
      policy: nameSchema,
      rpoIntervalSeconds: z.number().nullable(),
      ...judged,
      ...progress,
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

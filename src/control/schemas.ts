/**
 * Everything that passes the control API, as zod schemas: requests are parsed by them, replies pass through them (what a schema
 * does not name never leaves), and the OpenAPI document is made from them. What operators send is strict, so a typing
 * error is named; what roles send may carry more than this version knows.
 *
 * Times are milliseconds since the Unix epoch, sizes bytes; `null` means not known, never 0.
 */
import { z } from 'zod';
import { parseDayWindow } from '../kit/day-window.ts';
import { localTimeIn } from '../kit/local-time.ts';
import { isProblem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { definitionSchema } from '../wire/definition.ts';

const { control, disk } = limits;

export const nameSchema = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, 'lower-case letters, digits, ".", "_", "-"; at most 63');
const diskName = nameSchema;
const count = z.int().min(0);
const bytes = count.describe('Bytes.');
export const timeMs = count.describe('Milliseconds since the Unix epoch.');
const text = z.string().max(1024);
const hash = z.string().regex(/^[0-9a-f]{64}$/, '64 lower-case hex digits');

// ---------------------------------------------------------------- roles

/** Roles that can hold a certificate made by enrolment; `control` gets its own at start. */
export const enrolledRole = z.enum(['agent', 'process-server', 'target']);
export type EnrolledRole = z.infer<typeof enrolledRole>;

// ---------------------------------------------------------------- machines and policies

const powerOfTwo = (value: number): boolean => Number.isInteger(Math.log2(value));

/** Text that `parse` takes; what it says to other text is the complaint. */
const textFor = (parse: (value: string) => unknown) =>
  z
    .string()
    .max(256)
    .superRefine((value, context) => {
      try {
        parse(value);
      } catch (error) {
        if (!isProblem(error)) throw error;
        context.addIssue({ code: 'custom', message: `${error.message}: ${error.remedy}` });
      }
    });
const timeZone = textFor(localTimeIn);

export const policySchema = z.strictObject({
  compression: z.enum(['lz4', 'zstd', 'off']).default('lz4'),
  intervalSeconds: z.int().min(1).max(86_400).default(5).describe('Seconds from one cut to the next.'),
  blockSize: z
    .int()
    .min(disk.blockBytesMin)
    .max(disk.blockBytesMax)
    .refine(powerOfTwo, 'a power of two')
    .default(disk.blockBytesDefault),
  retentionHours: z
    .int()
    .min(1)
    .max(24 * 366)
    .default(24)
    .describe('How long the target keeps points; the newest, pinned ones and those in use are kept longer.'),
  thinAfterHours: z
    .int()
    .min(1)
    .max(24 * 366)
    .nullable()
    .default(null)
    .describe('Points older than this are thinned; null: all in the retention are kept.'),
  thinToMinutes: z.int().min(1).max(1440).default(60).describe('Of thinned points one per so many minutes is kept.'),
  resyncWindow: textFor((value) => parseDayWindow(value, 'UTC'))
    .nullable()
    .default(null)
    .describe('When a resync may read the disk: HH:MM-HH:MM, several with commas; null: at any time.'),
  resyncTimeZone: timeZone.default('UTC').describe('Time zone of the window, by its IANA name.'),
  resyncAtDirtyPercent: z
    .union([z.int().min(1).max(100), z.literal('never')])
    .default(50)
    .describe('A change log that names more of the disk than this is given up for a resync.'),
  appConsistentHours: z.int().min(0).max(12).default(0).describe('Hours between app-consistent points; 0: none.'),
});
export type Policy = z.infer<typeof policySchema>;
export const policyReply = z.object({ name: nameSchema, ...policySchema.shape });

const uniqueNames = (disks: readonly { name: string }[]): boolean =>
  new Set(disks.map(({ name }) => name)).size === disks.length;

export const machineSchema = z
  .strictObject({
    disks: z
      .array(z.strictObject({ name: diskName }))
      .min(1)
      .max(disk.perMachineMax)
      .refine(uniqueNames, 'disk names differ'),
    policy: nameSchema.default('default'),
    paused: z.boolean().default(false).describe('Its agent captures what changes and makes no points.'),
    definition: definitionSchema.nullable().default(null).describe('Travels with its points; null: not known.'),
  })
  .refine(
    ({ disks, definition }) => definition?.disks.every((name) => disks.some((one) => one.name === name)) ?? true,
    {
      path: ['definition', 'disks'],
      message: 'names a disk that is not protected',
    },
  );
export type Machine = z.infer<typeof machineSchema>;
export const unprotectQuery = z.strictObject({
  deleteReplica: z.stringbool().default(false).describe('Have the target delete all points and keys of the machine.'),
});
/** What stays behind a machine whose protection was disabled. */
export const storedUnprotected = z.object({
  atMs: timeMs,
  deleteReplica: z.boolean().describe('A target still has to delete the replica.'),
});

export const machineReply = z.object({ name: nameSchema, ...machineSchema.shape });

export const agentConfigReply = z.object({
  machine: nameSchema,
  disks: z.array(z.object({ name: diskName })),
  policyName: nameSchema,
  policy: z.object(policySchema.shape),
  paused: z.boolean().default(false),
  definition: definitionSchema.nullable().default(null),
});
export type AgentDuties = z.infer<typeof agentConfigReply>;

// ---------------------------------------------------------------- resync on request

export const resyncRequest = z.strictObject({
  disks: z
    .array(diskName)
    .min(1)
    .max(disk.perMachineMax)
    .optional()
    .describe('Which disks to compare with their replica, block by block; all if left out.'),
  now: z.boolean().default(false).describe('Does not wait for the window of the policy.'),
});
const askedDisks = z.array(z.object({ name: diskName, now: z.boolean() }));
/** What is stored until the agent said that it is done; its id is the record's version. */
export const storedResync = z.object({ askedMs: timeMs, disks: askedDisks });
export type StoredResync = z.infer<typeof storedResync>;
export const resyncReply = z.object({
  machine: nameSchema,
  id: count.describe('Names what is asked for now. Requests that are not done yet are made one.'),
  disks: askedDisks.describe('All disks asked for and not done, and which of them do not wait for the window.'),
  agent: z
    .enum(['connected', 'disconnected', 'silent', 'never-seen'])
    .describe(
      'Whether the agent hears of it now: it is kept until the agent does. Disconnected: from its process server.',
    ),
  window: z.string().nullable().describe('Window of the policy that disks without `now` wait for; null: none.'),
  opensAtMs: timeMs.nullable().describe('When it opens; null: it is open, or there is none.'),
  timeZone: z.string(),
});
export type ResyncReply = z.infer<typeof resyncReply>;

// ---------------------------------------------------------------- reports

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
const bootMark = z.object({ point: z.int().min(1), atMs: timeMs, seconds: z.number().min(0) }).nullable();

/** A comparison of every block of a disk with its replica, from the moment it is due until its point is committed. */
const resyncReport = z.object({
  reason: text.describe('Why the change log can not vouch for what changed, or who asked.'),
  phase: z.string().max(32).describe('waiting (for its window), hashing, comparing or sending.'),
  doneBytes: bytes,
  totalBytes: bytes,
  opensAtMs: timeMs.nullable().describe('When its window opens, while it waits for that.'),
  timeZone: z.string().max(64).nullable().default(null).describe('Of the window.'),
});
const capturedConsistency = z
  .enum(['crash', 'none'])
  .describe('What a point can claim without hooks; none: the disk is read while it may be written to.');
const gapReport = z.object({ reason: z.string().max(64), points: z.int().min(1) });

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
});
const processServerReport = z.object({
  role: z.literal('process-server'),
  ...common,
  sessions: count,
  inFlightBytes: bytes,
});
const replicaFacts = z.object({
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
  machines: z
    .array(
      z.object({
        name: nameSchema,
        oldestPoint: z.int().min(1).nullable().describe('Points below it are no longer kept.'),
        damagedBlocks: count,
        booted: bootMark.default(null).describe('The point that was last started and answered.'),
        replica: replicaFacts.nullable().default(null),
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
});
export type ReportReply = z.infer<typeof reportReply>;
/** A report as it is stored: who sent it is the certificate's word. */
export const storedReport = z.object({ name: nameSchema, receivedMs: timeMs, report: reportRequest });
export type StoredReport = z.infer<typeof storedReport>;

// ---------------------------------------------------------------- status and points

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

/**
 * What an operator configures and asks for, with what is kept of it; beside it `report-schemas.ts` (what roles say) and `status-schemas.ts` (what control
 * says): all that passes the control API, as zod schemas. Requests are parsed by them, replies pass through them (what a schema
 * does not name never leaves), and the OpenAPI document is made from them. What operators send is strict, so a typing
 * error is named; what roles send may carry more than this version knows.
 *
 * Times are milliseconds since the Unix epoch, sizes bytes; `null` means not known, never 0.
 */
import { z } from 'zod';
import { parseDayWindow } from '../kit/day-window.ts';
import { limits } from '../limits.ts';
import { definitionSchema } from '../wire/definition.ts';
import { count, diskName, nameSchema, textFor, timeMs, timeZone } from './fields.ts';
import { machineThrottle, policyThrottle } from './throttle-schemas.ts';

const { control, disk } = limits;

const powerOfTwo = (value: number): boolean => Number.isInteger(Math.log2(value));

export const policySchema = z
  .strictObject({
    compression: z.enum(['lz4', 'zstd', 'off']).default('lz4'),
    intervalSeconds: z.int().min(1).max(86_400).default(5).describe('Seconds from one cut to the next.'),
    rpoTargetSeconds: z
      .int()
      .min(1)
      .max(control.rpoTargetSecondsMax)
      .nullable()
      .default(null)
      .describe(
        `How old the newest committed point may be; null: ${control.rpoDefaultIntervals} intervals, at least ${control.rpoDefaultSecondsMin} s.`,
      ),
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
    ...policyThrottle,
  })
  .refine(({ rpoTargetSeconds, intervalSeconds }) => (rpoTargetSeconds ?? intervalSeconds) >= intervalSeconds, {
    path: ['rpoTargetSeconds'],
    message: 'is less than intervalSeconds: no point can be that new; raise it, or make points more often',
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
    ...machineThrottle,
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
  processServers: z
    .array(z.string().max(300))
    .default([])
    .describe('Addresses of process servers, that which it should go to first; none: as it was configured.'),
});
export type AgentDuties = z.infer<typeof agentConfigReply>;

export const resyncRequest = z.strictObject({
  disks: z
    .array(diskName)
    .min(1)
    .max(disk.perMachineMax)
    .optional()
    .describe('Which disks to compare with their replica, block by block; all if left out.'),
  now: z.boolean().default(false).describe('Does not wait for the window of the policy.'),
});
export const askedDisks = z.array(z.object({ name: diskName, now: z.boolean() }));
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

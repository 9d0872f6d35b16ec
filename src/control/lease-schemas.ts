/** What passes the control API about leases and process servers, and what is stored of both; as `schemas.ts`. */
import { z } from 'zod';
import { limits } from '../limits.ts';
import { parseAddress } from '../transport/address.ts';
import { bytes, count, nameSchema, timeMs } from './fields.ts';
import { throttleOfServer } from './throttle-schemas.ts';

/** As in HELLO. */
export const epochMax = 2 ** 21 - 1;
const epoch = z.int().min(1).max(epochMax).describe('Rises with every change of holder (HELLO `lease`).');
const session = z
  .string()
  .regex(/^[0-9a-f]{32}$/, '32 hex digits')
  .describe('Of one run of one process of the process server: another one is another holder.');

/** Who may write a machine's replica, and until when; of the state's clock. What is left of one that ended keeps its epoch. */
export const storedLease = z.object({
  /** Null: given up, or taken away. */
  holder: nameSchema.nullable(),
  session,
  epoch,
  takenMs: timeMs,
  renewedMs: timeMs,
  expiresMs: timeMs,
  /** Who is to have it next, and until when nobody else may take it. */
  move: z.object({ to: nameSchema, untilMs: timeMs }).nullable(),
});
export type Lease = z.infer<typeof storedLease>;

function isAddress(text: string): boolean {
  try {
    return parseAddress(text, 1).port > 0;
  } catch {
    return false;
  }
}
const address = z
  .string()
  .regex(/^(?:\[[0-9a-fA-F:.]+\]|[^:[\]\s/]+):\d{1,5}$/, 'host:port')
  .max(300, { abort: true })
  .refine(isAddress, 'not an address');
const load = {
  sessions: count,
  inFlightBytes: bytes,
  windowBytes: bytes.describe('What it can have in flight at most.'),
};
/** A process of a process server as it was last heard; of the state's clock. */
export const storedProcess = z.object({
  address,
  ...load,
  heardMs: timeMs,
  /** Since when it has had no room; null: it has. */
  busySinceMs: timeMs.nullable(),
});
export type StoredProcess = z.infer<typeof storedProcess>;

/** Of a process server: when a machine was last moved from or to it because of load; of the state's clock. */
export const storedRelief = z.object({ movedMs: timeMs });
export type StoredRelief = z.infer<typeof storedRelief>;

export const leaseAsk = z.object({
  machine: nameSchema,
  want: z.enum(['take', 'keep', 'give-up']),
  epoch: z
    .int()
    .min(0)
    .max(epochMax - 1)
    .default(0)
    .describe('To keep and to give up: of the lease held. To take: the newest the target knows, if it refused ours.'),
});
export type LeaseAsk = z.output<typeof leaseAsk>;

export const leasesRequest = z.object({
  session,
  address: address.describe('Where agents reach it.'),
  ...load,
  machines: z.array(leaseAsk).max(limits.leases.machinesPerAskMax),
});
export const leaseAnswer = z.object({
  machine: nameSchema,
  held: z.boolean(),
  epoch: epoch.nullable().describe('Of the lease held.'),
  holder: nameSchema.nullable().describe('Who has it, or is to have it, instead.'),
  freeInMs: count.describe('When that one’s lease is over unless it is renewed.'),
  silent: z.boolean().describe('It was due to be renewed, and was not.'),
});
export type LeaseAnswer = z.infer<typeof leaseAnswer>;
export const leasesReply = z.object({
  leaseMs: count.describe('How long what is held is held from when it was asked for, by the clock of who asked.'),
  alone: z.boolean().describe('The site has no other process server: nobody else will take its machines.'),
  machines: z.array(leaseAnswer),
});
export type LeasesReply = z.infer<typeof leasesReply>;

export const processServersReply = z.object({
  processServers: z.array(
    z.object({
      name: nameSchema,
      address,
      ...load,
      heardMs: timeMs,
      processes: count.describe('How many it is (`--shards`); sessions and bytes above are of all of them.'),
      busyProcesses: count.describe('Those of them whose memory for what is in flight is full.'),
      state: z.enum(['ok', 'busy', 'silent']).describe('Busy: one of its processes is.'),
      machines: z.array(nameSchema).describe('Of which it has the lease.'),
      throttle: throttleOfServer.nullable().describe('What was set as its limit; null: as it is configured.'),
    }),
  ),
});

export const moveRequest = z.strictObject({
  to: nameSchema.optional().describe('Left out: the one with the most room.'),
});
export const moveReply = z.object({
  machine: nameSchema,
  from: nameSchema.nullable().describe('Null: none had it.'),
  to: nameSchema,
  address,
  changed: z.boolean().describe('False: it was there already.'),
});

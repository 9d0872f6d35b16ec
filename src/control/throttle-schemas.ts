/** Limits and priority, as fields of a policy and of a machine, a process server's own limit, and as process servers are told of them. */
import { z } from 'zod';
import { parseRateTable } from '../kit/rate-table.ts';
import { priorities } from '../kit/shares.ts';
import { nameSchema, textFor, timeZone } from './fields.ts';

const rates = textFor((value) => parseRateTable(value, 'UTC')).nullable();
const priority = z.enum(priorities);

export const policyThrottle = {
  throttle: rates
    .default(null)
    .describe(
      'What the machines of the policy may send together through one process server: "8Mb/s", or "mon-fri 08:00-18:00 8Mb/s; else unlimited"; null: all.',
    ),
  throttleTimeZone: timeZone
    .default('UTC')
    .describe('Time zone of this limit and of those of its machines, by its IANA name.'),
  priority: priority
    .default('normal')
    .describe('Where a limit makes machines wait: each priority gets ten times what the next lower one gets.'),
};

export const machineThrottle = {
  throttle: rates
    .default(null)
    .describe('What the machine may send, in the form of its policy; the lower limit counts. Null: as its policy.'),
  priority: priority.nullable().default(null).describe('Null: that of its policy.'),
};

/** A table that was taken when it was set: a process server of another version says so in its log, and limits nothing by it. */
export const throttleOfMachine = z.object({
  machine: nameSchema,
  policy: nameSchema,
  own: z.string().max(256).nullable(),
  ofPolicy: z.string().max(256).nullable(),
  timeZone: z.string().max(256),
  priority,
});
export type ThrottleOfMachine = z.infer<typeof throttleOfMachine>;

/** What control says of a process server's own limit, in place of what that one is configured with. */
export const processServerLimit = z.strictObject({
  throttle: rates
    .default(null)
    .describe(
      'What the process server may send to its targets, in place of what it is configured with; "unlimited" lifts that. Null: as it is configured.',
    ),
  throttleTimeZone: timeZone.default('UTC').describe('Time zone of this limit, by its IANA name.'),
});
export const processServerLimitReply = z.object({ name: nameSchema, ...processServerLimit.shape });

/** As `throttleOfMachine`. */
export const throttleOfServer = z.object({ throttle: z.string().max(256), timeZone: z.string().max(256) });
export type ThrottleOfServer = z.infer<typeof throttleOfServer>;

/** What passes the control API when a role enrols, and what is stored of that; as `schemas.ts`. */
import { z } from 'zod';
import { limits } from '../limits.ts';
import { enrolledRole, nameSchema, timeMs } from './fields.ts';

const { control } = limits;
const pem = z.string().max(16 * 1024);

export const registrationKeyRequest = z.strictObject({
  role: enrolledRole,
  name: nameSchema.optional().describe('Only this name may enrol with the key; any name of the role if left out.'),
  ttlSeconds: z
    .int()
    .min(1)
    .max(control.registrationKeyTtlSecondsMax)
    .default(control.registrationKeyTtlSecondsDefault),
});
export const registrationKeyReply = z.object({
  registrationKey: z
    .string()
    .describe('tmk1.<secret>.<SHA-256 of the CA certificate>. Shown once; only its hash is kept.'),
  role: enrolledRole,
  name: nameSchema.optional(),
  expiresMs: timeMs,
});
/** What is stored of a registration key, under the hash of its secret. */
export const storedRegistrationKey = z.object({
  role: enrolledRole,
  name: nameSchema.optional(),
  expiresMs: timeMs,
  usedMs: timeMs.nullable(),
  usedBy: nameSchema.nullable(),
});

export type StoredRegistrationKey = z.infer<typeof storedRegistrationKey>;

export const enrollRequest = z.strictObject({
  registrationKey: z.string().max(256),
  role: enrolledRole,
  name: nameSchema,
  csrPem: pem.describe('PKCS #10 request. The private key never leaves its owner.'),
});
export const enrollReply = z.object({ certPem: pem, caPem: pem, role: enrolledRole, name: nameSchema });

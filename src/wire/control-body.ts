/** Control frames: a JSON body under a schema. Length is checked before the text is decoded, the schema before anyone sees it. */
import { z } from 'zod';
import { limits } from '../limits.ts';
import { protocolError } from './codes.ts';
import { encodeFrame, type FrameType } from './frame.ts';

export const hex = (bytes: number): z.ZodString => z.string().regex(new RegExp(`^[0-9a-f]{${bytes * 2}}$`));
export const safeInteger = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
export const seqField = safeInteger.min(1);
export const machineName = z.string().regex(/^[a-z0-9][a-z0-9._-]{0,62}$/);
export const diskName = machineName;
export const diskIndex = z
  .number()
  .int()
  .min(0)
  .max(limits.disk.perMachineMax - 1);

export function encodeControl(type: FrameType, disk: number, value: unknown): Uint8Array {
  return encodeFrame(type, disk, Buffer.from(JSON.stringify(value)));
}

/** @throws Problem `protocol-error` naming the message and the first field that is wrong. */
export function decodeControl<T>(name: string, schema: z.ZodType<T>, body: Uint8Array): T {
  if (body.byteLength > limits.wire.controlBytesMax)
    throw protocolError(`${name} of ${body.byteLength} bytes is too long`);
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString('utf8'));
  } catch {
    throw protocolError(`${name} is not JSON`);
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw protocolError(`${name}: ${issue?.path.join('.') ?? ''} ${issue?.message ?? 'does not fit its schema'}`);
}

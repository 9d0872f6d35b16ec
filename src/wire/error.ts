/** ERROR (PROTOCOL.md). */
import { z } from 'zod';
import { decodeControl, encodeControl, safeInteger } from './control-body.ts';
import { frameType, noDisk } from './frame.ts';

const schema = z.object({
  code: z.string().max(64),
  message: z.string().max(1024),
  retryable: z.boolean(),
  /** With `stale-epoch`: the newest epoch of the machine that the target has. */
  epoch: safeInteger.optional(),
});

export type ErrorMessage = z.infer<typeof schema>;

export function encodeErrorMessage(message: ErrorMessage): Uint8Array {
  return encodeControl(frameType.error, noDisk, message);
}

export function decodeErrorMessage(body: Uint8Array): ErrorMessage {
  return decodeControl('ERROR', schema, body);
}

/** GAP (PROTOCOL.md): a point that was due and could not be made, with its reason. */
import { z } from 'zod';
import { decodeControl, encodeControl, safeInteger } from './control-body.ts';
import { frameType, noDisk } from './frame.ts';

/**
 * Why: the writes in flight did not end in time; the memory and scratch of old pages were full, or the scratch could not be written; the link was
 * away; hooks failed (the point then became `crash` consistent); replication was paused; it waited in a
 * process server's spool, which was above its mark, and was merged into the next; something else that `detail` tells.
 */
export const gapReasons = ['drain', 'copy-before-write', 'disconnected', 'hooks', 'paused', 'merged', 'other'] as const;

const schema = z.object({
  /** When the first of the points was due. */
  atMs: z.number().min(0),
  /** Points that were due. */
  points: safeInteger.min(1),
  reason: z.enum(gapReasons),
  detail: z.string().max(1024),
});

export type Gap = z.infer<typeof schema>;

export function encodeGap(message: Gap): Uint8Array {
  return encodeControl(frameType.gap, noDisk, message);
}

export function decodeGap(body: Uint8Array): Gap {
  return decodeControl('GAP', schema, body);
}

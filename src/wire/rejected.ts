/** REJECTED (PROTOCOL.md). */
import { z } from 'zod';
import { decodeControl, diskIndex, encodeControl } from './control-body.ts';
import { frameType, noDisk } from './frame.ts';

/** Why a point is not committed. They are problem codes of the agent, so each has its exit code (`fatal.ts`). */
export const rejectReasons = ['root-mismatch', 'layer-unknown', 'layer-incomplete', 'shrunk'] as const;

const schema = z.object({
  reason: z.enum(rejectReasons),
  disk: diskIndex,
  detail: z.string().max(1024),
  retryable: z.boolean(),
});

export type Rejected = z.infer<typeof schema>;

export function encodeRejected(message: Rejected): Uint8Array {
  return encodeControl(frameType.rejected, noDisk, message);
}

export function decodeRejected(body: Uint8Array): Rejected {
  return decodeControl('REJECTED', schema, body);
}

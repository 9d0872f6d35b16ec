/** REJECTED (PROTOCOL.md). */
import { z } from 'zod';
import { decodeControl, diskIndex, encodeControl } from './control-body.ts';
import { frameType, noDisk } from './frame.ts';

const schema = z.object({
  reason: z.enum(['root-mismatch', 'layer-unknown', 'layer-incomplete', 'shrunk']),
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

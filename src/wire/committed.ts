/** COMMITTED (PROTOCOL.md). */
import { z } from 'zod';
import { limits } from '../limits.ts';
import { decodeControl, diskIndex, encodeControl, hex, safeInteger } from './control-body.ts';
import { frameType, noDisk } from './frame.ts';

const schema = z.object({
  point: safeInteger.min(1),
  cutTimeMs: z.number(),
  disks: z.array(z.object({ disk: diskIndex, root: hex(32) })).max(limits.disk.perMachineMax),
});

export type Committed = z.infer<typeof schema>;

export function encodeCommitted(message: Committed): Uint8Array {
  return encodeControl(frameType.committed, noDisk, message);
}

export function decodeCommitted(body: Uint8Array): Committed {
  return decodeControl('COMMITTED', schema, body);
}

/** CYCLE (PROTOCOL.md). */
import { z } from 'zod';
import { decodeControl, diskIndex, encodeControl, hex, safeInteger, seqField } from './control-body.ts';
import { frameType } from './frame.ts';

const schema = z.object({
  disk: diskIndex,
  seq: seqField,
  kind: z.enum(['initial', 'delta', 'resync']),
  base: safeInteger.min(1).nullable(),
  salt: hex(32).optional(),
  keyVersion: z.number().int().min(1).max(65535).optional(),
});

export type Cycle = z.infer<typeof schema>;

export function encodeCycle(message: Cycle): Uint8Array {
  return encodeControl(frameType.cycle, message.disk, message);
}

export function decodeCycle(body: Uint8Array): Cycle {
  return decodeControl('CYCLE', schema, body);
}

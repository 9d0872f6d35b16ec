/** POINT (PROTOCOL.md). */
import { z } from 'zod';
import { limits } from '../limits.ts';
import { decodeControl, diskIndex, encodeControl, hex, safeInteger, seqField } from './control-body.ts';
import { frameType, noDisk } from './frame.ts';

const schema = z.object({
  cutTimeMs: z.number().min(0),
  consistency: z.enum(['crash', 'app']),
  disks: z
    .array(
      z.object({
        disk: diskIndex,
        size: safeInteger.min(512),
        root: hex(32),
        layers: z.array(seqField).max(limits.wire.layersListedMax),
        kind: z.enum(['initial', 'delta', 'resync']),
        records: safeInteger,
        payloadBytes: safeInteger,
        writes: safeInteger.optional(),
      }),
    )
    .min(1)
    .max(limits.disk.perMachineMax),
});

export type PointMessage = z.infer<typeof schema>;

export function encodePointMessage(message: PointMessage): Uint8Array {
  return encodeControl(frameType.point, noDisk, message);
}

export function decodePointMessage(body: Uint8Array): PointMessage {
  return decodeControl('POINT', schema, body);
}

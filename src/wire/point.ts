/** POINT (PROTOCOL.md). */
import { z } from 'zod';
import { limits } from '../limits.ts';
import { decodeControl, diskIndex, encodeControl, hex, safeInteger } from './control-body.ts';
import { definitionSchema } from './definition.ts';
import { frameType, noDisk } from './frame.ts';
import { layerRunField } from './layer-run.ts';

export const consistencies = ['crash', 'app', 'none'] as const;
export type Consistency = (typeof consistencies)[number];

const schema = z.object({
  cutTimeMs: z.number().min(0),
  /** `none`: read while it may have been written to (a `scan` of a source not declared frozen). */
  consistency: z.enum(consistencies),
  /** What froze the applications, and for how long; with `app` only. */
  evidence: z.string().max(1024).optional(),
  /** What the machine is from this point on; left out: what it was, or nobody knows. */
  definition: definitionSchema.optional(),
  disks: z
    .array(
      z.object({
        disk: diskIndex,
        size: safeInteger.min(512),
        root: hex(32),
        layers: layerRunField,
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

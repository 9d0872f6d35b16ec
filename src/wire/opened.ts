/** OPENED (PROTOCOL.md). */
import { z } from 'zod';
import { decodeControl, diskIndex, encodeControl, hex, safeInteger } from './control-body.ts';
import { frameType } from './frame.ts';
import { layerRunField } from './layer-run.ts';
import { counterOf, epochOf } from './seq.ts';

const schema = z
  .object({
    disk: diskIndex,
    diskId: hex(16),
    epoch: safeInteger.min(1).max(2 ** 21 - 1),
    nextCounter: safeInteger.min(1).max(2 ** 32 - 1),
    committed: z
      .object({ point: safeInteger.min(1), cutTimeMs: z.number(), size: safeInteger, root: hex(32) })
      .nullable(),
    layers: layerRunField,
    leaves: z.enum(['since', 'compare']),
    leafKey: hex(32),
    diskKey: hex(32).optional(),
    keyVersion: z.number().int().min(1).max(65535).optional(),
  })
  .refine(({ epoch, nextCounter, layers }) => layers === null || isBefore(layers.last, epoch, nextCounter), {
    message: 'a layer is not before the next one',
    path: ['layers'],
  });

/** Of numbers that may be out of range: the schema tells everything that is wrong. */
function isBefore(seq: number, epoch: number, counter: number): boolean {
  return epochOf(seq) < epoch || (epochOf(seq) === epoch && counterOf(seq) < counter);
}

export type Opened = z.infer<typeof schema>;

export function encodeOpened(message: Opened): Uint8Array {
  return encodeControl(frameType.opened, message.disk, message);
}

export function decodeOpened(body: Uint8Array): Opened {
  return decodeControl('OPENED', schema, body);
}

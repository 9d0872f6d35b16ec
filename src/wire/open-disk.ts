/** OPEN_DISK (PROTOCOL.md). */
import { z } from 'zod';
import { decodeControl, diskIndex, diskName, encodeControl, safeInteger } from './control-body.ts';
import { frameType } from './frame.ts';

const schema = z.object({
  disk: diskIndex,
  name: diskName,
  size: safeInteger.min(512),
  blockSize: safeInteger,
  compression: z.enum(['lz4', 'zstd', 'off']),
  knownPoint: safeInteger.min(1).nullable(),
});

export type OpenDisk = z.infer<typeof schema>;

export function encodeOpenDisk(message: OpenDisk): Uint8Array {
  return encodeControl(frameType.openDisk, message.disk, message);
}

export function decodeOpenDisk(body: Uint8Array): OpenDisk {
  return decodeControl('OPEN_DISK', schema, body);
}

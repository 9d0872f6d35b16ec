/** HELLO (PROTOCOL.md). */
import { z } from 'zod';
import { decodeControl, encodeControl, hex, machineName, safeInteger } from './control-body.ts';
import { frameType, noDisk } from './frame.ts';

/** The one this program speaks. */
export const protocolVersion = 2;

const schema = z.object({
  protocol: z.array(z.number().int()).min(1).max(16),
  role: z.enum(['agent', 'process-server']),
  machine: machineName,
  version: z.string().max(64),
  features: z.array(z.string().max(64)).max(64),
  instance: hex(16),
  /** Of a process server that holds the machine by a lease: the lease's epoch (C9). */
  lease: z.object({ epoch: safeInteger.min(1).max(2 ** 21 - 1) }).optional(),
});

export type Hello = z.infer<typeof schema>;

export function encodeHello(message: Hello): Uint8Array {
  return encodeControl(frameType.hello, noDisk, message);
}

export function decodeHello(body: Uint8Array): Hello {
  return decodeControl('HELLO', schema, body);
}

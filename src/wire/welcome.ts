/** WELCOME (PROTOCOL.md). */
import { z } from 'zod';
import { decodeControl, encodeControl } from './control-body.ts';
import { frameType, noDisk } from './frame.ts';
import { protocolVersion } from './hello.ts';

const schema = z.object({
  protocol: z.literal(protocolVersion),
  version: z.string().max(64),
  features: z.array(z.string().max(64)).max(64),
  session: z.string().max(64),
});

export type Welcome = z.infer<typeof schema>;

export function encodeWelcome(message: Welcome): Uint8Array {
  return encodeControl(frameType.welcome, noDisk, message);
}

export function decodeWelcome(body: Uint8Array): Welcome {
  return decodeControl('WELCOME', schema, body);
}

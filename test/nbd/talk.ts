/** What tests say to an NBD server below the level of a client, and how they wait for it. */
import { expect } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { isProblem } from '../../src/kit/problem.ts';
import { command } from '../../src/nbd/constants.ts';
import { encodeRequest, type Request } from '../../src/nbd/requests.ts';
import type { RawClient } from './serve.ts';

export const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'no error',
    (error: unknown) => (isProblem(error) ? error.code : `not a Problem: ${String(error)}`),
  );

export const until = async (holds: () => boolean, what: string): Promise<void> => {
  const end = systemClock.monotonicMs() + 5_000;
  while (!holds()) {
    if (systemClock.monotonicMs() > end) throw new Error(`never came true: ${what}`);
    await systemClock.sleep(2);
  }
};

/** A door that stays shut until it is opened. */
export function gate(): { readonly passed: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const passed = new Promise<void>((resolve) => (open = resolve));
  return { passed, open };
}

export const request = (parts: Partial<Request>): Buffer =>
  encodeRequest({ flags: 0, command: command.read, cookie: 7n, offset: 0, length: 512, ...parts });

/** The oldest way in: EXPORT_NAME, simple replies. Leaves the connection in transmission. */
export async function enterOldStyle(raw: RawClient, name = 'disk'): Promise<{ size: number; flags: number }> {
  await raw.hear(18);
  const header = Buffer.alloc(20);
  header.writeUInt32BE(3, 0);
  header.write('IHAVEOPT', 4);
  header.writeUInt32BE(1, 12);
  header.writeUInt32BE(name.length, 16);
  raw.say(header, Buffer.from(name));
  const reply = await raw.hear(10);
  return { size: Number(reply.readBigUInt64BE(0)), flags: reply.readUInt16BE(8) };
}

export async function hearSimple(raw: RawClient): Promise<{ error: number; cookie: bigint }> {
  const reply = await raw.hear(16);
  expect(reply.readUInt32BE(0)).toBe(0x67446698);
  return { error: reply.readUInt32BE(4), cookie: reply.readBigUInt64BE(8) };
}

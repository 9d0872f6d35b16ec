/** Requests a backend serves in the call itself: on the wire nothing tells them from others, however they come and whatever stands between them. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { KiB, MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { command, commandFlag, nbdError } from '../../src/nbd/constants.ts';
import { patchyContent } from './backend-contract.ts';
import { MemoryBackend } from './memory-backend.ts';
import { Place } from './serve.ts';
import { codeOf, enterOldStyle, hearSimple, request, until } from './talk.ts';

let place: Place;
beforeEach(async () => {
  place = await Place.make();
});
afterEach(() => place.end());

/** Serves at once whatever `may` says of it. */
class PromptBackend extends MemoryBackend {
  now = 0;
  may: (offset: number) => boolean = () => true;

  readNow(into: Uint8Array, offset: number): boolean {
    into.fill(0xee); // Rule 7 lets it.
    if (!this.may(offset)) return false;
    this.now += 1;
    into.set(this.content.subarray(offset, offset + into.byteLength));
    return true;
  }

  writeNow(data: Uint8Array, offset: number): boolean {
    if (!this.may(offset)) return false;
    this.now += 1;
    this.content.set(data, offset);
    return true;
  }
}

test.each([1, 27, 4096, 65_536])(
  'requests of all kinds in chunks of %i bytes: each is answered, with what it asked for',
  async (cut) => {
    const prompt = new PromptBackend(patchyContent(64 * KiB));
    prompt.may = (offset) => offset % 1024 === 0;
    const expected = Buffer.from(prompt.content);
    const raw = place.raw(await place.serve(prompt));
    await enterOldStyle(raw);
    const asked: Buffer[] = [];
    for (let index = 0; index < 40; index += 1) {
      const at = { cookie: BigInt(index), offset: index * 1024 + (index % 4 === 3 ? 512 : 0) };
      const data = Buffer.alloc(512, index + 1);
      if (index % 2 === 1) {
        asked.push(request({ ...at, command: command.write }), data);
        data.copy(expected, at.offset);
      } else asked.push(request({ ...at, length: 512 }));
    }
    const bytes = Buffer.concat(asked);
    for (let at = 0; at < bytes.byteLength; at += cut) {
      raw.say(bytes.subarray(at, at + cut));
      if (cut > 1 || at % 64 === 0) await systemClock.turn();
    }
    const heard = new Set<bigint>();
    for (let index = 0; index < 40; index += 1) {
      const { cookie, error } = await hearSimple(raw);
      heard.add(cookie);
      expect(error).toBe(0);
      if (cookie % 2n === 1n) continue;
      const offset = Number(cookie) * 1024;
      expect((await raw.hear(512)).equals(expected.subarray(offset, offset + 512)), `read ${cookie}`).toBe(true);
    }
    expect([heard.size, prompt.now, prompt.calls.write]).toEqual([40, 30, 10]);
    expect(prompt.content.equals(expected)).toBe(true);
  },
);

test('structured replies, and requests too large for it, go the same way', async () => {
  const prompt = new PromptBackend(patchyContent(MiB));
  const client = await place.client(await place.serve(prompt));
  const lengths = [1, 4096, 64 * KiB, 64 * KiB + 1, 300_000];
  const all = await Promise.all(lengths.map((length) => client.read(100, length)));
  all.forEach((bytes, index) =>
    expect(bytes.equals(prompt.content.subarray(100, 100 + (lengths[index] ?? 0)))).toBe(true),
  );
  expect([prompt.now, prompt.calls.read]).toEqual([3, 2]);
});

test('a write that must be durable is not served at once', async () => {
  const prompt = new PromptBackend(Buffer.alloc(8192));
  const raw = place.raw(await place.serve(prompt));
  await enterOldStyle(raw);
  raw.say(request({ command: command.write, flags: commandFlag.fua }), Buffer.alloc(512, 1));
  expect((await hearSimple(raw)).error).toBe(0);
  expect([prompt.now, prompt.fuaCalls]).toEqual([0, 1]);
});

test('what it throws keeps its name, and the connection goes on', async () => {
  const prompt = new PromptBackend(Buffer.alloc(8192));
  prompt.may = (offset) => {
    if (offset === 0) throw new Problem('ENOSPC', 'full');
    return true;
  };
  const raw = place.raw(await place.serve(prompt));
  await enterOldStyle(raw);
  raw.say(request({ command: command.write }), Buffer.alloc(512, 1), request({ offset: 0 }), request({ offset: 512 }));
  expect((await hearSimple(raw)).error).toBe(nbdError.ENOSPC);
  expect((await hearSimple(raw)).error).toBe(nbdError.ENOSPC);
  expect((await hearSimple(raw)).error).toBe(0);
  await raw.hear(512);
  const client = await place.client(await place.serve(prompt));
  expect(await codeOf(client.read(0, 512))).toBe('ENOSPC');
});

test('a client that does not read stops being read from, and gets everything when it does', async () => {
  const prompt = new PromptBackend(patchyContent(MiB));
  const raw = place.raw(await place.serve(prompt));
  await enterOldStyle(raw);
  raw.socket.pause();
  const [asked, length] = [2000, 32 * KiB];
  for (let index = 0; index < asked; index += 1) raw.say(request({ cookie: BigInt(index), length }));
  await until(() => prompt.now >= limits.nbd.inFlightRequestsMax, 'reads up to the bound');
  await systemClock.sleep(100);
  // The kernel's socket buffer may have swallowed a few replies.
  expect(prompt.now).toBeLessThanOrEqual(2 * limits.nbd.inFlightRequestsMax);
  raw.socket.resume();
  await raw.hear(asked * (16 + length));
  expect([prompt.now, prompt.calls.read]).toEqual([asked, 0]);
});

test('good-bye behind requests that were served at once: they are answered first', async () => {
  const prompt = new PromptBackend(patchyContent(8192));
  const raw = place.raw(await place.serve(prompt));
  await enterOldStyle(raw);
  raw.say(Buffer.concat([request({}), request({ command: command.disconnect })]));
  expect((await hearSimple(raw)).error).toBe(0);
  expect((await raw.hear(512)).equals(prompt.content.subarray(0, 512))).toBe(true);
});

import { expect, it } from 'vitest';
import { KiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { ReadAhead } from '../../src/store/read-ahead.ts';

const bytes = Buffer.from(Array.from({ length: 4000 * KiB }, (_, at) => (at * 7 + (at >> 9)) % 251));

const allDurable = (): { segment: number; offset: number } => ({ segment: 100, offset: 0 });

/** Segments that all hold `bytes`, and count what they are asked. */
function source({ failing = (from: number, to: number): boolean => to < from } = {}) {
  const asked: number[] = [];
  const readSome = (segment: number, into: Uint8Array, offset: number): Promise<number> => {
    asked.push(into.byteLength);
    if (failing(offset, offset + into.byteLength)) return Promise.reject(new Error('EIO'));
    const part = bytes.subarray(offset, offset + into.byteLength);
    into.set(part);
    if (part.byteLength > 0) into[0] = (part[0] ?? 0) ^ segment;
    return Promise.resolve(part.byteLength);
  };
  const readAt = async (segment: number, into: Uint8Array, offset: number): Promise<void> => {
    if ((await readSome(segment, into, offset)) < into.byteLength) throw new Error('too short');
  };
  return { asked, readSome, readAt };
}

async function check(reads: ReadAhead, segment: number, offset: number, length: number): Promise<void> {
  const into = Buffer.alloc(length);
  await reads.read(segment, into, offset);
  // The first byte of what was read in one piece says of which segment it is.
  expect(into.subarray(1).equals(bytes.subarray(offset + 1, offset + length)), `${segment}:${offset}`).toBe(true);
}

it('reads what follows in large pieces, with gaps between', async () => {
  const from = source();
  const reads = new ReadAhead(from, allDurable);
  for (let at = 0; at + 30_000 < bytes.byteLength; at += 30_700) await check(reads, 0, at, 30_000);
  expect(from.asked.length).toBeLessThan(bytes.byteLength / 30_700 / 4);
});

it('reads here and there what was asked for, and no more', async () => {
  const from = source();
  const reads = new ReadAhead(from, allDurable);
  const places = [900_000, 10, 700_000, 300_000, 5, 1_900_000];
  for (const at of places) await check(reads, 0, at, 5000);
  expect(from.asked).toEqual(places.map(() => 5000));
});

it('never takes one segment for the other', async () => {
  const reads = new ReadAhead(source(), allDurable);
  for (const segment of [1, 2, 1, 2]) {
    for (const at of [0, 1000, 2000]) {
      const into = Buffer.alloc(1000);
      await reads.read(segment, into, at);
      expect(into.subarray(1).equals(bytes.subarray(at + 1, at + 1000))).toBe(true);
    }
  }
  // 0, read alone; 1,000 with what follows it; 2,000 out of that: the mark of its segment stands at the begin of what was read.
  const into = Buffer.alloc(1000);
  const other = new ReadAhead(source(), allDurable);
  await other.read(4, into, 0);
  await other.read(8, into, 1000);
  expect(into[0]).toBe((bytes[1000] ?? 0) ^ 8);
});

it('is not stopped by what it met ahead: an error, or the end of the file', async () => {
  const bad = 500_000;
  const reads = new ReadAhead(source({ failing: (from, to) => from <= bad && bad < to }), allDurable);
  for (let at = 0; at < bad - 20_000; at += 20_000) await check(reads, 0, at, 20_000);
  await expect(reads.read(0, Buffer.alloc(20_000), 490_000)).rejects.toThrow('EIO');
  await check(reads, 0, bad + 1, 20_000);
  const last = new ReadAhead(source(), allDurable);
  const end = bytes.byteLength;
  for (let at = end - 100_000; at < end; at += 10_000) await check(last, 0, at, 10_000);
  await expect(last.read(0, Buffer.alloc(1), end)).rejects.toThrow('too short');
});

it('reads alone what is larger than what it reads ahead', async () => {
  const reads = new ReadAhead(source(), allDurable);
  await check(reads, 0, 0, 100);
  await check(reads, 0, 100, limits.store.replayReadBytes + 1);
  await check(reads, 0, limits.store.replayReadBytes + 101, 100);
});

it('keeps nothing that was not durable when it was read', async () => {
  const written = Buffer.alloc(1000 * KiB);
  bytes.copy(written, 0, 0, 300 * KiB);
  let end = { segment: 3, offset: 250 * KiB };
  const readSome = (_segment: number, into: Uint8Array, offset: number): Promise<number> =>
    Promise.resolve(written.copy(into, 0, offset, offset + into.byteLength));
  const readAt = async (segment: number, into: Uint8Array, offset: number): Promise<void> => {
    await readSome(segment, into, offset);
  };
  const reads = new ReadAhead({ readSome, readAt }, () => end);
  for (const segment of [3, 4]) {
    for (const at of [100 * KiB, 110 * KiB, 120 * KiB]) await check(reads, segment, at, 10 * KiB);
    // What stood there was another's, given up, or nothing.
    bytes.copy(written, 250 * KiB, 250 * KiB, 600 * KiB);
    await check(reads, segment, 245 * KiB, 10 * KiB);
    await check(reads, segment, 400 * KiB, 10 * KiB);
    end = { segment: 3, offset: 600 * KiB };
    written.fill(0, 250 * KiB);
  }
});

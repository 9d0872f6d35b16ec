/**
 * The one suite every NBD backend must pass (rules in `src/nbd/backend.ts`). A room runs it against its own:
 *
 *   backendContract('the write splitter', async (content) => ({ backend, end: () => … }));
 *
 * `make` gets the bytes the disk holds at the start (any multiple of 512 bytes; the maker may keep a copy, not the buffer).
 * Requests are byte-granular: the server advertises a smallest request of one byte. A read-only backend gets the reading half
 * and must refuse the rest with `EPERM`.
 */
import fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import type { Backend, Extent } from '../../src/nbd/backend.ts';
import { isProblem } from '../../src/kit/problem.ts';

export interface BackendUnderTest {
  readonly backend: Backend;
  /** Ends it and removes what it left. */
  end(): Promise<void>;
}

export interface ContractOptions {
  /** Random command sequences to try; default 20. */
  readonly runs?: number;
}

export type MakeBackend = (content: Buffer) => Promise<BackendUnderTest>;

/** No power of two, and its end lies in the middle of a block and of a page of every allowed geometry. */
const oddSize = 1_048_576 + 3 * 512;

/** Repeatable bytes: stretches of zeros and of noise, borders off every power of two. */
export function patchyContent(size: number, seed = 1): Buffer {
  const content = Buffer.alloc(size);
  let state = seed >>> 0 || 1;
  const next = (): number => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
  for (let at = 0; at < size;) {
    const stretch = 1 + (next() % 150_000);
    if (next() % 3 !== 0)
      for (let index = at; index < Math.min(size, at + stretch); index += 1) content[index] = next();
    at += stretch;
  }
  return content;
}

export function backendContract(name: string, make: MakeBackend, options: ContractOptions = {}): void {
  describe(`backend contract: ${name}`, () => {
    const running: BackendUnderTest[] = [];
    const open = async (content: Buffer): Promise<Backend> => {
      const made = await make(content);
      running.push(made);
      return made.backend;
    };
    const endAll = async (): Promise<void> => {
      for (const made of running.splice(0)) await made.end();
    };
    afterEach(endAll);

    readingRules(open);
    writingRules(open);
    againstModel(open, endAll, options.runs ?? 20);
  });
}

type Open = (content: Buffer) => Promise<Backend>;

function readingRules(open: Open): void {
  test.each([512, 4096, oddSize])('a disk of %i bytes reads back whole', async (size) => {
    const content = patchyContent(size);
    const backend = await open(content);
    expect(backend.size).toBe(size);
    expectSame(await readBack(backend, 0, size), content);
  });

  test('any byte range can be read, many at a time', async () => {
    const content = patchyContent(oddSize, 2);
    const backend = await open(content);
    const ranges: readonly (readonly [number, number])[] = [
      [0, 1],
      [511, 2],
      [4095, 4098],
      [65_535, 65_538],
      [1_048_575, 2],
      [oddSize - 1, 1],
      [oddSize - 700, 700],
      [12_345, 654_321],
    ];
    const results = await Promise.all(ranges.map(([offset, length]) => readBack(backend, offset, length)));
    results.forEach((bytes, index) => {
      const [offset, length] = ranges[index] ?? [0, 0];
      expect(bytes.equals(content.subarray(offset, offset + length)), `read ${offset}+${length}`).toBe(true);
    });
  });

  test('read writes nothing outside the buffer it was given', async () => {
    const content = patchyContent(oddSize, 3);
    const backend = await open(content);
    const whole = Buffer.alloc(10_000, 0xa5);
    await backend.read(whole.subarray(100, 9_000), 777);
    expect(whole.subarray(0, 100).every((byte) => byte === 0xa5)).toBe(true);
    expect(whole.subarray(9_000).every((byte) => byte === 0xa5)).toBe(true);
    expect(whole.subarray(100, 9_000).equals(content.subarray(777, 777 + 8_900))).toBe(true);
  });

  sharedRules(open);
}

/** Rules for reading that are about more than bytes. */
function sharedRules(open: Open): void {
  test('extents cover the range, differ from their neighbours and never call data zero', async () => {
    const content = patchyContent(oddSize, 4);
    const backend = await open(content);
    for (const [offset, length] of [
      [0, oddSize],
      [1, 4096],
      [oddSize - 513, 513],
      [70_001, 500_000],
    ] as const) {
      await checkExtents(backend, content, offset, length);
    }
  });

  test('a flush resolves', async () => {
    const backend = await open(patchyContent(4096));
    await backend.flush();
  });

  test('a read-only backend refuses to write with EPERM', async ({ skip }) => {
    const content = patchyContent(oddSize, 5);
    const backend = await open(content);
    skip(!backend.readOnly, 'it is writable');
    for (const attempt of [
      () => backend.write(Buffer.alloc(512, 1), 0, false),
      () => backend.write(Buffer.alloc(1, 1), 513, true),
      () => backend.zero(0, 4096, false, true),
    ]) {
      const error = await attempt().then(
        () => undefined,
        (reason: unknown) => reason,
      );
      expect(isProblem(error) && error.code).toBe('EPERM');
    }
    expectSame(await readBack(backend, 0, oddSize), content);
  });
}

function writingRules(open: Open): void {
  test('a resolved write is seen by every later read; the buffer may be reused at once', async ({ skip }) => {
    const expected = patchyContent(oddSize, 6);
    const backend = await open(Buffer.from(expected));
    skip(backend.readOnly, 'it is read-only');
    const scratch = Buffer.alloc(200_000);
    for (const [offset, length, fua] of [
      [0, 1, false],
      [4095, 2, true],
      [65_000, 200_000, false],
      [oddSize - 1, 1, true],
    ] as const) {
      const data = scratch.subarray(0, length).fill(offset % 251 || 7);
      data.copy(expected, offset);
      await backend.write(data, offset, fua);
      scratch.fill(0xee);
      expect((await readBack(backend, offset, length)).equals(expected.subarray(offset, offset + length))).toBe(true);
    }
    await backend.flush();
    expectSame(await readBack(backend, 0, oddSize), expected);
  });

  test('zero makes zeros, byte for byte, unmapping or not', async ({ skip }) => {
    const expected = Buffer.alloc(oddSize, 0x5a);
    const backend = await open(Buffer.from(expected));
    skip(backend.readOnly, 'it is read-only');
    const ranges = [
      [0, 1, false, true],
      [4000, 5000, true, false],
      [65_536, 131_072, false, true],
      [300_001, 99_999, false, false],
      [oddSize - 513, 513, true, true],
    ] as const;
    for (const [offset, length, fua, mayUnmap] of ranges) {
      await backend.zero(offset, length, fua, mayUnmap);
      expected.fill(0, offset, offset + length);
      expectSame(await readBack(backend, 0, oddSize), expected, `zero ${offset}+${length}`);
    }
    await checkExtents(backend, expected, 0, oddSize);
    await backend.zero(0, oddSize, false, true);
    expectSame(await readBack(backend, 0, oddSize), Buffer.alloc(oddSize));
  });

  test('writes side by side into one block do not lose each other', async ({ skip }) => {
    const expected = Buffer.alloc(oddSize);
    const backend = await open(Buffer.from(expected));
    skip(backend.readOnly, 'it is read-only');
    const step = 700;
    const writes = Array.from({ length: 300 }, (_, index) => {
      const data = Buffer.alloc(step, index + 1);
      data.copy(expected, index * step);
      return backend.write(data, index * step, index % 50 === 0);
    });
    await Promise.all([...writes, backend.flush()]);
    expectSame(await readBack(backend, 0, oddSize), expected);
  });
}

type Command =
  | {
      readonly kind: 'write';
      readonly offset: number;
      readonly length: number;
      readonly byte: number;
      readonly fua: boolean;
    }
  | { readonly kind: 'zero'; readonly offset: number; readonly length: number; readonly mayUnmap: boolean }
  | { readonly kind: 'read' | 'extents'; readonly offset: number; readonly length: number }
  | { readonly kind: 'flush' };

const modelBytes = 300_000 - (300_000 % 512);
const range = fc
  .tuple(fc.nat(modelBytes - 1), fc.oneof(fc.integer({ min: 1, max: 9_000 }), fc.integer({ min: 1, max: modelBytes })))
  .map(([offset, length]) => ({ offset, length: Math.min(length, modelBytes - offset) }));
const command: fc.Arbitrary<Command> = fc.oneof(
  fc
    .tuple(range, fc.integer({ min: 1, max: 255 }), fc.boolean())
    .map(([at, byte, fua]) => ({ kind: 'write' as const, ...at, byte, fua })),
  fc.tuple(range, fc.boolean()).map(([at, mayUnmap]) => ({ kind: 'zero' as const, ...at, mayUnmap })),
  range.map((at) => ({ kind: 'read' as const, ...at })),
  range.map((at) => ({ kind: 'extents' as const, ...at })),
  fc.constant({ kind: 'flush' as const }),
);

function againstModel(open: Open, endAll: () => Promise<void>, runs: number): void {
  test('any sequence of commands leaves what a plain array would hold', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(command, { minLength: 1, maxLength: 30 }), fc.nat(1000), async (commands, seed) => {
        const model = patchyContent(modelBytes, seed + 1);
        const backend = await open(Buffer.from(model));
        for (const one of commands) await apply(backend, model, one);
        expect((await readBack(backend, 0, modelBytes)).equals(model)).toBe(true);
        await endAll();
      }),
      { numRuns: runs },
    );
  });
}

async function apply(backend: Backend, model: Buffer, one: Command): Promise<void> {
  switch (one.kind) {
    case 'write': {
      if (backend.readOnly) return;
      model.fill(one.byte, one.offset, one.offset + one.length);
      await backend.write(Buffer.alloc(one.length, one.byte), one.offset, one.fua);
      return;
    }
    case 'zero': {
      if (backend.readOnly) return;
      model.fill(0, one.offset, one.offset + one.length);
      await backend.zero(one.offset, one.length, false, one.mayUnmap);
      return;
    }
    case 'read': {
      const bytes = await readBack(backend, one.offset, one.length);
      expect(bytes.equals(model.subarray(one.offset, one.offset + one.length))).toBe(true);
      return;
    }
    case 'extents': {
      await checkExtents(backend, model, one.offset, one.length);
      return;
    }
    case 'flush':
      await backend.flush();
  }
}

/** Far quicker than `toEqual` on a megabyte. */
function expectSame(actual: Buffer, expected: Buffer, what = 'the disk'): void {
  expect(actual.equals(expected), `${what} holds what it should`).toBe(true);
}

/** Reads into a buffer of noise, so that a byte left out is noticed. */
async function readBack(backend: Backend, offset: number, length: number): Promise<Buffer> {
  const into = Buffer.alloc(length, 0xc3);
  await backend.read(into, offset);
  return into;
}

async function checkExtents(backend: Backend, content: Buffer, offset: number, length: number): Promise<void> {
  let at = offset;
  for (let calls = 0; at < offset + length; calls += 1) {
    const extents: readonly Extent[] = await backend.extents(at, offset + length - at);
    expect(extents.length, 'at least one extent').toBeGreaterThan(0);
    extents.forEach((extent, index) => {
      const previous = extents[index - 1];
      if (previous) expect([extent.zero, extent.hole]).not.toEqual([previous.zero, previous.hole]);
      expect(extent.length, 'an extent is not empty').toBeGreaterThan(0);
      if (extent.zero) {
        const stretch = content.subarray(at, at + extent.length);
        expect(stretch.equals(Buffer.alloc(stretch.byteLength)), `zero at ${at}+${extent.length}`).toBe(true);
      }
      at += extent.length;
    });
    expect(at, 'extents end within the range').toBeLessThanOrEqual(offset + length);
    expect(calls, 'extents make headway').toBeLessThan(10_000);
  }
}

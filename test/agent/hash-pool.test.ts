/** Hashing in worker threads: the same leaves as on this thread, whatever lies where; and what can be wrong with the file. */
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, beforeEach, expect, test } from 'vitest';
import { inlineHasher, type Run } from '../../src/agent/hash-blocks.ts';
import { HashPool } from '../../src/agent/hash-pool.ts';
import { hashRuns } from '../../src/agent/hash-runs.ts';
import type { CaptureDisk } from '../../src/capture/contract.ts';
import { geometryOf } from '../../src/disk/geometry.ts';
import { leafOf } from '../../src/kernels/hash.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';

const leafKey = new Uint8Array(32).fill(7);
const inline = inlineHasher(systemClock);
const pool = new HashPool({ threads: 2, inline });

let directory = '';
let image = '';
beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'tidemark-hash-'));
  image = path.join(directory, 'vda.raw');
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});
afterAll(() => pool.close());

/** What the hashers use of a capture. */
function captured(size: number, blockSize: number, inode = statSync(image, { bigint: true }).ino): CaptureDisk {
  const capture: Partial<CaptureDisk> = {
    name: 'vda',
    geometry: geometryOf(size, blockSize),
    source: { path: image, inode },
  };
  return capture as CaptureDisk;
}

interface Content {
  /** In units of 1 KiB. */
  readonly at: number;
  readonly length: number;
  readonly zeros: boolean;
}

/** A sparse file with something here and there; returns what is in it. */
function write(size: number, parts: readonly Content[]): Buffer {
  const fd = openSync(image, 'w');
  ftruncateSync(fd, size);
  const content = Buffer.alloc(size);
  for (const { at, length, zeros } of parts) {
    const start = (at * 1024) % size;
    const bytes = Buffer.alloc(Math.min(length * 1024, size - start), zeros ? 0 : `${at}:${length};`);
    writeSync(fd, bytes, 0, bytes.byteLength, start);
    content.set(bytes, start);
  }
  closeSync(fd);
  return content;
}

function plainLeaves(content: Buffer, blockSize: number, runs: readonly Run[]): Buffer {
  const leaves: Uint8Array[] = [];
  for (const { first, count } of runs) {
    for (let block = first; block < first + count; block += 1) {
      const whole = Buffer.alloc(blockSize);
      content.copy(whole, 0, block * blockSize, (block + 1) * blockSize);
      leaves.push(leafOf(leafKey, whole));
    }
  }
  return Buffer.concat(leaves);
}

test('holes, zeros, data and a last block that is not whole give the leaves of the whole blocks', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(4096, 65_536, 1_048_576),
      fc.integer({ min: 1, max: 9000 }),
      fc.array(fc.record({ at: fc.nat(9000), length: fc.integer({ min: 1, max: 900 }), zeros: fc.boolean() }), {
        maxLength: 6,
      }),
      fc.array(fc.tuple(fc.nat(60), fc.integer({ min: 1, max: 60 })), { minLength: 1, maxLength: 4 }),
      async (blockSize, sectors, parts, gaps) => {
        const size = sectors * 512;
        const content = write(size, parts);
        const { blockCount } = geometryOf(size, blockSize);
        const runs: Run[] = [];
        let next = 0;
        for (const [gap, count] of gaps) {
          const first = next + gap;
          if (first >= blockCount) break;
          runs.push({ first, count: Math.min(count, blockCount - first) });
          next = first + count + 1;
        }
        const file = await posixFiles.open(image, 'read');
        const { inode } = file.facts();
        const flat = Uint32Array.from(runs.flatMap(({ first, count }) => [first, count]));
        const leaves = hashRuns(file, { path: image, inode, size, blockSize, leafKey, runs: flat });
        await file.close();
        expect(plainLeaves(content, blockSize, runs).equals(leaves)).toBe(true);
      },
    ),
    { numRuns: 200 },
  );
});

test('threads give what this thread gives', async () => {
  const size = 5_000_192;
  const content = write(size, [{ at: 100, length: 2000, zeros: false }]);
  const runs = [
    { first: 0, count: 40 },
    { first: 50, count: 27 },
  ];
  const capture = captured(size, 65_536);
  const read: CaptureDisk['readBlocks'] = (block, into) => {
    into.fill(0);
    content.copy(into, 0, block * 65_536, (block + 1) * 65_536);
    return Promise.resolve();
  };
  const here = await inline.hash({ ...capture, readBlocks: read }, leafKey, runs);
  const there = await Promise.all([1, 2, 3].map(() => pool.hash(capture, leafKey, runs)));
  for (const leaves of there) expect(Buffer.compare(leaves, here)).toBe(0);
  // Without a file of its own it is read through the capture.
  const through = await pool.hash({ ...capture, readBlocks: read, source: null }, leafKey, runs);
  expect(Buffer.compare(through, here)).toBe(0);
});

/** Of a pool whose threads have opened nothing yet. */
async function failure(capture: CaptureDisk, runs: readonly Run[]): Promise<unknown> {
  const fresh = new HashPool({ threads: 1, inline });
  try {
    return await fresh.hash(capture, leafKey, runs).catch((error: unknown) => error);
  } finally {
    await fresh.close();
  }
}

test('another file in its place, or none, is said with its name', async () => {
  write(100_352, [{ at: 1, length: 40, zeros: false }]);
  const capture = captured(100_352, 4096);
  const runs = [{ first: 0, count: 5 }];
  await pool.hash(capture, leafKey, runs);
  renameSync(image, `${image}.old`);
  await expect(failure(capture, runs)).resolves.toMatchObject({ code: 'ENOENT', retryable: true });
  writeFileSync(image, Buffer.alloc(100_352, 'other'));
  await expect(failure(capture, runs)).resolves.toMatchObject({ code: 'source-replaced' });
});

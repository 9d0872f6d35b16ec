/**
 * What a leaf file keeps in its spill file when that one fails, once, at each of its operations: who was told can do the same again, or go back
 * to the committed leaves, and finds no leaf that is another block's.
 */
import { expect, test } from 'vitest';
import { geometryOf } from '../../src/disk/geometry.ts';
import { merkleHashes } from '../../src/kernels/hash.ts';
import type { File, Files } from '../../src/posix/files.ts';
import { LeafFile } from '../../src/store/leaf-file.ts';
import { chunkBytes } from '../../src/store/leaf-overlay.ts';
import { systemError } from '../simulated-file.ts';
import { SimulatedFiles } from '../simulated-files.ts';

const blockSize = 4096;
const chunk = 1024;
const chunks = 6;
const blocks = chunks * chunk - 100;

interface Failing {
  readonly files: Files;
  /** The n-th operation from now on fails; 0: none. */
  arm: (n: number) => void;
  fired: () => boolean;
}

/** Of files whose name ends in `suffix` one synchronous read or write fails, half-way. */
function failing(suffix: string): Failing {
  const simulated = new SimulatedFiles(['/state']);
  let count = 0;
  let n = 0;
  const watched = (file: File): File =>
    new Proxy(file, {
      get: (target, name) => {
        const found: unknown = Reflect.get(target, name);
        if (typeof found !== 'function') return found;
        if (name !== 'readSync' && name !== 'writeSync') return found.bind(target) as unknown;
        return (bytes: Uint8Array, position: number): unknown => {
          count += 1;
          if (count !== n) return found.call(target, bytes, position) as unknown;
          const half = bytes.subarray(0, bytes.byteLength / 2);
          if (name === 'readSync') half.fill(0xee);
          else found.call(target, half, position);
          throw systemError(name === 'readSync' ? 'EIO' : 'ENOSPC', suffix);
        };
      },
    });
  const open = simulated.open.bind(simulated);
  simulated.open = async (...what) => {
    const file = await open(...what);
    return file.path.endsWith(suffix) ? watched(file) : file;
  };
  const arm = (at: number): void => {
    [count, n] = [0, at];
  };
  return { files: simulated, arm, fired: () => count >= n };
}

function leaf(block: number, round: number): Uint8Array {
  const bytes = Buffer.alloc(32, round);
  bytes.writeUInt32LE(block, 0);
  return bytes;
}

/** Two rounds of leaves over all chunks, in an order that keeps changing chunks, each read back and committed. */
async function live(
  leaves: LeafFile,
  model: Map<number, Uint8Array>,
  tell: (run: () => Promise<void>) => Promise<void>,
): Promise<void> {
  for (let round = 1; round <= 2; round += 1) {
    for (let at = 0; at < chunks * 3; at += 1) {
      const block = ((at * 5) % chunks) * chunk + at * 7;
      await tell(() => {
        leaves.set(block, leaf(block, round));
        return Promise.resolve();
      });
      model.set(block, leaf(block, round));
    }
    await tell(() => {
      for (const [block, bytes] of model) expect(Buffer.compare(leaves.get(block), bytes)).toBe(0);
      return Promise.resolve();
    });
    await tell(() => leaves.commit());
  }
}

function expectAll(leaves: LeafFile, model: ReadonlyMap<number, Uint8Array>, what: string): void {
  const all = leaves.leavesOf(0, blocks);
  const expected = Buffer.alloc(blocks * 32);
  for (const [block, bytes] of model) expected.set(bytes, block * 32);
  expect(Buffer.compare(all, expected), what).toBe(0);
  expect(leaves.workingRoot(), what).toEqual(leaves.committedRoot());
}

const open = (files: Files): Promise<LeafFile> =>
  LeafFile.open({
    files,
    path: '/state/vda.leaves',
    geometry: geometryOf(blocks * blockSize, blockSize),
    hashes: merkleHashes,
    overlayMemoryBytes: 2 * chunkBytes,
  });

test.each(['.overlay', '.leaves'])('%s: what failed is done again, and nothing of it is lost', async (suffix) => {
  let n = 1;
  for (; ; n += 1) {
    const { files, arm, fired } = failing(suffix);
    let told = 0;
    const leaves = await open(files);
    arm(n);
    const model = new Map<number, Uint8Array>();
    await live(leaves, model, async (run) => {
      try {
        await run();
      } catch (error) {
        expect(error, `operation ${n}`).toMatchObject({ code: expect.stringMatching(/^(EIO|ENOSPC)$/) as string });
        told += 1;
        await run();
      }
    });
    if (!fired()) break;
    expect(told, `operation ${n}`).toBe(1);
    arm(0);
    expectAll(leaves, model, `operation ${n}`);
    await leaves.close();
    expectAll(await open(files), model, `operation ${n}, opened again`);
  }
  expect(n).toBeGreaterThan(20);
});

test('.overlay: after a failure the committed leaves are there again, and the next commit is whole', async () => {
  let n = 1;
  for (; ; n += 1) {
    const { files, arm } = failing('.overlay');
    const leaves = await open(files);
    const model = new Map<number, Uint8Array>();
    const plainly = (run: () => Promise<void>): Promise<void> => run();
    await live(leaves, model, plainly);
    arm(n);
    try {
      for (const round of [3, 4]) for (const block of model.keys()) leaves.set(block, leaf(block, round));
      break;
    } catch {
      arm(0);
      leaves.discard();
    }
    expectAll(leaves, model, `operation ${n}`);
    await live(leaves, model, plainly);
    expectAll(leaves, model, `operation ${n}, and on`);
  }
  expect(n).toBeGreaterThan(5);
});

test('.leaves: half a chunk that was read did not pass for the one that was read before', async () => {
  const { files, arm } = failing('.leaves');
  const leaves = await open(files);
  for (const block of [0, chunk]) leaves.set(block, leaf(block, 1));
  await leaves.commit();
  expect(leaves.get(0)).toEqual(new Uint8Array(leaf(0, 1)));
  arm(1);
  expect(() => leaves.get(chunk)).toThrow('EIO');
  expect(leaves.get(0)).toEqual(new Uint8Array(leaf(0, 1)));
});

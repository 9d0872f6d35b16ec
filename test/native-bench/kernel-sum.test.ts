/** The sum of the kernels can be measured, and adds up; the figures of a run this small say nothing. */
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { kernelSumLines, measureKernelSum } from '../../native-bench/kernel-sum.ts';
import { systemRandom } from '../../src/kit/random.ts';

const blockBytes = 65_536;
const [textBlocks, randomBlocks, zeroBlocks] = [23, 12, 5];
let directory = '';
let image = '';

beforeAll(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-kernel-sum-test-'));
  image = path.join(directory, 'disk.raw');
  const text = Buffer.alloc(
    textBlocks * blockBytes,
    'Nov 03 12:00:01 web1 sshd[4711]: Accepted publickey for deploy\n',
  );
  await writeFile(
    image,
    Buffer.concat([text, systemRandom.bytes(randomBlocks * blockBytes), Buffer.alloc(zeroBlocks * blockBytes)]),
  );
});

afterAll(() => rm(directory, { recursive: true, force: true }));

it('every kernel of every role costs something on the bytes the product gives it, and the sums are theirs', async () => {
  const figures = await measureKernelSum(image, { compression: 'lz4', quick: true, directory });
  const { input, processServer, agent, target } = figures;
  const blocks = textBlocks + randomBlocks + zeroBlocks;
  expect(input).toMatchObject({ sampledBytes: blocks * blockBytes, blocks, zeroBlocks, rawBlocks: randomBlocks });
  // Zero blocks are not sent; text shrinks, noise does not.
  const notZero = (textBlocks + randomBlocks) * blockBytes;
  expect(input.plainFrameBytes).toBeGreaterThan(notZero);
  expect(input.plainFrameBytes).toBeLessThan(notZero + 8192);
  expect(input.sealedFrameBytes).toBeGreaterThan(randomBlocks * blockBytes);
  expect(input.sealedFrameBytes).toBeLessThan((randomBlocks + 2) * blockBytes);
  for (const { kernels, sumSecondsPerGB } of [processServer, agent, target]) {
    const costs = Object.values(kernels);
    for (const { user, system, total } of costs) {
      expect(total).toBeGreaterThan(0);
      expect(user + system).toBeCloseTo(total, 3);
    }
    expect(sumSecondsPerGB).toBeCloseTo(
      costs.reduce((sum, { total }) => sum + total, 0),
      2,
    );
  }
  expect(figures.sumSecondsPerGB).toBe(processServer.sumSecondsPerGB);
  expect(figures.allRolesSumSecondsPerGB).toBeGreaterThan(figures.sumSecondsPerGB);
  expect(figures.lz4Alone.total).toBeGreaterThan(0);
  expect(kernelSumLines(figures).join('\n')).toContain('tlsReceive');
  // Authority and segment were its own.
  expect(await readdir(directory)).toEqual(['disk.raw']);
});

it('says what is wrong with an image that is none', async () => {
  await expect(measureKernelSum(path.join(directory, 'missing'), { compression: 'off' })).rejects.toThrow('ENOENT');
});

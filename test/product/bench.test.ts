/** The benchmarks run, tiny, so that they are there when figures are wanted; what they measure here says nothing. */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { makeContent } from '../../scripts/bench/content.ts';
import { hasChildren } from '../../scripts/bench/cpu.ts';
import { peerNames, peersOf } from '../../scripts/bench/peers.ts';
import type { ResyncResult } from '../../scripts/bench/resync.ts';
import { requireTool } from '../tools.ts';

const benchMsMax = 120_000;
const script = fileURLToPath(new URL('../../dist/scripts/bench.js', import.meta.url));

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function bench(words: readonly string[], environment: Readonly<Record<string, string>> = {}): Promise<Ran> {
  return new Promise((resolve) => {
    const options = { timeout: benchMsMax - 5_000, env: { ...process.env, ...environment } };
    const child = execFile(process.execPath, [script, ...words], options, (_, stdout, stderr) => {
      resolve({ code: child.exitCode ?? 255, stdout, stderr });
    });
  });
}

const left = async (): Promise<string[]> =>
  (await readdir(tmpdir())).filter((name) => name.startsWith('tidemark-bench-'));

it.skipIf(!requireTool('rsync'))(
  'measures a resync beside its peer, in one JSON object, and leaves nothing behind',
  { timeout: benchMsMax },
  async () => {
    const before = await left();
    const { code, stdout, stderr } = await bench(['--only', 'resync', '--size', '8M', '--seed', '7', '--json']);
    expect(code, stderr).toBe(0);
    const { machine, resync } = JSON.parse(stdout) as { machine: object; resync: ResyncResult };
    expect(machine).toMatchObject({ cores: expect.any(Number) as number, node: process.version });
    expect(resync.disk).toEqual({ bytes: 8 * 1024 ** 2, blocksChanged: 1, seed: 7 });
    // The source was truly read, and one block travelled, once.
    expect(resync.blocksHashed).toBeGreaterThanOrEqual(128);
    expect(resync.identical.blocksHashed).toBeGreaterThanOrEqual(128);
    expect(resync.payloadBytesSent).toBe(65_536);
    expect(resync.identical.payloadBytesSent).toBe(0);
    expect(resync.identical.checksumsCompared).toBeGreaterThanOrEqual(1);
    expect(resync.checksumsCompared).toBe(1 + 128);
    expect(resync.bytesOnWire).toBeGreaterThan(65_536);
    expect(resync.identical.bytesOnWire).toBeLessThan(32_768);
    if (resync.peers === 'absent') throw new Error('rsync was not found');
    for (const { changed, identical } of resync.peers) {
      expect(changed.bytesOnWire).toBeGreaterThan(65_536);
      expect(identical.bytesOnWire).toBeLessThan(65_536);
    }
    const best = Math.min(...resync.peers.map(({ changed }) => changed.seconds));
    expect(resync.ratio).toBeCloseTo(best / resync.seconds, 1);
    expect(await left()).toEqual(before);
  },
);

it.skipIf(!requireTool('rsync', 'qemu-nbd', 'qemu-img', 'nbdcopy', 'lz4', 'zstd', 'openssl'))(
  'moves an image by what users would pick instead, twice each, checked, and leaves nothing behind',
  { timeout: benchMsMax },
  async () => {
    const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-test-peers-'));
    try {
      const image = path.join(directory, 'disk.raw');
      await makeContent(image, 16 * 1024 ** 2, 7);
      const outputs = path.join(directory, 'outputs');
      await mkdir(outputs);
      const said: string[] = [];
      const { contenders, absent } = await peersOf(image, outputs, (text) => said.push(text));
      expect([absent, said]).toEqual([[], []]);
      expect(contenders.map(({ name }) => name)).toEqual(Object.values(peerNames));
      const before = await readdir(outputs);
      for (const contender of contenders) {
        for (const { seconds, cpuSeconds, remark } of [await contender.run(), await contender.run()]) {
          expect(seconds).toBeGreaterThan(0);
          expect(cpuSeconds, contender.name).toBeGreaterThan(0);
          expect(remark).toContain('processors at work');
        }
      }
      expect(await readdir(outputs)).toEqual(before);
      expect(await hasChildren(process.pid)).toBe(false);
    } finally {
      await rm(directory, { recursive: true });
    }
  },
);

it('says what there is, for a name that is none and a size that is none', async () => {
  const other = await bench(['--only', 'teleport']);
  expect(other).toMatchObject({ code: 2, stdout: '' });
  expect(other.stderr).toContain('there is resync');
  const odd = await bench(['--size', '100000']);
  expect(odd).toMatchObject({ code: 2, stdout: '' });
  expect(odd.stderr).toContain('--size 100000');
});

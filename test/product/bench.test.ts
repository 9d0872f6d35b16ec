/** The benchmarks run, tiny, so that they are there when figures are wanted; what they measure here says nothing. */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { captureLines, measureCapture } from '../../scripts/bench/capture.ts';
import { makeContent } from '../../scripts/bench/content.ts';
import { hasChildren } from '../../scripts/bench/cpu.ts';
import { median } from '../../scripts/bench/figures.ts';
import { peerNames, peersOf } from '../../scripts/bench/peers.ts';
import type { PipelineFigures } from '../../scripts/bench/pipeline.ts';
import { lagsOf, type LagResult } from '../../scripts/bench/lag.ts';
import type { RecoveryResult } from '../../scripts/bench/recovery.ts';
import type { ResyncResult } from '../../scripts/bench/resync.ts';
import type { ScalingResult } from '../../scripts/bench/scaling.ts';
import { slowSync } from '../../scripts/bench/slow-sync.ts';
import type { SmallWritesRow } from '../../scripts/bench/small-writes.ts';
import { requireTool, runToolOk } from '../tools.ts';

const benchMsMax = 120_000;
const script = fileURLToPath(new URL('../../dist/scripts/bench.js', import.meta.url));

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** With a directory of its own for temporary files, which must be empty afterwards. */
async function bench(words: readonly string[]): Promise<Ran> {
  const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-test-'));
  try {
    const ran = await new Promise<Ran>((resolve) => {
      const options = { timeout: benchMsMax - 5_000, env: { ...process.env, TMPDIR: directory } };
      const child = execFile(process.execPath, [script, ...words], options, (_, stdout, stderr) => {
        resolve({ code: child.exitCode ?? 255, stdout, stderr });
      });
    });
    expect(await readdir(directory), ran.stderr).toEqual([]);
    return ran;
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** Two at a time: each waits as long as it computes. */
const beside = { timeout: benchMsMax, concurrent: true };

describe('recovery beside many agents', () => {
  it.skipIf(!requireTool('nbdcopy') || !requireTool('fio'))(
    'measures recovery, in one JSON object, and leaves nothing behind',
    beside,
    async () => {
      const { code, stdout, stderr } = await bench(['--only', 'recovery', '--size', '8M', '--quick', '--json']);
      expect(code, stderr).toBe(0);
      const { recovery } = JSON.parse(stdout) as { recovery: RecoveryResult };
      expect(recovery.disk).toEqual({ bytes: 8 * 1024 ** 2, points: 3, pointRead: 1 });
      expect(recovery.firstBlock.turns).toHaveLength(2);
      expect(recovery.manyPoints).toMatchObject({ points: 200 });
      for (const seconds of [recovery.firstBlockSeconds, recovery.manyPoints.firstBlockSeconds])
        expect(seconds).toBeGreaterThan(0.05);
      // At least one segment was given back, and less than that moved.
      expect(recovery.fold.bytesRemoved).toBeGreaterThan(200e6);
      expect(recovery.fold.bytesMoved).toBeLessThan(recovery.fold.bytesRemoved);
      expect(recovery.scrubbedBytes).toBeGreaterThan(300e6);
      for (const figure of [recovery.foldMBps, recovery.foldIngestRatio, recovery.ingestMBps, recovery.scrubGBps])
        expect(figure).toBeGreaterThan(0);
      expect(recovery.read.randomRead.iops).toBeGreaterThan(0);
    },
  );

  it(
    'measures many agents, each with its own point, within the memory the process server may have',
    beside,
    async () => {
      const { code, stdout, stderr } = await bench(['--only', 'scaling', '--quick', '--size', '8M', '--json']);
      expect(code, stderr).toBe(0);
      const { scaling } = JSON.parse(stdout) as { scaling: ScalingResult };
      expect(scaling).toMatchObject([
        { agents: 1, syncMs: 0, bytes: 8 * 1024 ** 2, firstToLast: 1 },
        { agents: 64, syncMs: 0, bytes: 8 * 1024 ** 2 },
        { agents: 64, syncMs: 10, skipped: 'the quick form leaves it out' },
      ]);
      for (const row of scaling) {
        if ('skipped' in row) continue;
        expect(row.mbps).toBeGreaterThan(0);
        for (const cost of Object.values(row.cpuSecondsPerGB)) expect(cost).toBeGreaterThan(0);
        expect(row.rssMiB).toBeGreaterThan(32);
        expect(row.rssMiB).toBeLessThanOrEqual(row.rssMiBGoal);
      }
    },
  );
});

describe('a resync beside steady writes', () => {
  it.skipIf(!requireTool('rsync'))(
    'measures a resync beside its peer, in one JSON object, and leaves nothing behind',
    beside,
    async () => {
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
    },
  );

  it.skipIf(!requireTool('strace'))('measures the lag of every write of a steady rate', beside, async () => {
    const { code, stdout, stderr } = await bench(['--only', 'lag', '--quick', '--size', '8M', '--json']);
    expect(code, stderr).toBe(0);
    const { lag } = JSON.parse(stdout) as { lag: LagResult };
    expect(lag).toMatchObject({ syncMs: 10, syncSkipped: null, intervalSeconds: 1 });
    expect(lag.rates.slice(0, 2)).toMatchObject([
      { mbps: 20, disks: 1 },
      { mbps: 54, disks: 3 },
    ]);
    for (const { mbps, mbpsTaken, seconds, writes, p50Ms, p99Ms, maxMs, points } of lag.rates) {
      expect(writes * 32_768).toBeLessThanOrEqual(mbps * 1e6 * seconds);
      expect(mbpsTaken).toBeLessThanOrEqual(mbps);
      expect(points).toBeGreaterThan(0);
      // A point is several syncs of 10 ms away, and nobody is told before.
      expect(p50Ms).toBeGreaterThan(20);
      expect(p99Ms).toBeGreaterThanOrEqual(p50Ms);
      expect(maxMs).toBeGreaterThanOrEqual(p99Ms);
    }
  });
});

describe('a first replication beside small writes', () => {
  it.skipIf(!requireTool('rsync', 'qemu-nbd', 'qemu-img', 'nbdcopy', 'lz4', 'zstd', 'openssl'))(
    'measures the first replication of a disk beside its peers and its kernels, and leaves nothing behind',
    beside,
    async () => {
      const { code, stdout, stderr } = await bench(['--only', 'pipeline', '--quick', '--size', '32M', '--json']);
      expect(code, stderr).toBe(0);
      const { pipeline, kernels, peers, absentPeers, ratios } = JSON.parse(stdout) as PipelineFigures;
      expect(pipeline).toMatchObject({ bytes: 32 * 1024 ** 2, large: null });
      expect(pipeline.turns).toHaveLength(1);
      const { agent, processServer, target, machine } = pipeline.cpuSecondsPerGB;
      expect(Math.min(agent, processServer, target, pipeline.mbps)).toBeGreaterThan(0);
      expect(machine).toBeCloseTo(agent + processServer + target, 1);
      expect(pipeline.kernelSumSecondsPerGB).toBe(kernels.sumSecondsPerGB);
      expect(ratios.efficiency).toBeCloseTo(kernels.sumSecondsPerGB / processServer, 1);
      expect([peers.map(({ name }) => name), absentPeers]).toEqual([Object.values(peerNames), []]);
      const [rsync] = peers;
      expect(ratios.toPeers['rsync']).toBeCloseTo(pipeline.mbps / (rsync?.mbps ?? 0), 1);
    },
  );

  it('measures small writes, each as a record of its own', beside, async () => {
    const { code, stdout, stderr } = await bench(['--only', 'smallWrites', '--quick', '--size', '8M', '--json']);
    expect(code, stderr).toBe(0);
    const [random, sequential] = (JSON.parse(stdout) as { smallWrites: SmallWritesRow[] }).smallWrites;
    if (!random || !sequential) throw new Error('not all was measured');
    expect(random).toMatchObject({ writes: 128, records: 128, bytesDirtied: 128 * 4096 });
    // Random bytes do not shrink, and what frames them must stay small.
    for (const ratio of Object.values(random.wireRatio)) {
      expect(ratio).toBeGreaterThan(1);
      expect(ratio).toBeLessThan(1.2);
    }
    expect(sequential).toMatchObject({ writes: 512, bytesDirtied: 8 * 1024 ** 2 });
    expect(sequential.records).toBeGreaterThanOrEqual(128);
    expect(sequential.wireRatio.processServerToTarget).toBeLessThan(sequential.wireRatio.agentToProcessServer);
  });
});

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

it.skipIf(!requireTool('fio', 'qemu-nbd', 'nbdkit'))(
  'measures the splitter beside what serves disks without replicating them, and leaves nothing behind',
  { timeout: benchMsMax },
  async () => {
    const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-test-capture-'));
    try {
      const say = (): void => undefined;
      const figures = await measureCapture({ directory, size: 16 * 1024 ** 2, seed: 7, quick: true, say });
      const { absent, cases, churnMbps, sentBytes } = figures;
      expect(absent).toEqual([]);
      expect(cases.map(({ name }) => name)).toEqual([
        '4 KiB random read, depth 16',
        '4 KiB random write, depth 16',
        '256 KiB write',
      ]);
      for (const { name, ours, qemuNbd, nbdkit, untracked, ratios, replicationOn } of cases) {
        const blockBytes = name.startsWith('4 KiB') ? 4_096 : 262_144;
        for (const speed of [ours, qemuNbd, nbdkit, ...(name.includes('write') ? [replicationOn, untracked] : [])]) {
          expect(speed?.p99Ms).toBeGreaterThan(0);
          // Counted with and without the requests under way at the end.
          expect(((speed?.iops ?? 0) * blockBytes) / ((speed?.mbps ?? 0) * 1e6)).toBeGreaterThan(0.5);
          expect(((speed?.iops ?? 0) * blockBytes) / ((speed?.mbps ?? 0) * 1e6)).toBeLessThan(2);
        }
        expect(ratios.qemuNbd?.throughput).toBeCloseTo(ours.iops / (qemuNbd?.iops ?? 0), 1);
        expect(ratios.nbdkit?.throughput).toBeCloseTo(ours.iops / (nbdkit?.iops ?? 0), 1);
      }
      // Off is off and on is on.
      expect(sentBytes.off).toBe(0);
      expect(sentBytes.on).toBeGreaterThan(16 * 1024 ** 2);
      expect(churnMbps).toBeGreaterThan(0);
      expect(captureLines(figures).join()).toContain('replication on ÷ off');
      expect(await hasChildren(process.pid)).toBe(false);
    } finally {
      await rm(directory, { recursive: true });
    }
  },
);

it('says what there is, for a name that is none and a size that is none', async () => {
  const other = await bench(['--only', 'teleport']);
  expect(other).toMatchObject({ code: 2, stdout: '' });
  expect(other.stderr).toMatch(/there is no teleport; there is .*resync/);
  const odd = await bench(['--size', '100000']);
  expect(odd).toMatchObject({ code: 2, stdout: '' });
  expect(odd.stderr).toContain('--size 100000');
});

it.skipIf(!requireTool('strace'))(
  'slows the syncs of a program, which keeps its process id, and nothing else',
  async () => {
    const words = await slowSync(25);
    if (typeof words === 'string') throw new Error(words);
    const file = path.join(tmpdir(), `tidemark-slow-sync-${process.pid}`);
    const timed = `const begun = performance.now(); const took = () => performance.now() - begun;
    const { openSync, writeSync, fsyncSync, fdatasyncSync, rmSync } = require('node:fs');
    const file = openSync(${JSON.stringify(file)}, 'w');
    for (let at = 0; at < 1000; at += 1) writeSync(file, 'x');
    const writes = took();
    for (let at = 0; at < 10; at += 1) (at % 2 ? fsyncSync : fdatasyncSync)(file);
    rmSync(${JSON.stringify(file)});
    console.log(JSON.stringify({ parent: process.ppid, writes, syncs: took() - writes }));`;
    const [program, ...args] = [...words, process.execPath, '-e', timed];
    const { parent, writes, syncs } = JSON.parse(await runToolOk(program, args)) as Record<string, number>;
    // The tracer does not stand in between, so signals and CPU time are the program's own.
    expect(parent).toBe(process.pid);
    expect(syncs).toBeGreaterThanOrEqual(10 * 25);
    expect(writes).toBeLessThan(1000 * 25);
  },
);

it('counts the lag of a write to the first point that has it', () => {
  const point = (atMs: number, writes: readonly number[]) => ({ atMs, cutTimeMs: 0, writes });
  const points = [point(1000, [9, 2]), point(2000, [9, 3]), point(3000, [9, 7])];
  expect(lagsOf(points, 1, 0, [100, 200, 300, 400])).toEqual([900, 800, 1700, 2600]);
  // The first two writes were made before.
  expect(lagsOf(points, 1, 2, [1500, 1600])).toEqual([500, 1400]);
  expect(() => lagsOf(points, 1, 6, [2500, 2600])).toThrow('no point has');
});

it('takes the middle of its turns, and the mean of the two in the middle', () => {
  expect(median([30, 1, 2])).toBe(2);
  expect(median([4, 1, 30, 3])).toBe(3.5);
  expect(median([7])).toBe(7);
  expect(median([])).toBeNaN();
});

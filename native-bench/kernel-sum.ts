/**
 * The kernel sum: what the bytes of one image cost each role in kernels alone, so that a measurement of the whole product can be held against it.
 *
 *   node native-bench/kernel-sum.ts IMAGE [--compression lz4|zstd|off] [--sample BYTES] [--directory DIR] [--json]
 *
 * Runs in a process of its own, so that the state of whoever asks (heap, caches, threads) does not matter; a sample of the image is enough. What is in
 * it and what is not stands in README.md.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import type { Compression } from '../src/kernels/compress.ts';
import { providers } from '../src/kernels/providers.ts';
import { MiB } from '../src/kit/sizes.ts';
import { posixFiles, type File } from '../src/posix/files.ts';
import { rounded, type CpuPerGB, type Meter } from './cost.ts';
import { measureAppend, measureRead } from './file-cost.ts';
import { measureSample, type Sample } from './kernel-sample.ts';
import { predict } from './predict.ts';
import { makeCredentials, measureReceive, measureSend } from './tls-cost.ts';
import { sum } from './tls-transfer.ts';

export interface KernelSumOptions {
  readonly compression: Compression;
  /** At most so many bytes of the image are measured, in batches spread evenly over it. Default 256 MiB, with `quick` 32 MiB. */
  readonly sampleBytes?: number;
  readonly quick?: boolean;
  /** On the file system whose writes shall be measured; holds some temporary files. Default: beside the image. */
  readonly directory?: string;
}

/** The kernels of one role. All CPU figures are seconds per GB (10⁹ bytes) of the disk's content, however many of them the kernel sees. */
export interface RoleSum<Kernel extends string> {
  readonly kernels: Readonly<Record<Kernel, CpuPerGB>>;
  readonly sumSecondsPerGB: number;
}

export interface KernelSum {
  readonly input: {
    readonly imageBytes: number;
    readonly sampledBytes: number;
    readonly compression: Compression;
    readonly blocks: number;
    readonly zeroBlocks: number;
    /** Blocks that did not shrink. */
    readonly rawBlocks: number;
    /** Frames from the agent, and frames to the target, bytes. */
    readonly plainFrameBytes: number;
    readonly sealedFrameBytes: number;
  };
  /** Kernel → provider that was measured: the one the product uses. */
  readonly providers: Readonly<Record<string, string>>;
  readonly processServer: RoleSum<
    'tlsReceive' | 'zeroCheck' | 'leafHash' | 'compress' | 'encrypt' | 'digest' | 'tlsSend'
  >;
  readonly agent: RoleSum<'read' | 'zeroCheck' | 'leafHash' | 'tlsSend'>;
  /** `write` with fdatasync. From `proofRead` on: the proof of the point. */
  readonly target: RoleSum<
    'tlsReceive' | 'digest' | 'write' | 'proofRead' | 'decrypt' | 'decompress' | 'zeroCheck' | 'leafHash'
  >;
  /** Of the process server; what `efficiency` is measured by. */
  readonly sumSecondsPerGB: number;
  readonly allRolesSumSecondsPerGB: number;
  /** LZ4 over every block of the sample, whatever `compression` says. */
  readonly lz4Alone: CpuPerGB;
  /** Wall clock of the whole measurement. */
  readonly seconds: number;
}

const defaultSampleBytes = 256 * MiB;
const quickSampleBytes = 32 * MiB;
/** Batches the target makes durable together: about what waits while the ones before are synced. */
const batchesPerCommit = 8;
const warmUpFrames = 32;
const measureMsMax = 180_000;

/** Measures in a process of its own. @throws Error when it fails, with what it said. */
export async function measureKernelSum(image: string, options: KernelSumOptions): Promise<KernelSum> {
  const { compression, quick = false, sampleBytes = quick ? quickSampleBytes : defaultSampleBytes } = options;
  const words = ['--json', '--compression', compression, '--sample', String(sampleBytes)];
  if (options.directory !== undefined) words.push('--directory', options.directory);
  const command = [fileURLToPath(import.meta.url), image, ...words];
  const { stdout } = await promisify(execFile)(process.execPath, command, { timeout: measureMsMax });
  return JSON.parse(stdout) as KernelSum;
}

function roleSum<Kernel extends string>(meters: Readonly<Record<Kernel, Meter>>, bytes: number): RoleSum<Kernel> {
  const entries = Object.entries<Meter>(meters).map(([name, meter]) => [name, meter.perGB(bytes)] as const);
  const kernels = Object.fromEntries(entries) as Record<Kernel, CpuPerGB>;
  return { kernels, sumSecondsPerGB: rounded(entries.reduce((total, [, cost]) => total + cost.total, 0)) };
}

/** TLS and files: what the frames of the sample cost on the way, role by role. */
async function measureTransport(image: File, directory: string, sample: Sample) {
  const credentials = await makeCredentials(path.join(directory, 'authority'));
  const { plainFrames, sealedFrames } = sample;
  const segment = await posixFiles.open(path.join(directory, 'segment'), 'exclusive');
  try {
    // Once for nothing, so that no figure pays for code that is not compiled yet.
    await measureSend(credentials, plainFrames.slice(0, warmUpFrames));
    await measureReceive(credentials, plainFrames.slice(0, warmUpFrames));
    return {
      agentReads: await measureRead(image, sample.batches),
      agentSends: await measureSend(credentials, plainFrames),
      processServerReceives: await measureReceive(credentials, plainFrames),
      processServerSends: await measureSend(credentials, sealedFrames),
      targetReceives: await measureReceive(credentials, sealedFrames),
      targetWrites: await measureAppend(segment, sealedFrames, batchesPerCommit),
      targetReads: await measureRead(segment, sample.payloads),
    };
  } finally {
    await segment.close();
  }
}

async function measureHere(
  imagePath: string,
  directory: string,
  compression: Compression,
  sampleBytes: number,
): Promise<KernelSum> {
  const startedMs = performance.now();
  const image = await posixFiles.open(imagePath, 'read');
  try {
    const { meters, sample } = await measureSample(image, compression, sampleBytes);
    const { zeroCheck, leafHash, compress, encrypt, digest, decrypt, decompress } = meters;
    const way = await measureTransport(image, directory, sample);
    const [received, sent] = [way.processServerReceives, way.processServerSends];
    const processServer = roleSum(
      { tlsReceive: received, zeroCheck, leafHash, compress, encrypt, digest, tlsSend: sent },
      sample.bytes,
    );
    const agent = roleSum({ read: way.agentReads, zeroCheck, leafHash, tlsSend: way.agentSends }, sample.bytes);
    const stored = { tlsReceive: way.targetReceives, digest, write: way.targetWrites };
    const proof = { proofRead: way.targetReads, decrypt, decompress, zeroCheck, leafHash };
    const target = roleSum({ ...stored, ...proof }, sample.bytes);
    return {
      input: {
        imageBytes: image.facts().size,
        sampledBytes: sample.bytes,
        compression,
        blocks: sample.blocks,
        zeroBlocks: sample.zeroBlocks,
        rawBlocks: sample.rawBlocks,
        plainFrameBytes: sum(sample.plainFrames),
        sealedFrameBytes: sum(sample.sealedFrames),
      },
      providers: Object.fromEntries(providers().map(({ kernel, provider }) => [kernel, provider])),
      processServer,
      agent,
      target,
      sumSecondsPerGB: processServer.sumSecondsPerGB,
      allRolesSumSecondsPerGB: rounded(processServer.sumSecondsPerGB + agent.sumSecondsPerGB + target.sumSecondsPerGB),
      lz4Alone: meters.lz4.perGB(sample.bytes),
      seconds: rounded((performance.now() - startedMs) / 1000),
    };
  } finally {
    await image.close();
  }
}

/** Of other machines with a link of 25 Gbit/s, were nothing but kernels run. */
const coresPredicted = [2, 8, 32];

function predictionLines({ processServer, sumSecondsPerGB, input }: KernelSum): string[] {
  const { tlsReceive, tlsSend } = processServer.kernels;
  const known = { sumSecondsPerGB, input, tlsReceive: tlsReceive.total, tlsSend: tlsSend.total };
  return coresPredicted.map((cores) => {
    const { mbps, boundBy } = predict(known, { cores, linkGbps: 25, efficiency: 1 });
    return `  ${cores} cores, 25 Gbit/s, efficiency 1: at most ${mbps} MB/s, bound by: ${boundBy}`;
  });
}

/** For people. */
export function kernelSumLines(figures: KernelSum): string[] {
  const { input } = figures;
  const cost = (name: string, { user, system, total }: CpuPerGB): string =>
    `  ${name.padEnd(22)} ${total.toFixed(3).padStart(7)} = ${user.toFixed(3)} user + ${system.toFixed(3)} system`;
  const role = (name: string, { kernels, sumSecondsPerGB }: RoleSum<string>): string[] => [
    `${name.padEnd(24)} ${sumSecondsPerGB.toFixed(3).padStart(7)}`,
    ...Object.entries(kernels).map(([kernel, figure]) => cost(kernel, figure)),
  ];
  return [
    `kernels, CPU s per GB of ${(input.sampledBytes / MiB).toFixed(0)} MiB of content, ${input.compression}, ratio ${(input.sampledBytes / input.sealedFrameBytes).toFixed(2)}`,
    ...role('process server', figures.processServer),
    ...role('agent', figures.agent),
    ...role('target', figures.target),
    `${'all roles'.padEnd(24)} ${figures.allRolesSumSecondsPerGB.toFixed(3).padStart(7)}`,
    cost('LZ4 alone', figures.lz4Alone),
    'process server on other machines',
    ...predictionLines(figures),
  ];
}

function compressionOf(text: string): Compression {
  if (text === 'lz4' || text === 'zstd' || text === 'off') return text;
  throw new Error(`--compression ${text}: there is lz4, zstd, off`);
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      compression: { type: 'string', default: 'lz4' },
      sample: { type: 'string', default: String(defaultSampleBytes) },
      directory: { type: 'string' },
      json: { type: 'boolean', default: false },
    },
  });
  const [image] = positionals;
  if (image === undefined) throw new Error('name an image');
  const sampleBytes = Number(values.sample);
  if (!Number.isSafeInteger(sampleBytes) || sampleBytes <= 0)
    throw new Error(`--sample ${values.sample} is not a number of bytes`);
  const directory = await mkdtemp(path.join(values.directory ?? path.dirname(image), 'tidemark-kernel-sum-'));
  try {
    const figures = await measureHere(image, directory, compressionOf(values.compression), sampleBytes);
    process.stdout.write(values.json ? `${JSON.stringify(figures)}\n` : `${kernelSumLines(figures).join('\n')}\n`);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

if (import.meta.main) await main();

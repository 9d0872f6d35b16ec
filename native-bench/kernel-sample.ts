/**
 * The kernels of all roles over a sample of an image: batches as an agent makes them, spread evenly, as many blocks each as a disk of that image gives.
 */
import { geometryOf, type Geometry } from '../src/disk/geometry.ts';
import { codecs, type Compression } from '../src/kernels/compress.ts';
import { systemClock } from '../src/kit/clock.ts';
import { limits } from '../src/limits.ts';
import type { File } from '../src/posix/files.ts';
import { frameHeaderBytes } from '../src/wire/frame.ts';
import { sealedHeaderBytes, sealedRowBytes } from '../src/wire/sealed.ts';
import { Meter } from './cost.ts';
import { KernelBatch, kernelNames, Layer, type KernelName } from './kernel-batch.ts';

const blockSize = 65_536;
const blocksPerBatch = limits.agent.batchPayloadBytes / blockSize;
/** For the split of each kernel's time: many ticks of the kernel's clock. */
const splitCpuMs = 100;
const splitBatches = 8;

/** What the sample is to the product: frames, records, and where they are. */
export interface Sample {
  /** Of content. */
  readonly bytes: number;
  readonly blocks: number;
  readonly zeroBlocks: number;
  readonly rawBlocks: number;
  readonly plainFrames: readonly number[];
  readonly sealedFrames: readonly number[];
  readonly batches: readonly { readonly from: number; readonly bytes: number }[];
  /** Payloads of records in the file that the sealed frames are appended to. */
  readonly payloads: readonly { readonly from: number; readonly bytes: number }[];
}

export type Meters = Readonly<Record<KernelName, Meter>>;
export interface SampledKernels {
  readonly meters: Meters;
  readonly sample: Sample;
}

type Batches = readonly { readonly first: number; readonly count: number }[];

function metersOf(make: (name: KernelName) => Meter): Meters {
  return Object.fromEntries(kernelNames.map((name) => [name, make(name)])) as Record<KernelName, Meter>;
}

/** Runs a kernel as a worker does: what it released is freed when the event loop turns. */
async function withTurn(kernel: () => void): Promise<void> {
  kernel();
  await systemClock.turn();
}

/** First blocks of the batches of the sample, spread evenly over the image. */
function spread(geometry: Geometry, batchesMax: number): Batches {
  const there = Math.ceil(geometry.blockCount / blocksPerBatch);
  const wanted = Math.max(1, Math.min(there, batchesMax));
  return Array.from({ length: wanted }, (_, index) => {
    const first = Math.floor((index * there) / wanted) * blocksPerBatch;
    return { first, count: Math.min(blocksPerBatch, geometry.blockCount - first) };
  });
}

/** Each kernel over some batches again and again: for the split into user and system, and so that the code is compiled and the memory touched. */
async function measureSplits(image: File, layer: Layer, batches: Batches): Promise<Meters> {
  const prepared = batches.map(({ first, count }) =>
    new KernelBatch(blocksPerBatch, blockSize).prepare(layer, image, first, count),
  );
  const meters = metersOf(() => new Meter());
  for (const name of kernelNames) {
    await meters[name].during(async () => {
      const before = process.cpuUsage();
      for (let spentMs = 0; spentMs < splitCpuMs;) {
        for (const kernels of prepared) await withTurn(kernels[name]);
        const { user, system } = process.cpuUsage(before);
        spentMs = (user + system) / 1000;
      }
    });
  }
  return meters;
}

/** All kernels over all batches, lap by lap. */
async function measureLaps(image: File, layer: Layer, batches: Batches): Promise<SampledKernels> {
  const meters = metersOf(() => new Meter());
  const batch = new KernelBatch(blocksPerBatch, blockSize);
  const codecsOf: number[] = [];
  const plainFrames: number[] = [];
  const sealedFrames: number[] = [];
  const payloads: { from: number; bytes: number }[] = [];
  let end = 0;
  for (const { first, count } of batches) {
    const kernels = batch.prepare(layer, image, first, count);
    // Into the caches, where in the worker the first kernel of a record brings it: no kernel pays for that here.
    kernels.zeroCheck();
    for (const name of kernelNames) await meters[name].during(() => withTurn(kernels[name]));
    plainFrames.push(batch.plainFrameBytes);
    sealedFrames.push(batch.sealedFrameBytes);
    let at = end + frameHeaderBytes + sealedHeaderBytes + count * sealedRowBytes;
    for (const { codec, storedLength } of batch.records) {
      codecsOf.push(codec);
      if (storedLength > 0) payloads.push({ from: at, bytes: storedLength });
      at += storedLength;
    }
    end += batch.sealedFrameBytes;
  }
  const sample = {
    bytes: codecsOf.length * blockSize,
    blocks: codecsOf.length,
    zeroBlocks: codecsOf.filter((codec) => codec === codecs.zero).length,
    rawBlocks: codecsOf.filter((codec) => codec === codecs.raw).length,
    plainFrames,
    sealedFrames,
    batches: batches.map(({ first, count }) => ({ from: first * blockSize, bytes: count * blockSize })),
    payloads,
  };
  return { meters, sample };
}

/** Measures at most `sampleBytes` of the image. */
export async function measureSample(
  image: File,
  compression: Compression,
  sampleBytes: number,
): Promise<SampledKernels> {
  const geometry = geometryOf(image.facts().size, blockSize);
  const splits = await measureSplits(image, new Layer(geometry, compression), spread(geometry, splitBatches));
  const batches = spread(geometry, Math.floor(sampleBytes / blockSize / blocksPerBatch));
  const { meters, sample } = await measureLaps(image, new Layer(geometry, compression), batches);
  return { meters: metersOf((name) => meters[name].withSplitOf(splits[name])), sample };
}

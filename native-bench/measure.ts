/**
 * Measures contestants with tinybench, in the shape of the worker's loop: a sample is a batch of one mebibyte, cut into calls of one size; then the
 * event loop turns, which is when released memory is freed. CPU time is taken around all samples of a task.
 */
import { Bench } from 'tinybench';
import { systemClock } from '../src/kit/clock.ts';
import { MiB } from '../src/kit/sizes.ts';
import { contentNames, makeContents, type ContentName } from './content.ts';
import { slabBytes, type Contestant, type Kernel } from './contestant.ts';
import { Meter, rounded, type CpuPerGB } from './cost.ts';
import { contestants } from './providers.ts';

const batchBytes = MiB;

export interface Figures extends CpuPerGB {
  /** By the clock on the wall, 10⁶ bytes of plain data per second, one thread. */
  readonly mbps: number;
  /** Plain bytes ÷ bytes that came out. */
  readonly ratio: number;
}

/** One provider in one direction with one size of call. */
export interface Row {
  readonly kernel: Kernel;
  readonly provider: string;
  readonly variant: string;
  /** `there`: hash, compress, encrypt. `back`: decompress, decrypt. */
  readonly direction: 'there' | 'back';
  /** Of plain data per call. */
  readonly bytes: number;
  readonly by: Readonly<Partial<Record<ContentName, Figures>>>;
}

export interface Effort {
  /** Sizes of calls, powers of two up to a mebibyte. */
  readonly sizes: readonly number[];
  readonly contents: readonly ContentName[];
  /** For each task, beside a fifth of it for warming up. */
  readonly milliseconds: number;
}

export const fullEffort: Effort = { sizes: [4096, 65_536, MiB], contents: contentNames, milliseconds: 60 };
export const quickEffort: Effort = { sizes: [65_536], contents: contentNames, milliseconds: 25 };

type Direction = Row['direction'];

/** One call after another over a batch, then a turn. */
interface Task {
  readonly calls: () => void;
  readonly ratio: number;
}

function pieces(plain: Buffer, bytes: number): Buffer[] {
  return Array.from({ length: plain.byteLength / bytes }, (_, at) => plain.subarray(at * bytes, (at + 1) * bytes));
}

/** @param encoder gives what `back` takes. Batches of the content take turns. */
function taskOf(contestant: Contestant, encoder: Contestant, direction: Direction, plain: Buffer, bytes: number): Task {
  const slab = Buffer.alloc(slabBytes(bytes));
  const perBatch = batchBytes / bytes;
  const [there, encode] = [contestant.there, encoder.there];
  const [first, back] = [pieces(plain, bytes), contestant.back];
  const coded = encode ? first.map((each) => Buffer.from(slab.subarray(0, encode(each, slab)))) : [];
  const codedBytes = coded.reduce((sum, { byteLength }) => sum + byteLength, 0);
  let next = 0;
  const over = (inputs: readonly Buffer[], call: (input: Buffer) => void): (() => void) => {
    return () => {
      for (const input of inputs.slice(next, next + perBatch)) call(input);
      next = (next + perBatch) % inputs.length;
    };
  };
  const calls =
    direction === 'there'
      ? over(first, (each) => there?.(each, slab))
      : over(coded, (each) => back?.(each, bytes, slab));
  return { calls, ratio: Math.round((100 * plain.byteLength) / codedBytes) / 100 };
}

async function figuresOf(task: Task, milliseconds: number): Promise<Figures> {
  const bench = new Bench({
    time: milliseconds,
    warmupTime: milliseconds / 5,
    iterations: 2,
    warmupIterations: 1,
    throws: true,
  });
  let [meter, batches] = [new Meter(), 0];
  let stop = (): void => undefined;
  bench.add(
    'task',
    async () => {
      task.calls();
      batches += 1;
      await systemClock.turn();
    },
    {
      beforeAll: () => {
        [meter, batches] = [new Meter(), 0];
        stop = meter.start();
      },
      afterAll: () => stop(),
    },
  );
  await bench.run();
  const result = bench.tasks[0]?.result;
  if (result?.state !== 'completed') throw new Error('a task was not measured');
  const mbps = Math.round(batchBytes / result.latency.mean / 1000);
  return { ...meter.perGB(batches * batchBytes), mbps, ratio: task.ratio };
}

/** Measures everything. @throws the error of the first kernel that fails. */
export async function measureKernels({ sizes, contents, milliseconds }: Effort): Promise<Row[]> {
  const plain = await makeContents();
  const all = contestants();
  const rows: Row[] = [];
  for (const bytes of sizes) {
    for (const contestant of all) {
      const { kernel, provider, variant } = contestant;
      const encoder = contestant.there ? contestant : all.find((one) => one.kernel === kernel && one.there);
      if (!encoder) continue;
      for (const direction of ['there', 'back'] as const) {
        if (contestant[direction] === null) continue;
        const by: Partial<Record<ContentName, Figures>> = {};
        for (const content of contents) {
          // A mebibyte of noise grows beyond the largest block: the product stores it as it is, and its LZ4 does not take it.
          if (kernel === 'lz4' && direction === 'back' && content === 'random' && bytes === MiB) continue;
          by[content] = await figuresOf(taskOf(contestant, encoder, direction, plain[content], bytes), milliseconds);
        }
        rows.push({ kernel, provider, variant, direction, bytes, by });
      }
    }
  }
  return rows;
}

/** Mean over all contents of a row. */
export function meanSecondsPerGB(row: Row): number {
  const totals = Object.values(row.by).map(({ total }) => total);
  return rounded(totals.reduce((sum, each) => sum + each, 0) / totals.length);
}

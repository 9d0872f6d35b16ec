/**
 * The benchmarks of the whole product, each beside its peers in the same run.
 *
 *   npm run bench -- --only resync recovery [--quick] [--size 4G] [--json]
 *
 * Figures go to standard output (one JSON object with `--json`), everything else to standard error. No figure is printed that was not measured in
 * this run. Exit code 0: measured. 2: not.
 */
import { Command } from 'commander';
import { rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { MiB } from '../src/kit/sizes.ts';
import { captureLines, measureCapture } from './bench/capture.ts';
import { blockBytes } from './bench/content.ts';
import { lagLines, measureLag } from './bench/lag.ts';
import { machineFacts } from './bench/machine.ts';
import { measurePipeline, pipelineLines } from './bench/pipeline.ts';
import { measureRecovery, recoveryLines } from './bench/recovery.ts';
import { measureResync, resyncLines } from './bench/resync.ts';
import { measureScaling, scalingLines } from './bench/scaling.ts';
import type { Measured, Run } from './bench/section.ts';
import { measureSmallWrites, smallWritesLines } from './bench/small-writes.ts';
import { endChildren } from './demo/process.ts';
import { parseSize } from './demo/size.ts';

interface Options {
  readonly only?: readonly string[];
  readonly size: string;
  readonly seed: string;
  readonly quick?: boolean;
  readonly json?: boolean;
}

const benches: Readonly<Record<string, (run: Run) => Promise<Measured>>> = {
  pipeline: async (run) => {
    const figures = await measurePipeline(run);
    return { figures: { ...figures }, lines: pipelineLines(figures) };
  },
  scaling: async (run) => {
    const figures = await measureScaling(run);
    return { figures: { scaling: figures }, lines: scalingLines(figures) };
  },
  smallWrites: async (run) => {
    const figures = await measureSmallWrites(run);
    return { figures: { smallWrites: figures }, lines: smallWritesLines(figures) };
  },
  lag: async (run) => {
    const figures = await measureLag(run);
    return { figures: { lag: figures }, lines: lagLines(figures) };
  },
  capture: async (run) => {
    const figures = await measureCapture(run);
    return { figures: { capture: figures }, lines: captureLines(figures) };
  },
  resync: async (run) => {
    const figures = await measureResync(run.quick ? { ...run, size: Math.min(run.size, quickResyncBytes) } : run);
    return { figures: { resync: figures }, lines: resyncLines(figures) };
  },
  recovery: async (run) => {
    const figures = await measureRecovery(run);
    return { figures: { recovery: figures }, lines: recoveryLines(figures) };
  },
};

const quickResyncBytes = 64 * MiB;

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function main({ only = Object.keys(benches), size, seed, quick = false, json }: Options): Promise<void> {
  const unknown = only.filter((name) => !Object.hasOwn(benches, name));
  if (unknown.length > 0)
    throw new Error(`there is no ${unknown.join(', ')}; there is ${Object.keys(benches).join(', ')}`);
  if (!/^\d{1,9}$/.test(seed)) throw new Error(`--seed ${seed} is not a number of at most nine digits`);
  const results: Record<string, unknown> = { machine: machineFacts() };
  const lines: string[] = [];
  for (const [name, measure] of Object.entries(benches).filter(([each]) => only.includes(each))) {
    const directory = await mkdtemp(path.join(tmpdir(), `tidemark-bench-${name}-`));
    const interrupted = (): void => {
      endChildren();
      rmSync(directory, { recursive: true, force: true });
      process.exit(2);
    };
    process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
    try {
      const started = performance.now();
      const measured = await measure({ directory, size: parseSize(size, blockBytes), seed: Number(seed), quick, say });
      Object.assign(results, measured.figures);
      say(`${name}: ${Math.round((performance.now() - started) / 1000)} s`);
      lines.push(...measured.lines);
    } finally {
      process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
      await rm(directory, { recursive: true, force: true });
    }
  }
  const machine = Object.entries(results['machine'] as object).map(([name, value]) => `${name} ${String(value)}`);
  process.stdout.write(
    json === true ? `${JSON.stringify(results)}\n` : `${[machine.join(', '), ...lines].join('\n')}\n`,
  );
}

const program = new Command('bench')
  .description('measure the product beside its peers')
  .option('--only <name...>', `which: ${Object.keys(benches).join(', ')}`)
  .option('--size <size>', 'size of the disk', '4G')
  .option('--seed <number>', 'what content and places of changes are made from', '1')
  .option('--quick', 'small and few: shows that everything works, and roughly how fast')
  .option('--json', 'print one JSON object on stdout');

try {
  await main(program.parse().opts<Options>());
} catch (error) {
  say(`bench: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 2;
}

/**
 * The first replication of a disk of real files, each role in a process of its own, TLS on, durable on: from the agent's session to the committed
 * point. Beside it, in turn with it and on the same bytes, what users would pick instead (`peers.ts`), and the sum of what the kernels alone need
 * for the same bytes (`native-bench/kernel-sum.ts`).
 *
 * CPU seconds are those the operating system counts for all threads of a role between the start of the agent's work and the commit; the target's
 * proof, which follows, is counted apart until it is done. The first turn after idling is thrown away, the others are turned round, medians count.
 */
import { readFile, rm } from 'node:fs/promises';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import { requireSpace } from '../demo/image.ts';
import { RoleProcess } from '../demo/process.ts';
import { Site } from '../demo/site.ts';
import { makeRealContent, warm } from './content.ts';
import type { Run } from './section.ts';

/** CPU seconds per GB of the disk. */
interface RoleCost {
  readonly agent: number;
  readonly processServer: number;
  /** Until the point was committed. */
  readonly target: number;
  /** Until it was proven. */
  readonly targetWithProof: number;
}

export interface PipelineRun {
  readonly seconds: number;
  readonly mbps: number;
  readonly cpuSecondsPerGB: RoleCost;
}

const machine = 'bench';
const disk = 'disk0';
const waitMsMax = 10 * 60_000;
const pollMs = 20;

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + waitMsMax;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`${what} did not happen within ${waitMsMax / 60_000} minutes`);
    await systemClock.sleep(pollMs);
  }
}

/** When the line with `message` was logged, milliseconds since the Unix epoch; undefined if it was not. */
async function loggedMs(log: string, message: string): Promise<number | undefined> {
  const text = await readFile(log, 'utf8').catch(() => '');
  const line = text.split('\n').find((each) => each.includes(`"message":"${message}"`));
  return line === undefined ? undefined : (JSON.parse(line) as { time: number }).time;
}

/** The product, ready to replicate the same image again and again, each time as a machine of its own. */
export class Pipeline {
  readonly #site: Site;
  readonly #image: string;
  readonly #bytes: number;
  #turn = 0;

  constructor(directory: string, image: string, bytes: number) {
    const disks = [{ name: disk, image }];
    this.#site = new Site({ directory, machine, disks, intervalSeconds: 3600, compression: 'lz4' });
    this.#image = image;
    this.#bytes = bytes;
  }

  async start(): Promise<void> {
    await this.#site.startControl();
    await this.#site.enroll('target', 'target-1');
    await this.#site.enroll('process-server', 'ps-1');
    await this.#site.startTarget();
    await this.#site.startProcessServer();
  }

  stop(): Promise<void> {
    return this.#site.stop();
  }

  /** One first replication. What it left at the target is removed again. */
  async run(): Promise<PipelineRun> {
    const site = this.#site;
    this.#turn += 1;
    const name = `${machine}-${this.#turn}`;
    const credentials = await site.enroll('agent', name, site.dir(`${name}.credentials`));
    await warm(this.#image);
    const before = await this.#serverCpu();
    const provenBefore = await this.#provenPoints();
    const config = await site.writeAgentConfig(`${name}.yaml`, { machine: name });
    const log = site.dir(`${name}.log`);
    const words = ['agent', '--config', config, '--data', site.dir(name), '--credentials', credentials];
    const agent = new RoleProcess('agent', [...words, '--metrics', '127.0.0.1:0'], log);
    try {
      await agent.running;
      await until('the first point', async () => (await loggedMs(log, 'point committed')) !== undefined);
      const [agentCpu, after] = await Promise.all([agent.cpuSeconds(), this.#serverCpu()]);
      const [from, to] = await Promise.all([loggedMs(log, 'session open'), loggedMs(log, 'point committed')]);
      if (from === undefined || to === undefined) throw new Error(`${log} does not say when the session was opened`);
      await until('the proof', async () => (await this.#provenPoints()) > provenBefore);
      const proven = await this.#serverCpu();
      const perGB = (seconds: number): number => (seconds / this.#bytes) * 1e9;
      return {
        seconds: (to - from) / 1000,
        mbps: this.#bytes / 1e3 / (to - from),
        cpuSecondsPerGB: {
          agent: perGB(agentCpu),
          processServer: perGB(after.processServer - before.processServer),
          target: perGB(after.target - before.target),
          targetWithProof: perGB(proven.target - before.target),
        },
      };
    } finally {
      await agent.stop();
      await rm(site.dir(name), { recursive: true, force: true });
    }
  }

  async #serverCpu(): Promise<{ processServer: number; target: number }> {
    const [processServer, target] = await Promise.all([
      this.#site.cpuSeconds('process-server'),
      this.#site.cpuSeconds('target'),
    ]);
    return { processServer, target };
  }

  async #provenPoints(): Promise<number> {
    return (await this.#site.metric('target', 'tidemark_target_points_proven_total')) ?? 0;
  }
}

export interface PipelineResult {
  readonly bytes: number;
  readonly runs: readonly PipelineRun[];
}

export async function measurePipeline({ directory, size, quick, say }: Run): Promise<PipelineResult> {
  await requireSpace(directory, size * 4);
  const image = path.join(directory, 'disk.raw');
  say(`making a disk of ${Math.round(size / 1024 ** 2)} MiB of this machine's files`);
  await makeRealContent(image, size);
  const pipeline = new Pipeline(directory, image, size);
  const runs: PipelineRun[] = [];
  try {
    await pipeline.start();
    for (let turn = 0; turn < (quick ? 1 : 4); turn += 1) {
      const run = await pipeline.run();
      say(`  ${run.mbps.toFixed(0)} MB/s, CPU s/GB ${JSON.stringify(run.cpuSecondsPerGB)}`);
      runs.push(run);
    }
  } finally {
    await pipeline.stop();
  }
  return { bytes: size, runs };
}

/** For people. */
export function pipelineLines({ runs }: PipelineResult): string[] {
  return runs.map((run) => JSON.stringify(run));
}

/**
 * The first replication of a disk of real files, each role in a process of its own, TLS on, durable on: from the agent's session to the committed
 * point. Beside it, in turn with it and on the same bytes, what users would pick instead (`peers.ts`), and the sum of what the kernels alone need
 * for the same bytes (`native-bench/kernel-sum.ts`).
 *
 *  1. CPU seconds are those the operating system counts for all threads of a role between the start of the agent's work and the commit; the target's
 *     proof, which follows, is counted apart until it is done. Nobody else of the bench runs meanwhile.
 *  2. Every turn begins with the image in the page cache. The first turn after idling is thrown away, the order goes round, medians count.
 */
import { rm } from 'node:fs/promises';
import * as path from 'node:path';
import { MiB, GiB } from '../../src/kit/sizes.ts';
import { measureKernelSum, type KernelSum } from '../../native-bench/kernel-sum.ts';
import { requireSpace } from '../demo/image.ts';
import { RoleProcess } from '../demo/process.ts';
import { Site } from '../demo/site.ts';
import { makeRealContent, warm } from './content.ts';
import type { Transfer } from './contender.ts';
import { median, rounded } from './figures.ts';
import { loggedMs } from './agent-log.ts';
import { operator } from './operator.ts';
import { peerNames, peersOf, type AbsentPeer } from './peers.ts';
import type { Run } from './section.ts';
import { until } from './until.ts';

/** CPU seconds per GB of the disk. */
export interface PipelineCost {
  readonly agent: number;
  readonly processServer: number;
  /** Until the point was committed. */
  readonly target: number;
  /** The three together. */
  readonly machine: number;
  /** Of the target, for proving the point afterwards. */
  readonly proof: number;
}

export interface PipelineRun {
  readonly bytes: number;
  readonly mbps: number;
  readonly cpuSecondsPerGB: PipelineCost;
}

export interface PipelineResult extends PipelineRun {
  /** Each that counted, in order. */
  readonly turns: readonly PipelineRun[];
  /** Of the process server. */
  readonly kernelSumSecondsPerGB: number;
  /** `kernelSumSecondsPerGB` ÷ `cpuSecondsPerGB.processServer`. */
  readonly efficiency: number;
  /** A larger disk, once; null when there was no time for it. */
  readonly large: PipelineRun | null;
}

export interface PeerResult {
  readonly name: string;
  readonly mbps: number;
  readonly cpuSecondsPerGB: number;
  readonly remark?: string;
}

/** Ours to theirs; null where the other side was not measured. */
export interface PipelineRatios {
  readonly efficiency: number;
  /** Process server ÷ LZ4 alone on the same bytes, CPU seconds. */
  readonly processServerToLz4: number;
  /** All roles, with the proof, ÷ the sum of their kernels, CPU seconds. */
  readonly rolesToKernels: number;
  /** MB/s ÷ the MB/s of a peer, by its name. */
  readonly toPeers: Readonly<Record<string, number | null>>;
}

export interface PipelineFigures {
  readonly pipeline: PipelineResult;
  readonly kernels: KernelSum;
  readonly peers: readonly PeerResult[];
  readonly absentPeers: readonly AbsentPeer[];
  readonly ratios: PipelineRatios;
}

const machine = 'bench';
const disk = 'disk0';
const turnsCounted = 3;

/** The product, ready to replicate an image again and again, each time as a machine of its own; what runs for months, runs all the time. */
class Pipeline {
  readonly #site: Site;
  readonly #image: string;
  #turn = 0;

  constructor(directory: string, image: string) {
    const disks = [{ name: disk, image }];
    this.#site = new Site({ directory, machine, disks, intervalSeconds: 3600, compression: 'lz4', run: operator });
    this.#image = image;
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

  /** One first replication of `bytes` bytes, whatever the image holds at the moment. */
  async run(bytes: number): Promise<PipelineRun> {
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
      const perGB = (seconds: number): number => rounded((seconds / bytes) * 1e9);
      const cost = {
        agent: perGB(agentCpu),
        processServer: perGB(after.processServer - before.processServer),
        target: perGB(after.target - before.target),
      };
      const all = rounded(cost.agent + cost.processServer + cost.target);
      const proof = perGB(proven.target - after.target);
      return { bytes, mbps: rounded(bytes / 1e3 / (to - from), 1), cpuSecondsPerGB: { ...cost, machine: all, proof } };
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

function medianRun(turns: readonly PipelineRun[]): PipelineRun {
  const of = (what: keyof PipelineCost): number =>
    rounded(median(turns.map(({ cpuSecondsPerGB }) => cpuSecondsPerGB[what])));
  const cpuSecondsPerGB = {
    agent: of('agent'),
    processServer: of('processServer'),
    target: of('target'),
    machine: of('machine'),
    proof: of('proof'),
  };
  return { bytes: turns[0]?.bytes ?? 0, mbps: rounded(median(turns.map(({ mbps }) => mbps))), cpuSecondsPerGB };
}

/** Everybody in turn, each turn beginning with another one. */
async function measureTurns(pipeline: Pipeline, image: string, bytes: number, { directory, quick, say }: Run) {
  const ours: PipelineRun[] = [];
  const { contenders, absent } = await peersOf(image, directory, say);
  const theirs = new Map<string, Transfer[]>(contenders.map(({ name }) => [name, []]));
  const all = [
    {
      name: 'tidemark',
      run: async (counts: boolean) => {
        const run = await pipeline.run(bytes);
        say(`  tidemark: ${run.mbps} MB/s, CPU s/GB ${JSON.stringify(run.cpuSecondsPerGB)}`);
        if (counts) ours.push(run);
      },
    },
    ...contenders.map((contender) => ({
      name: contender.name,
      run: async (counts: boolean) => {
        await warm(image);
        const transfer = await contender.run();
        say(
          `  ${contender.name}: ${(bytes / 1e6 / transfer.seconds).toFixed(0)} MB/s, ${transfer.cpuSeconds.toFixed(2)} CPU s`,
        );
        if (counts) theirs.get(contender.name)?.push(transfer);
      },
    })),
  ];
  const first = quick ? 1 : 0;
  for (let turn = first; turn <= (quick ? 1 : turnsCounted); turn += 1) {
    say(turn === 0 ? 'a turn that does not count' : `turn ${turn}`);
    const from = turn % all.length;
    for (const each of [...all.slice(from), ...all.slice(0, from)]) await each.run(turn > 0);
  }
  const peers = [...theirs].map(([name, transfers]) => ({
    name,
    mbps: rounded(median(transfers.map(({ seconds }) => bytes / 1e6 / seconds))),
    cpuSecondsPerGB: rounded(median(transfers.map(({ cpuSeconds }) => (cpuSeconds / bytes) * 1e9))),
    ...(transfers.at(-1)?.remark === undefined ? {} : { remark: transfers.at(-1)?.remark ?? '' }),
  }));
  return { ours, peers, absent };
}

function ratiosOf(ours: PipelineRun, kernels: KernelSum, peers: readonly PeerResult[]): PipelineRatios {
  const { agent, processServer, target, proof } = ours.cpuSecondsPerGB;
  const toPeer = (name: string): number | null => {
    const peer = peers.find((each) => each.name === name);
    return peer ? rounded(ours.mbps / peer.mbps) : null;
  };
  return {
    efficiency: rounded(kernels.sumSecondsPerGB / processServer),
    processServerToLz4: rounded(processServer / kernels.lz4Alone.total),
    rolesToKernels: rounded((agent + processServer + target + proof) / kernels.allRolesSumSecondsPerGB),
    toPeers: Object.fromEntries(Object.values(peerNames).map((name) => [name, toPeer(name)])),
  };
}

/** `size`: of the larger disk; the one everybody moves has a GiB at most. */
export async function measurePipeline(run: Run): Promise<PipelineFigures> {
  const { directory, size, quick, say } = run;
  const bytes = Math.min(size, quick ? 128 * MiB : GiB);
  const large = quick || size <= bytes ? 0 : size;
  await requireSpace(directory, bytes * 6 + large * 2);
  const image = path.join(directory, 'disk.raw');
  say(`making a disk of ${Math.round(bytes / MiB)} MiB of this machine's files`);
  await makeRealContent(image, bytes);
  const pipeline = new Pipeline(directory, image);
  try {
    await pipeline.start();
    const { ours, peers, absent } = await measureTurns(pipeline, image, bytes, run);
    say('the kernels alone');
    const kernels = await measureKernelSum(image, { compression: 'lz4', quick, directory });
    let once: PipelineRun | null = null;
    if (large > 0) {
      say(`a disk of ${Math.round(large / MiB)} MiB`);
      await makeRealContent(image, large);
      once = await pipeline.run(large);
    }
    const middle = medianRun(ours);
    const ratios = ratiosOf(middle, kernels, peers);
    const { sumSecondsPerGB: kernelSumSecondsPerGB } = kernels;
    const { efficiency } = ratios;
    const result = { ...middle, turns: ours, kernelSumSecondsPerGB, efficiency, large: once };
    return { pipeline: result, kernels, peers, absentPeers: absent, ratios };
  } finally {
    await pipeline.stop();
  }
}

/** What the product aims at; `most`: not more than that, else not less. */
const goals = { efficiency: 0.85, processServerToLz4: 2.2, rolesToKernels: 1.2 } as const;
const peerGoals: Readonly<Record<string, number>> = {
  [peerNames.lz4]: 1.25,
  [peerNames.zstd]: 0.95,
  [peerNames.rsyncLz4]: 1.1,
  [peerNames.qemuImg]: 1.5,
  [peerNames.nbdcopy]: 0.7,
};

/** For people. */
export function pipelineLines({ pipeline, kernels, peers, absentPeers, ratios }: PipelineFigures): string[] {
  const row = (name: string, mbps: number, cpu: number, more = ''): string =>
    `  ${name.padEnd(34)} ${mbps.toFixed(0).padStart(6)} MB/s ${cpu.toFixed(2).padStart(6)} CPU s/GB  ${more}`.trimEnd();
  const costs = ({ cpuSecondsPerGB: cost }: PipelineRun): string =>
    `agent ${cost.agent}, process server ${cost.processServer}, target ${cost.target}, its proof ${cost.proof}`;
  const toPeer = (name: string): string => {
    const [ratio, goal] = [ratios.toPeers[name], peerGoals[name]];
    return `ours ÷ theirs ${ratio ?? 'unknown'}${goal === undefined ? '' : `, goal ${goal}`}`;
  };
  const { large } = pipeline;
  return [
    `first replication of ${Math.round(pipeline.bytes / MiB)} MiB of real files, medians of ${pipeline.turns.length}`,
    row('tidemark', pipeline.mbps, pipeline.cpuSecondsPerGB.machine, costs(pipeline)),
    ...(large
      ? [
          row(
            `tidemark, ${Math.round(large.bytes / MiB)} MiB, once`,
            large.mbps,
            large.cpuSecondsPerGB.machine,
            costs(large),
          ),
        ]
      : []),
    ...peers.map(({ name, mbps, cpuSecondsPerGB, remark }) =>
      row(name, mbps, cpuSecondsPerGB, [toPeer(name), ...(remark === undefined ? [] : [remark])].join('; ')),
    ),
    ...absentPeers.map(({ name, why }) => `  ${name.padEnd(34)} not measured: ${why}`),
    `  kernels of the process server ${kernels.sumSecondsPerGB} CPU s/GB, efficiency ${ratios.efficiency} (goal ${goals.efficiency})`,
    `  process server ÷ LZ4 alone (${kernels.lz4Alone.total} CPU s/GB) ${ratios.processServerToLz4} (goal at most ${goals.processServerToLz4})`,
    `  all roles ÷ their kernels (${kernels.allRolesSumSecondsPerGB} CPU s/GB) ${ratios.rolesToKernels} (goal at most ${goals.rolesToKernels})`,
  ];
}

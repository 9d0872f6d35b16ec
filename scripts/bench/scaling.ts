/**
 * How the process server takes many machines: 1, 8 and 64 agents, each with a session, a certificate and a disk of its own, send the same bytes of
 * real files in all, cut into as many disks; every time to a process server and a target that were just started, TLS on, durable on. Then 64 once
 * more with a target whose disk takes 10 ms for a sync. The quick form leaves out 8, and the slow disk.
 *
 * Sessions and disks are opened before, and counted apart. Then all agents begin at once; throughput is from that instant to the last agent's
 * committed point. CPU is what the operating system counts for all threads of a role from that instant to the last point's proof. Agents share as many
 * processes as there are cores (`agent-group.ts`).
 */
import { copyFile, open, readFile, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { issueInMemory, openAuthority } from '../../src/transport/authority.ts';
import { requireSpace } from '../demo/image.ts';
import { RoleProcess } from '../demo/process.ts';
import { Site } from '../demo/site.ts';
import { rounded } from './figures.ts';
import { agentGroupPath, type GroupPlan, type PlannedAgent } from './agent-group.ts';
import { disturbances, loggedPoints, type LoggedPoint } from './agent-log.ts';
import { blockBytes, makeRealContent, warm } from './content.ts';
import { operator } from './operator.ts';
import type { Run } from './section.ts';
import { modelledSyncMs, slowSync } from './slow-sync.ts';
import { until } from './until.ts';

interface RoleCpu {
  readonly agent: number;
  readonly processServer: number;
  /** Proof of the points included. */
  readonly target: number;
}

export interface ScalingRow {
  readonly agents: number;
  /** What the target's syncs were made to take on top; 0: nothing. */
  readonly syncMs: number;
  /** Of all disks together. */
  readonly bytes: number;
  readonly mbps: number;
  readonly cpuSecondsPerGB: RoleCpu & { readonly machine: number };
  /** Of one agent's session and disk, before any data. */
  readonly openingCpuMs: Omit<RoleCpu, 'agent'>;
  /** Sessions that took too long to open, and were opened again. */
  readonly openingRetries: number;
  /** When the first agent had its point ÷ when the last one had: near 1 is fair, as all have the same to send. */
  readonly firstToLast: number;
  /** Most memory the process server ever had, MiB, and what it may have. */
  readonly rssMiB: number;
  readonly rssMiBGoal: number;
}

export interface SkippedRow {
  readonly agents: number;
  readonly syncMs: number;
  readonly skipped: string;
}

export type ScalingResult = readonly (ScalingRow | SkippedRow)[];

const agentCounts = [1, 8, 64] as const;
const agentsMax = Math.max(...agentCounts);
const MiB = 1024 ** 2;
const rssMiBAllowed = limits.processServer.inFlightBytesMax / MiB + 150;
const cpuRatioGoal = 1.15;

interface Scene {
  readonly site: Site;
  /** Of all disks, one after another. */
  readonly content: string;
  readonly bytes: number;
  readonly credentials: readonly PlannedAgent['credentials'][];
}

/** Certificates of all, from the site's own authority. */
async function enrollAgents(site: Site): Promise<Scene['credentials']> {
  const authority = await openAuthority(posixFiles, site.dir('control/authority'), systemClock);
  const issue = (name: string): Promise<PlannedAgent['credentials']> =>
    issueInMemory(authority, { role: 'agent', name, days: 1 }, systemClock);
  return Promise.all(Array.from({ length: agentsMax }, (_, index) => issue(machineName(index))));
}

const machineName = (index: number): string => `machine-${index + 1}`;

/** The part of agent `index` of `count`, as a file of its own. */
async function cutOut({ content, bytes }: Scene, index: number, count: number, image: string): Promise<void> {
  if (count === 1) return copyFile(content, image);
  const length = bytes / count;
  const [from, to] = [await open(content, 'r'), await open(image, 'w')];
  try {
    const { buffer } = await from.read(Buffer.alloc(length), 0, length, index * length);
    await to.write(buffer);
    await to.sync();
  } finally {
    await from.close();
    await to.close();
  }
}

/** Disks and plans, below a directory of their own. */
async function planAgents(scene: Scene, directory: string, count: number): Promise<readonly PlannedAgent[]> {
  await posixFiles.makeDirectory(directory);
  const plans: PlannedAgent[] = [];
  for (const [index, credentials] of scene.credentials.slice(0, count).entries()) {
    const machine = machineName(index);
    const image = path.join(directory, `${machine}.raw`);
    await cutOut(scene, index, count, image);
    await warm(image);
    plans.push({ machine, image, directory: path.join(directory, machine), credentials });
  }
  return plans;
}

class Groups {
  readonly #directory: string;
  readonly #processes: RoleProcess[] = [];
  #releasedMs = Number.POSITIVE_INFINITY;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Spread over as many processes as there are cores; resolves when every agent has its session. */
  async start(processServer: string, agents: readonly PlannedAgent[]): Promise<void> {
    const groups = Math.min(agents.length, availableParallelism());
    for (let group = 0; group < groups; group += 1) {
      const plan: GroupPlan = { processServer, agents: agents.filter((_, index) => index % groups === group) };
      const file = path.join(this.#directory, `group-${group}.json`);
      await writeFile(file, JSON.stringify(plan), { mode: 0o600 });
      const within = [process.execPath, agentGroupPath];
      this.#processes.push(new RoleProcess('agents', [file], this.#log(group), within));
    }
    await Promise.all(this.#processes.map((each) => each.running));
  }

  /** All begin. Returns when that was, milliseconds since the Unix epoch. */
  release(): number {
    this.#releasedMs = Date.now();
    for (const each of this.#processes) each.signal('SIGCONT');
    return this.#releasedMs;
  }

  /** Of all agents so far. */
  async disturbances(): Promise<number> {
    const each = await Promise.all(this.#processes.map((_, group) => disturbances(this.#log(group))));
    return each.reduce((sum, count) => sum + count, 0);
  }

  async points(): Promise<readonly LoggedPoint[]> {
    if (this.#processes.some((each) => each.isOver)) throw new Error('a group of agents is not running any more');
    return (
      await Promise.all(this.#processes.map((_, group) => loggedPoints(this.#log(group), this.#releasedMs)))
    ).flat();
  }

  /** Since all of them had their sessions. */
  async cpuSeconds(): Promise<number> {
    const each = await Promise.all(this.#processes.map((one) => one.cpuSeconds()));
    return each.reduce((sum, seconds) => sum + seconds, 0);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#processes.map((each) => each.stop()));
  }

  #log(group: number): string {
    return path.join(this.#directory, `group-${group}.log`);
  }
}

/** The most memory a process ever had, MiB. */
async function peakRssMiB(pid: number): Promise<number> {
  const [, kiB] = /^VmHWM:\s+(\d+) kB/m.exec(await readFile(`/proc/${pid}/status`, 'utf8')) ?? [];
  if (kiB === undefined) throw new Error(`the system does not tell how much memory process ${pid} had`);
  return Number(kiB) / 1024;
}

async function serverCpu(site: Site): Promise<Omit<RoleCpu, 'agent'>> {
  const [processServer, target] = await Promise.all([site.cpuSeconds('process-server'), site.cpuSeconds('target')]);
  return { processServer, target };
}

async function measureReplication(scene: Scene, groups: Groups, agents: number): Promise<Omit<ScalingRow, 'syncMs'>> {
  const { site, bytes } = scene;
  const opening = await serverCpu(site);
  const openingRetries = await groups.disturbances();
  const releasedMs = groups.release();
  await until(`the points of ${agents} agents`, async () => (await groups.points()).length >= agents);
  const endsMs = (await groups.points()).map(({ atMs }) => atMs - releasedMs);
  const proven = async (): Promise<number> => (await site.metric('target', 'tidemark_target_points_proven_total')) ?? 0;
  await until(`the proof of ${agents} points`, async () => (await proven()) >= agents, 250);
  const [servers, agent] = await Promise.all([serverCpu(site), groups.cpuSeconds()]);
  const processServer = servers.processServer - opening.processServer;
  const target = servers.target - opening.target;
  const perGB = (seconds: number): number => rounded((seconds / bytes) * 1e9);
  const perAgentMs = (seconds: number): number => rounded((seconds / agents) * 1000, 1);
  return {
    agents,
    bytes,
    mbps: rounded(bytes / 1e3 / Math.max(...endsMs), 1),
    cpuSecondsPerGB: {
      agent: perGB(agent),
      processServer: perGB(processServer),
      target: perGB(target),
      machine: perGB(agent + processServer + target),
    },
    openingCpuMs: { processServer: perAgentMs(opening.processServer), target: perAgentMs(opening.target) },
    openingRetries,
    firstToLast: rounded(Math.min(...endsMs) / Math.max(...endsMs)),
    rssMiB: Math.round(await peakRssMiB(site.role('process-server').pid)),
    rssMiBGoal: rssMiBAllowed,
  };
}

/** One row, from an empty target; what it left is removed. */
async function measureRow(scene: Scene, agents: number): Promise<Omit<ScalingRow, 'syncMs'>> {
  const { site } = scene;
  const directory = site.dir('agents');
  const groups = new Groups(directory);
  try {
    const plans = await planAgents(scene, directory, agents);
    await site.startTarget();
    await site.startProcessServer();
    await groups.start(site.processServerAddress, plans);
    return await measureReplication(scene, groups, agents);
  } finally {
    await groups.stop();
    await site.stop();
    await rm(directory, { recursive: true, force: true });
    await rm(site.targetData, { recursive: true, force: true });
  }
}

/** @throws Error when something could not be measured. */
export async function measureScaling({ directory, size, quick, say }: Run): Promise<ScalingResult> {
  const wanted = Math.min(size, (quick ? 32 : 1024) * MiB);
  const bytes = Math.max(1, Math.floor(wanted / (agentsMax * blockBytes))) * agentsMax * blockBytes;
  await requireSpace(directory, bytes * 4);
  const content = path.join(directory, 'content.raw');
  await makeRealContent(content, bytes);
  const how = { intervalSeconds: 3600, compression: 'lz4', run: operator } as const;
  const options = { directory, machine: machineName(0), disks: [], ...how };
  const enrolled = new Site(options);
  try {
    await enrolled.startControl();
    await enrolled.enroll('target', 'target-1');
    await enrolled.enroll('process-server', 'ps-1');
  } finally {
    await enrolled.stop();
  }
  const credentials = await enrollAgents(enrolled);
  const rows: (ScalingRow | SkippedRow)[] = [];
  for (const agents of quick ? [1, agentsMax] : agentCounts) {
    say(`${agents} agents, ${Math.round(bytes / MiB)} MiB in all`);
    const site = new Site(options);
    const row = { ...(await measureRow({ site, content, bytes, credentials }, agents)), syncMs: 0 };
    say(rowLine(row));
    rows.push(row);
  }
  const agents = agentsMax;
  const slow = quick ? 'the quick form leaves it out' : await slowSync(modelledSyncMs);
  if (typeof slow === 'string') return [...rows, { agents, syncMs: modelledSyncMs, skipped: slow }];
  say(`${agents} agents, syncs of the target take ${modelledSyncMs} ms`);
  const site = new Site({ ...options, places: { target: { address: '127.0.0.1', within: slow } } });
  const row = await measureRow({ site, content, bytes, credentials }, agents);
  return [...rows, { ...row, syncMs: modelledSyncMs }];
}

/** CPU per GB of the process server and of all roles with the most agents ÷ with one. */
function cpuRatios(rows: ScalingResult): { processServer: number; machine: number } | null {
  const costs = rows.flatMap((row) => ('skipped' in row || row.syncMs !== 0 ? [] : [row.cpuSecondsPerGB]));
  const [one, most] = [costs.at(0), costs.at(-1)];
  if (!one || !most) return null;
  return {
    processServer: rounded(most.processServer / one.processServer),
    machine: rounded(most.machine / one.machine),
  };
}

function rowLine(row: ScalingRow | SkippedRow): string {
  const name = `  ${row.agents} agents${row.syncMs === 0 ? '' : `, sync ${row.syncMs} ms`}`.padEnd(26);
  if ('skipped' in row) return `${name} not measured: ${row.skipped}`;
  const { agent, processServer, target, machine } = row.cpuSecondsPerGB;
  const again = row.openingRetries === 0 ? '' : `, ${row.openingRetries} of them twice`;
  const cost = [agent, processServer, target, machine].map((each) => each.toFixed(2)).join(' + ');
  return `${name} ${row.mbps.toFixed(1).padStart(7)} MB/s  CPU s/GB ${cost.replace(/ \+ (\S+)$/, ' = $1')}  RSS ${row.rssMiB} MiB (goal ${row.rssMiBGoal})  first ÷ last ${row.firstToLast}  to open ${row.openingCpuMs.processServer} + ${row.openingCpuMs.target} ms${again}`;
}

/** For people. */
export function scalingLines(rows: ScalingResult): string[] {
  const ratios = cpuRatios(rows);
  return [
    'first replication of the same bytes by many agents, CPU of agents + process server + target:',
    ...rows.map(rowLine),
    `  CPU per GB with ${agentsMax} agents ÷ with 1: ${ratios === null ? 'not measured' : `process server ${ratios.processServer}, all roles ${ratios.machine}`} (goal ${cpuRatioGoal})`,
  ];
}

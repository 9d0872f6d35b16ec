/** Composition of the agent: captures, their NBD servers, the replication loop, its ceilings, metrics. */
import { availableParallelism } from 'node:os';
import { Agent } from '../agent/agent.ts';
import type { AppConsistency } from '../agent/app-consistency.ts';
import { registerCeilingSeries } from '../agent/ceiling-metrics.ts';
import { inlineHasher } from '../agent/hash-blocks.ts';
import { HashPool } from '../agent/hash-pool.ts';
import { Governor } from '../agent/governor.ts';
import { memoryPlan } from '../agent/memory-plan.ts';
import { watchLogs } from '../agent/log-watch.ts';
import { registerAgentSeries } from '../agent/metrics.ts';
import type { AgentOptions } from '../agent/options.ts';
import type { ReplicaDisk } from '../agent/replica-disk.ts';
import { makeCutAll } from '../capture/cut.ts';
import type { Running } from '../cli/roles.ts';
import type { AgentConfig } from '../config.ts';
import type { Report } from '../control/report-schemas.ts';
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import { registerCertificateSeries } from '../observe/metrics.ts';
import type { Logger } from '../observe/logger.ts';
import type { MachineDefinition } from '../wire/definition.ts';
import { connect } from '../transport/client.ts';
import type { Credentials } from '../transport/credentials.ts';
import { openAppConsistency } from './agent-app.ts';
import { openDisk } from './agent-disks.ts';
import { AgentPolicy } from './agent-policy.ts';
import { readiness, reportOf } from './agent-report.ts';
import { controlLink, type ControlLink, type Duties } from './control-link.ts';
import { definitionOf } from './machine-definition.ts';
import { ProcessServerChoice } from './process-server-choice.ts';
import { credentialsFor, partsOfRole, RoleBuilder, type Parts } from './parts.ts';
import { readText } from './read-text.ts';
import { ResyncRequests } from './resync-requests.ts';
import { sourceFaults } from './source-watch.ts';

/** Processor time of this process, all its threads, milliseconds. */
const cpuMs = (): number => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};

function governorOf({ cpuPercent }: AgentConfig, clock: Clock): Governor | null {
  return cpuPercent === undefined ? null : new Governor({ cores: cpuPercent / 100, clock, cpuMs });
}

/** Why no points are made though all is well. */
function holdReason({ told, unprotected }: Duties): string | null {
  if (unprotected) return 'protection of this machine was disabled';
  return told?.paused === true ? 'replication is paused' : null;
}

/** What the machine is, as control says, else as its own configuration does; null: neither does. */
async function definitionTeller(
  parts: Parts,
  { machineXml, disks }: AgentConfig,
  duties: () => Duties,
): Promise<() => MachineDefinition | null> {
  const xml = machineXml === undefined ? null : await readText(parts.files, process.stdin, machineXml);
  const names = disks.map(({ name }) => name);
  const own = xml === null ? null : definitionOf({ xml }, names);
  return () => duties().told?.definition ?? own;
}

interface Told {
  readonly agent: Agent;
  readonly app: AppConsistency;
  readonly disks: readonly ReplicaDisk[];
  readonly policy: AgentPolicy;
}

/** Threads that hash a disk: one per core, or what the ceiling of processor time allows. */
function hashThreads({ cpuPercent }: AgentConfig): number {
  const cores = cpuPercent === undefined ? availableParallelism() : cpuPercent / 100;
  return Math.max(1, Math.min(Math.floor(cores), limits.agent.hashThreadsMax));
}

/** Tells control how the agent is, and does what control asks in its answers. */
function reportTo(link: ControlLink, { agent, app, disks, policy }: Told, parts: Parts): void {
  const consistency = new Map(disks.map(({ name, capture }) => [name, capture.consistency]));
  const requests = new ResyncRequests((request) => {
    agent.requestResync(request);
  });
  const make = async (): Promise<Report> => {
    const faults = await sourceFaults(parts.files, disks);
    const report = agent.report();
    const { version, clock } = parts;
    const facts = {
      report,
      version,
      atMs: clock.wallMs(),
      consistency,
      timeZone: policy.resyncTimeZone,
      owed: app.owed,
      faults,
    };
    return reportOf({ ...facts, resyncDone: requests.done(report) });
  };
  link.reportEvery(make, ({ resync }) => requests.take(resync));
}

/** SIGUSR2 makes a point at once, app-consistent where hooks or a guest agent are configured. */
function pointOnSignal(builder: RoleBuilder, agent: Agent, config: AgentConfig): void {
  const app = config.preHook !== undefined || config.guestAgentSocket !== undefined;
  const pointNow = (): void => {
    agent.requestCycle({ app });
  };
  process.on('SIGUSR2', pointNow);
  builder.closers.add(() => {
    process.off('SIGUSR2', pointNow);
  });
}

function sayWhenLogsFail(builder: RoleBuilder, disks: readonly ReplicaDisk[], clock: Clock, logger: Logger): void {
  const watch = watchLogs(disks, clock, logger);
  builder.closers.add(() => {
    watch.cancel();
  });
}

/** The way to a process server: as control says, else as configured. */
function goingWhere(
  config: AgentConfig,
  duties: () => Duties,
  credentials: Credentials,
  clock: Clock,
): Pick<AgentOptions, 'connect' | 'onEnded'> {
  const choice = new ProcessServerChoice(config.processServer, () => duties().told?.processServers ?? [], clock);
  return {
    connect: (signal) =>
      choice.connect((address) => connect({ ...address, credentials, expectRole: 'process-server', clock, signal })),
    onEnded: (reason) => {
      choice.ended(reason);
    },
  };
}

function run(builder: RoleBuilder, agent: Agent): void {
  const loop = agent.run();
  loop.catch((error: unknown) => {
    builder.fail(error);
  });
  builder.closers.add(async () => {
    agent.stop();
    await loop.catch(() => undefined);
  });
}

export function startAgent(common: Parts, config: AgentConfig): Promise<Running> {
  const logger = common.loggerOf(config, 'agent').child({ machine: config.machine });
  const parts = partsOfRole(common, logger);
  const { files, clock, random, version } = parts;
  return RoleBuilder.build(async (builder) => {
    const served = config.disks.filter((disk) => disk.capture === 'nbd').length;
    const memory = memoryPlan(config.memoryMiB ?? null, {
      served,
      disks: config.disks.length,
      hashThreads: hashThreads(config),
    });
    const credentials = await credentialsFor(parts, config.credentials, 'agent', config.machine);
    const link = controlLink(parts, config, credentials, logger);
    builder.closers.add(() => {
      link.close();
    });
    const duties = await link.duties();
    const policy = new AgentPolicy(config, () => duties().told?.policy ?? null);
    await files.makeDirectory(config.data);
    const opening = { parts, config, newBlockSize: policy.blockSize, memory, builder, logger };
    const disks: ReplicaDisk[] = [];
    for (const disk of config.disks) disks.push(await openDisk(opening, disk));
    // Closed before the disks: a guest that thaws writes.
    const app = await openAppConsistency(parts, config, builder.closers, logger);
    const governor = governorOf(config, clock);
    const hasher = new HashPool({ threads: memory.hashThreads, inline: inlineHasher(clock) });
    builder.closers.add(() => hasher.close());
    const agent = new Agent({
      machine: config.machine,
      version,
      disks,
      cutAll: makeCutAll(clock),
      ...goingWhere(config, duties, credentials, clock),
      intervalMs: () => policy.intervalMs,
      compression: () => policy.compression,
      app,
      appEveryMs: () => policy.appEveryMs,
      retryMinutes: config.retryMinutes,
      resyncWindow: () => policy.resyncWindow(clock.wallMs()),
      resyncAtDirtyRatio: () => policy.resyncAtDirtyRatio,
      hold: () => holdReason(duties()),
      definition: await definitionTeller(parts, config, duties),
      ...(governor ? { pace: (bytes) => governor.pace(bytes) } : {}),
      hasher,
      clock,
      random,
      logger,
    });
    registerAgentSeries(builder.registry, agent);
    registerCertificateSeries(builder.registry, 'agent', credentials.identity.notAfterMs);
    registerCeilingSeries(builder.registry, { governor, memoryMiB: config.memoryMiB ?? null });
    await builder.observe(parts, config, logger, () => readiness(agent.report()));
    reportTo(link, { agent, app, disks, policy }, parts);
    pointOnSignal(builder, agent, config);
    sayWhenLogsFail(builder, disks, clock, logger);
    run(builder, agent);
  }, config.data);
}

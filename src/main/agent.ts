/** Composition of the agent: captures, their NBD servers, the replication loop, metrics. */
import { Agent, type AgentReport } from '../agent/agent.ts';
import { readDiskState } from '../agent/disk-state.ts';
import { registerAgentSeries } from '../agent/metrics.ts';
import { ReplicaDisk } from '../agent/replica-disk.ts';
import { makeCutAll } from '../capture/cut.ts';
import { openNbdCapture } from '../capture/nbd-open.ts';
import type { NbdCapture } from '../capture/nbd-splitter.ts';
import type { Running } from '../cli/roles.ts';
import type { Report } from '../control/schemas.ts';
import { agentDefaults, type AgentConfig, type DiskConfig } from '../config.ts';
import type { Logger } from '../observe/logger.ts';
import type { Readiness } from '../observe/server.ts';
import type { Backend } from '../nbd/backend.ts';
import { serveNbd } from '../nbd/server.ts';
import { acquireLock } from '../posix/lock.ts';
import { connect } from '../transport/client.ts';
import { credentialsFor, lockIdentity, RoleBuilder, type Closers, type Parts } from './parts.ts';
import { controlLink } from './control-link.ts';

interface OpenDisk {
  readonly capture: NbdCapture;
  readonly replica: ReplicaDisk;
}

async function openDisk(parts: Parts, config: AgentConfig, disk: DiskConfig, newBlockSize: number): Promise<OpenDisk> {
  const { files, clock, random } = parts;
  const state = await readDiskState(files, config.data, disk.name);
  // What the change log was made with goes on; a policy is for new disks only.
  const blockSize = config.blockSize ?? state?.blockSize ?? newBlockSize;
  const owner = `${config.machine}/${disk.name}`;
  const capture = await openNbdCapture({
    files,
    clock,
    random,
    image: disk.image,
    name: disk.name,
    owner,
    blockSize,
    stateDirectory: config.data,
    hadLog: state !== null,
    lock: (image) => acquireLock(files, clock, image, lockIdentity(clock, `agent of ${owner}`)),
  });
  try {
    return { capture, replica: await ReplicaDisk.open({ capture, files, directory: config.data, state }) };
  } catch (error) {
    await capture.close();
    throw error;
  }
}

/** Serves the disk where the configuration says; returns where that is. */
async function serveDisk(
  parts: Parts,
  closers: Closers,
  disk: DiskConfig,
  backend: Backend,
  logger: Logger,
): Promise<string> {
  const listen = disk.socket === undefined ? { host: '127.0.0.1', port: disk.port ?? 0 } : { unixPath: disk.socket };
  const server = await serveNbd({
    exports: new Map([[disk.name, backend]]),
    listen,
    clock: parts.clock,
    files: parts.files,
    logger,
  });
  closers.add(() => server.close());
  return server.uri(disk.name);
}

function readiness(report: AgentReport): Readiness {
  const ready = report.state === 'idle' || report.state === 'cycling' || report.state === 'opening';
  return { ready, reasons: ready ? [] : [`${report.state}: ${report.reason || 'no session yet'}`] };
}

/** What the control API is told (`control/schemas.ts`). */
function reportOf(parts: Parts, report: AgentReport): Report {
  const connected = report.state === 'idle' || report.state === 'cycling';
  const problems =
    report.reason === ''
      ? []
      : [
          {
            code: report.state,
            message: report.reason.slice(0, 1000),
            remedy: '',
            retryable: report.state !== 'critical',
            machine: report.machine,
          },
        ];
  return {
    role: 'agent',
    atMs: Math.round(parts.clock.wallMs()),
    version: parts.version,
    problems,
    connected,
    resyncDone: null,
    gaps: [],
    disks: report.disks.map((disk) => ({
      name: disk.disk,
      size: disk.size,
      lagBytes: disk.lagBytes,
      phase: report.state,
      resync: null,
      consistency: null,
    })),
  };
}

export function startAgent(parts: Parts, config: AgentConfig): Promise<Running> {
  const { files, clock, random, version } = parts;
  const logger = parts.loggerOf(config, 'agent').child({ machine: config.machine });
  return RoleBuilder.build(async (builder) => {
    const credentials = await credentialsFor(parts, config.credentials, 'agent', config.machine);
    const link = controlLink(parts, config, credentials, logger);
    builder.closers.add(() => {
      link.close();
    });
    const policy = await link.policy();
    const blockSize = policy()?.blockSize ?? agentDefaults.blockSize;
    await files.makeDirectory(config.data);
    const replicas: ReplicaDisk[] = [];
    for (const disk of config.disks) {
      const { capture, replica } = await openDisk(parts, config, disk, blockSize);
      builder.closers.add(() => replica.close());
      replicas.push(replica);
      builder.reachable(`disk ${disk.name}`, await serveDisk(parts, builder.closers, disk, capture, logger));
      if (capture.logLoss !== null)
        logger.warn(
          { disk: disk.name, reason: capture.logLoss },
          'every block of this disk is compared with its replica',
        );
    }
    const { host, port } = config.processServer;
    const agent = new Agent({
      machine: config.machine,
      version,
      disks: replicas,
      cutAll: makeCutAll(clock),
      connect: (signal) => connect({ host, port, credentials, expectRole: 'process-server', clock, signal }),
      intervalMs: () => (config.intervalSeconds ?? policy()?.intervalSeconds ?? agentDefaults.intervalSeconds) * 1000,
      compression: () => config.compression ?? policy()?.compression ?? agentDefaults.compression,
      clock,
      random,
      logger,
    });
    registerAgentSeries(builder.registry, agent);
    await builder.observe(parts, config, logger, () => readiness(agent.report()));
    link.reportEvery(() => reportOf(parts, agent.report()));
    const pointNow = (): void => {
      agent.requestCycle();
    };
    process.on('SIGUSR2', pointNow);
    builder.closers.add(() => {
      process.off('SIGUSR2', pointNow);
    });
    const loop = agent.run();
    loop.catch((error: unknown) => {
      builder.fail(error);
    });
    builder.closers.add(async () => {
      agent.stop();
      await loop.catch(() => undefined);
    });
  });
}

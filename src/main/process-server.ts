/** Composition of the process server: listener for agents, connections to the target, the worker pool, metrics. */
import { availableParallelism } from 'node:os';
import type { Running } from '../cli/roles.ts';
import type { ProcessServerConfig } from '../config.ts';
import { providers } from '../kernels/providers.ts';
import { Credit } from '../kit/credit.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { GiB } from '../kit/sizes.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import { registerCertificateSeries } from '../observe/metrics.ts';
import type { Files } from '../posix/files.ts';
import { acquireLock } from '../posix/lock.ts';
import { Budget } from '../process-server/budget.ts';
import { registerProcessServerSeries } from '../process-server/metrics.ts';
import { SealPool } from '../process-server/pool.ts';
import { ProcessServer } from '../process-server/server.ts';
import { registerSpoolSeries } from '../process-server/spool-metrics.ts';
import { formatAddress } from '../transport/address.ts';
import { connect } from '../transport/client.ts';
import type { Connection } from '../transport/connection.ts';
import type { Credentials } from '../transport/credentials.ts';
import { listen, type Listener } from '../transport/server.ts';
import { controlLink, type ControlLink } from './control-link.ts';
import type { LeaseKeeper } from './lease-keeper.ts';
import { LimitsTold } from './limits-told.ts';
import { startShards } from './shards.ts';
import { credentialsFor, lockIdentity, partsOfRole, RoleBuilder, type Parts } from './parts.ts';
import { keepLeases } from './process-server-leases.ts';
import { ProcessServerReporter } from './process-server-report.ts';
import { carrySpools, spoolPlace } from './spool-places.ts';

const { inFlightBytesMax, inFlightBytesFree, comparisonBytesMax } = limits.processServer;

/** What is different where several processes share one port (`shards.ts`). */
export interface Shard {
  /** From 1. */
  readonly index: number;
  readonly of: number;
  readonly link: ControlLink;
  /** An agent connected here. */
  readonly came: (machine: string) => void;
  /** From now on `handle` is told of agents that connect to another one. */
  readonly onElsewhere: (handle: (machine: string) => void) => void;
}

export async function startProcessServer(common: Parts, config: ProcessServerConfig): Promise<Running> {
  if (config.spoolGiB > 0) {
    await carrySpools(common.files, config.spool, config.shards).catch((error: unknown) => {
      const reason = messageOf(error);
      common
        .loggerOf(config, 'process-server')
        .warn({ reason }, 'an earlier spool is left where it is; its agents send again');
    });
  }
  return config.shards > 1 ? startShards(common, config) : runProcessServer(common, config, null);
}

/** What of the process server's is this process's: all, or a shard's part. */
function partOf(config: ProcessServerConfig, files: Files, shard: Shard | null) {
  const { index, of } = shard ?? { index: 0, of: 1 };
  const directory = spoolPlace(config.spool, index);
  const bytesMax = Math.floor((config.spoolGiB * GiB) / of);
  return {
    threads: Math.max(1, Math.floor((config.workers ?? availableParallelism()) / of)),
    room: {
      spool: bytesMax === 0 ? null : { directory, bytesMax, files },
      budget: {
        totalBytes: Math.floor(inFlightBytesMax / of),
        freeBytes: Math.floor(inFlightBytesFree / of),
      },
      comparisonRoom: new Credit(Math.floor(comparisonBytesMax / of)),
    },
    share: 1 / of,
  };
}

function listenForAgents(
  { clock }: Parts,
  { config, credentials, logger }: { config: ProcessServerConfig; credentials: Credentials; logger: Logger },
  onConnection: (connection: Connection) => void,
): Promise<Listener> {
  return listen({
    ...config.listen,
    credentials,
    accept: ['agent'],
    clock,
    onConnection,
    onRefused: (refusal) => {
      logger.warn({ ...refusal }, 'a connection was refused');
    },
  });
}

export function runProcessServer(common: Parts, config: ProcessServerConfig, shard: Shard | null): Promise<Running> {
  const whole = common.loggerOf(config, 'process-server');
  const logger = shard ? whole.child({ shard: shard.index }) : whole;
  const parts = partsOfRole(common, logger);
  const { clock, random, version } = parts;
  return RoleBuilder.build(async (builder) => {
    const credentials = await credentialsFor(parts, config.credentials, 'process-server');
    warnOfFallbacks(logger);
    const { threads, room, share } = partOf(config, parts.files, shard);
    if (room.spool) {
      // Two of them would take what is spooled from under one another.
      await parts.files.makeDirectory(room.spool.directory);
      const lock = await acquireLock(parts.files, clock, room.spool.directory, lockIdentity(clock, 'process-server'));
      builder.closers.add(() => lock.release());
    }
    const sealer = new SealPool({ threads });
    builder.closers.add(() => sealer.close());
    const limitsTold = new LimitsTold(clock, config, logger, share);
    const leases = Promise.withResolvers<LeaseKeeper | null>();
    const server = new ProcessServer({
      admission: async (machine) => (await leases.promise)?.admit(machine) ?? null,
      connectTarget: (_machine, signal) =>
        connect({ ...config.target, credentials, expectRole: 'target', clock, signal }),
      ...room,
      budget: new Budget({ ...room.budget, isCrowded: () => sealer.isCrowded }),
      throttle: limitsTold.throttle,
      ...{ sealer, clock, random, logger, version },
    });
    shard?.onElsewhere((machine) => {
      server.endMachine(machine, new Problem('superseded', 'the same machine connected again', { retryable: true }));
    });
    const facts = { config, credentials, logger };
    const listener = await listenForAgents(parts, facts, (connection) => {
      shard?.came(connection.peer.name);
      server.accept(connection);
    });
    builder.closers.add(async () => {
      server.close();
      await listener.close();
      await server.settled();
    });
    leases.resolve(keepLeases(parts, { ...facts, builder }, server, listener.port));
    builder.reachable('agents', formatAddress({ host: config.listen.host, port: listener.port }));
    registerProcessServerSeries(builder.registry, server);
    registerSpoolSeries(builder.registry, server, clock);
    registerCertificateSeries(builder.registry, 'process-server', credentials.identity.notAfterMs);
    await builder.observe(parts, config, logger, () => server.readiness);
    const link = shard?.link ?? controlLink(parts, config, credentials, logger);
    builder.closers.add(() => {
      link.close();
    });
    const reporter = new ProcessServerReporter();
    const report = () => reporter.make({ server, target: config.target, version, nowMs: clock.wallMs() });
    link.reportEvery(report, (told) => {
      limitsTold.tell(told);
      return false;
    });
  }, config.data);
}

function warnOfFallbacks(logger: Logger): void {
  for (const { kernel, provider, fallback, reason } of providers()) {
    if (fallback) logger.warn({ kernel, provider, reason }, 'a kernel runs on a slower provider than preferred');
  }
}

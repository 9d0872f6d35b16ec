/** Composition of the process server: listener for agents, connections to the target, the worker pool, metrics. */
import { availableParallelism } from 'node:os';
import type { Running } from '../cli/roles.ts';
import type { ProcessServerConfig } from '../config.ts';
import { providers } from '../kernels/providers.ts';
import { GiB } from '../kit/sizes.ts';
import { registerCertificateSeries } from '../observe/metrics.ts';
import { registerProcessServerSeries } from '../process-server/metrics.ts';
import { SealPool } from '../process-server/pool.ts';
import { ProcessServer } from '../process-server/server.ts';
import { registerSpoolSeries } from '../process-server/spool-metrics.ts';
import { formatAddress } from '../transport/address.ts';
import { connect } from '../transport/client.ts';
import { listen } from '../transport/server.ts';
import { controlLink } from './control-link.ts';
import { LimitsTold } from './limits-told.ts';
import { credentialsFor, partsOfRole, RoleBuilder, type Parts } from './parts.ts';
import { ProcessServerReporter } from './process-server-report.ts';

export function startProcessServer(common: Parts, config: ProcessServerConfig): Promise<Running> {
  const logger = common.loggerOf(config, 'process-server');
  const parts = partsOfRole(common, logger);
  const { clock, random, version } = parts;
  return RoleBuilder.build(async (builder) => {
    const credentials = await credentialsFor(parts, config.credentials, 'process-server');
    for (const { kernel, provider, fallback, reason } of providers()) {
      if (fallback) logger.warn({ kernel, provider, reason }, 'a kernel runs on a slower provider than preferred');
    }
    const sealer = new SealPool({ threads: config.workers ?? availableParallelism() });
    builder.closers.add(() => sealer.close());
    const limitsTold = new LimitsTold(clock, config, logger);
    const server = new ProcessServer({
      connectTarget: (_machine, signal) =>
        connect({
          host: config.target.host,
          port: config.target.port,
          credentials,
          expectRole: 'target',
          clock,
          signal,
        }),
      spool:
        config.spoolGiB === 0 ? null : { directory: config.spool, bytesMax: config.spoolGiB * GiB, files: parts.files },
      throttle: limitsTold.throttle,
      sealer,
      clock,
      random,
      logger,
      version,
    });
    const listener = await listen({
      ...config.listen,
      credentials,
      accept: ['agent'],
      clock,
      onConnection: (connection) => {
        server.accept(connection);
      },
      onRefused: (refusal) => {
        logger.warn({ ...refusal }, 'a connection was refused');
      },
    });
    builder.closers.add(async () => {
      server.close();
      await listener.close();
    });
    builder.reachable('agents', formatAddress({ host: config.listen.host, port: listener.port }));
    registerProcessServerSeries(builder.registry, server);
    registerSpoolSeries(builder.registry, server, clock);
    registerCertificateSeries(builder.registry, 'process-server', credentials.identity.notAfterMs);
    await builder.observe(parts, config, logger, () => server.readiness);
    const link = controlLink(parts, config, credentials, logger);
    builder.closers.add(() => {
      link.close();
    });
    const reporter = new ProcessServerReporter();
    link.reportEvery(
      () => reporter.make({ server, target: config.target, version, nowMs: clock.wallMs() }),
      ({ throttle }) => {
        limitsTold.tell(throttle);
        return false;
      },
    );
  }, config.data);
}

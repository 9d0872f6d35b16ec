/** Composition of the master target: data directory, vault, stores, listener for process servers, reports, metrics. */
import * as path from 'node:path';
import type { Running } from '../cli/roles.ts';
import { Problem } from '../kit/problem.ts';
import type { TargetConfig } from '../config.ts';
import type { Logger } from '../observe/logger.ts';
import { registerCertificateSeries } from '../observe/metrics.ts';
import type { Readiness } from '../observe/server.ts';
import type { MachineStore } from '../store/machine-store.ts';
import { openMachineStore } from '../store/machine-open.ts';
import { finishRemovals } from '../store/machine-removal.ts';
import { listMachines, openDataDirectory, type DataDirectory } from '../store/machine-directory.ts';
import { Vault } from '../store/vault.ts';
import { startAdmin } from '../target/admin.ts';
import { registerTargetSeries } from '../target/metrics.ts';
import { Target } from '../target/target.ts';
import { formatAddress } from '../transport/address.ts';
import { listen } from '../transport/server.ts';
import { controlLink } from './control-link.ts';
import { watchFailovers } from './failover-keeper.ts';
import { startedElsewhere } from './failover-standing.ts';
import { credentialsFor, lockIdentity, partsOfRole, RoleBuilder, type Parts } from './parts.ts';
import { readBootId } from './boot-id.ts';
import { countFailovers } from './failover-series.ts';
import { TargetReporter } from './target-report.ts';
import { UnprotectedMachines } from './unprotected.ts';

async function openVault(parts: Parts, config: TargetConfig, data: DataDirectory): Promise<Vault> {
  const { files, random } = parts;
  const vault = await Vault.openOrCreate({ files, random, keyFile: config.vault, expected: data.facts?.vault });
  if (data.facts === null) await data.create(vault.id);
  return vault;
}

/** Opens a machine's store and says what was found. */
async function openMachine(
  parts: Parts,
  logger: Logger,
  store: { data: DataDirectory; vault: Vault; bootId: string; fatal: (error: unknown) => void },
  machine: string,
): Promise<MachineStore> {
  const opened = await openMachineStore({
    ...parts,
    ...store,
    machine,
    fullChanged: (full) => {
      if (full) logger.error({ machine }, 'the target is full: acknowledging stops until there is space');
      else logger.info({ machine }, 'there is space again');
    },
  });
  const { damage, lost, dropped, torn, incompleteDisks, replayedEntries } = opened.report;
  logger.info({ machine, points: opened.store.points.points.length, replayedEntries }, 'store open');
  if (torn.length > 0) logger.warn({ machine, copies: torn }, 'a torn end was cut off; copies were kept');
  if (damage.length > 0) logger.error({ machine, damage }, 'stored bytes below committed points are damaged');
  if (lost.length > 0)
    logger.error({ machine, lost }, 'blocks of these points are damaged; the source is asked for them');
  if (dropped.length > 0)
    logger.error(
      { machine, dropped },
      'layers no point lists lost a batch and are dropped; the source sends them again',
    );
  if (incompleteDisks.length > 0)
    logger.error(
      { machine, disks: incompleteDisks },
      'records are missing; the source is asked to compare every block',
    );
  return opened.store;
}

function readiness(target: Target): Readiness {
  const full = [...target.stores()]
    .filter(([, store]) => store.full)
    .map(([machine]) => `no space left for ${machine}`);
  const unopened = [...target.unopened()].map(
    ([machine, { message }]) => `the store of ${machine} can not be opened: ${message}`,
  );
  const reasons = [...full, ...unopened];
  return { ready: reasons.length === 0, reasons };
}

async function openTarget(
  parts: Parts,
  logger: Logger,
  builder: RoleBuilder,
  data: DataDirectory,
  vault: Vault,
  reporter: TargetReporter,
): Promise<Target> {
  const { files, clock, version } = parts;
  const bootId = await readBootId(files);
  const fatal = (error: unknown): void => {
    builder.fail(error);
  };
  const target = new Target({
    version,
    clock,
    logger,
    openMachine: (machine) => openMachine(parts, logger, { data, vault, bootId, fatal }, machine),
    machines: () => listMachines(files, data.path),
    retentionOf: (machine) => reporter.retentionOf(machine),
    startedElsewhere: (machine, points) => startedElsewhere(files, { data: data.path, machine }, points),
  });
  builder.closers.add(() => target.close());
  await target.start();
  return target;
}

/** Commands have records written by us from here on; what failovers there are is put in order beside. */
async function openDoorForCommands(
  parts: Parts,
  logger: Logger,
  builder: RoleBuilder,
  config: TargetConfig,
  target: Target,
): Promise<void> {
  const { files } = parts;
  const { data } = config;
  const admin = await startAdmin({
    files,
    logger,
    data,
    record: async (machine, entry) => {
      if (!(await listMachines(files, data)).includes(machine))
        throw new Problem('not-found', `${data} holds no machine ${machine}`);
      await target.record(machine, entry);
    },
  });
  builder.closers.add(() => admin.close());
  const stopping = new AbortController();
  const kept = watchFailovers(parts, config, logger, stopping.signal);
  builder.closers.add(() => {
    stopping.abort();
    return kept;
  });
}

export function startTarget(common: Parts, config: TargetConfig): Promise<Running> {
  const logger = common.loggerOf(config, 'target');
  const parts = partsOfRole(common, logger);
  const { files, clock } = parts;
  return RoleBuilder.build(async (builder) => {
    const credentials = await credentialsFor(parts, config.credentials, 'target');
    const data = await openDataDirectory({ files, clock, path: config.data, identity: lockIdentity(clock, 'target') });
    builder.closers.add(() => data.close());
    const vault = await openVault(parts, config, data);
    await finishRemovals(files, config.data);
    const reporter = new TargetReporter();
    const target = await openTarget(parts, logger, builder, data, vault, reporter);
    await openDoorForCommands(parts, logger, builder, config, target);
    const listener = await listen({
      ...config.listen,
      credentials,
      accept: ['process-server'],
      clock,
      onConnection: (connection) => {
        target.accept(connection);
      },
      onRefused: (refusal) => {
        logger.warn({ ...refusal }, 'a connection was refused');
      },
    });
    builder.closers.add(() => listener.close());
    builder.reachable('process servers', formatAddress({ host: config.listen.host, port: listener.port }));
    if (!(await vault.recoveryWritten(files, config.data))) {
      logger.warn({}, `no recovery file was written yet: run tidemark key export --data ${path.resolve(config.data)}`);
    }
    registerTargetSeries(builder.registry, target, () => files.freeBytes(config.data));
    registerCertificateSeries(builder.registry, 'target', credentials.identity.notAfterMs);
    const failovers = countFailovers(builder.registry, parts, config.data);
    builder.closers.add(() => failovers.close());
    await builder.observe(parts, config, logger, () => readiness(target));
    const link = controlLink(parts, config, credentials, logger);
    builder.closers.add(() => {
      link.close();
    });
    const unprotected = new UnprotectedMachines({ ...parts, target, data: config.data, logger });
    link.reportEvery(
      async () =>
        reporter.make(
          parts,
          target,
          await vault.recoveryWritten(files, config.data),
          await files.freeBytes(config.data),
          failovers,
        ),
      (answer) => {
        reporter.answered(answer);
        void unprotected.take(answer.unprotected).then((deletions) => {
          reporter.deletions(deletions);
        });
        return false;
      },
    );
  }, config.data);
}

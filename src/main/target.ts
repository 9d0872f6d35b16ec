/** Composition of the master target: data directory, vault, stores, listener for process servers, reports, metrics. */
import * as path from 'node:path';
import type { Running } from '../cli/roles.ts';
import type { TargetConfig } from '../config.ts';
import type { PointReport, TargetReport } from '../control/schemas.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { Readiness } from '../observe/server.ts';
import type { MachineStore } from '../store/machine-store.ts';
import { openMachineStore } from '../store/machine-open.ts';
import { listMachines, openDataDirectory, type DataDirectory } from '../store/machine-directory.ts';
import { Vault } from '../store/vault.ts';
import { registerTargetSeries } from '../target/metrics.ts';
import { Target } from '../target/target.ts';
import { formatAddress } from '../transport/address.ts';
import { loadCredentials } from '../transport/credentials.ts';
import { listen } from '../transport/server.ts';
import { controlLink, type ReportAnswer } from './control-link.ts';
import { lockIdentity, RoleBuilder, type Parts } from './parts.ts';
import { readBootId } from './boot-id.ts';

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
  const { damage, torn, incompleteDisks, replayedEntries } = opened.report;
  logger.info({ machine, points: opened.store.points.points.length, replayedEntries }, 'store open');
  if (torn.length > 0) logger.warn({ machine, copies: torn }, 'a torn end was cut off; copies were kept');
  if (damage.length > 0) logger.error({ machine, damage }, 'stored bytes below committed points are damaged');
  if (incompleteDisks.length > 0)
    logger.error(
      { machine, disks: incompleteDisks },
      'records are missing; the source is asked to compare every block',
    );
  return opened.store;
}

function pointReport(store: MachineStore, number: number): PointReport | null {
  const view = store.points;
  const point = view.point(number);
  if (!point) return null;
  return {
    point: number,
    cutTimeMs: Math.round(point.cutTimeMs),
    committedMs: Math.round(point.committedMs),
    provenMs: Math.round(view.proven.get(number)?.atMs ?? Number.NaN) || null,
    consistency: point.consistency,
    damaged: view.stateOf(number) === 'damaged',
    disks: point.disks.map(({ no, size, root }) => ({
      name: store.disks.find((disk) => disk.no === no)?.name ?? `disk-${no}`,
      size,
      root,
    })),
  };
}

/** What the control API is told: points it does not have yet, and those that changed since. */
function machineReport(
  store: MachineStore,
  known: number | null,
  changed: ReadonlySet<number>,
): TargetReport['machines'][number] {
  const view = store.points;
  const marks = (disk: number, provenOnly: boolean): { point: number; cutTimeMs: number } | null => {
    const found = view.points.findLast(
      ({ point, disks }) => disks.some(({ no }) => no === disk) && (!provenOnly || view.stateOf(point) === 'proven'),
    );
    return found ? { point: found.point, cutTimeMs: Math.round(found.cutTimeMs) } : null;
  };
  const numbers = view.points.map(({ point }) => point).filter((point) => point > (known ?? 0) || changed.has(point));
  let damagedBlocks = 0;
  for (const disk of store.disks) damagedBlocks += disk.blocksToRepair().length;
  return {
    name: store.machine,
    oldestPoint: view.points[0]?.point ?? null,
    damagedBlocks,
    disks: store.disks.map((disk) => ({
      name: disk.name,
      size: disk.geometry.size,
      committed: marks(disk.no, false),
      proven: marks(disk.no, true),
    })),
    points: numbers
      .slice(0, limits.control.pointsPerReportMax)
      .map((number) => pointReport(store, number))
      .filter((report) => report !== null),
  };
}

/** Makes the target's reports, remembering what control already has. */
class Reporter {
  readonly #known = new Map<string, number | null>();
  /** Points told as committed only, which may be proven or damaged meanwhile. */
  readonly #open = new Map<string, Set<number>>();

  make(parts: Parts, target: Target, recoveryFileWritten: boolean, freeBytes: number): TargetReport {
    const machines = [...target.stores()].map(([name, store]) => {
      const told = this.#open.get(name) ?? new Set<number>();
      const changed = new Set([...told].filter((point) => store.points.stateOf(point) !== 'committed'));
      const report = machineReport(store, this.#known.get(name) ?? null, changed);
      this.#open.set(
        name,
        new Set(
          [...told, ...report.points.map(({ point }) => point)].filter(
            (point) => store.points.stateOf(point) === 'committed',
          ),
        ),
      );
      return report;
    });
    const full = [...target.stores()].filter(([, store]) => store.full);
    return {
      role: 'target',
      atMs: Math.round(parts.clock.wallMs()),
      version: parts.version,
      problems: full.map(([machine]) => ({
        code: 'full',
        message: `the target has no space left for ${machine}; acknowledging has stopped`,
        remedy: 'free some space on the file system of its directory; replication goes on by itself',
        retryable: true,
        machine,
      })),
      recoveryFileWritten,
      freeBytes,
      machines,
    };
  }

  answered(answer: ReportAnswer): void {
    for (const { name, newestPoint } of answer.machines) this.#known.set(name, newestPoint);
  }
}

function readiness(target: Target): Readiness {
  const full = [...target.stores()]
    .filter(([, store]) => store.full)
    .map(([machine]) => `no space left for ${machine}`);
  return { ready: full.length === 0, reasons: full };
}

export function startTarget(parts: Parts, config: TargetConfig): Promise<Running> {
  const { files, clock, version } = parts;
  const logger = parts.loggerOf(config, 'target');
  return RoleBuilder.build(async (builder) => {
    const credentials = await loadCredentials(files, config.credentials, clock.wallMs());
    const data = await openDataDirectory({ files, clock, path: config.data, identity: lockIdentity(clock, 'target') });
    builder.closers.add(() => data.close());
    const vault = await openVault(parts, config, data);
    const bootId = await readBootId(files);
    const store = {
      data,
      vault,
      bootId,
      fatal: (error: unknown) => {
        builder.fail(error);
      },
    };
    const target = new Target({
      version,
      clock,
      logger,
      openMachine: (machine) => openMachine(parts, logger, store, machine),
      machines: () => listMachines(files, config.data),
    });
    builder.closers.add(() => target.close());
    await target.start();
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
    registerTargetSeries(builder.registry, target);
    await builder.observe(parts, config, logger, () => readiness(target));
    const link = await controlLink(parts, config, credentials, logger);
    builder.closers.add(() => {
      link.close();
    });
    const reporter = new Reporter();
    link.reportEvery(
      async () =>
        reporter.make(
          parts,
          target,
          await vault.recoveryWritten(files, config.data),
          await files.freeBytes(config.data),
        ),
      (answer) => {
        reporter.answered(answer);
      },
    );
  });
}

/** What a target tells the control API (`control/schemas.ts`): the points control does not have yet, and those that changed since. */
import type { PointReport, ReportReply, TargetReport } from '../control/report-schemas.ts';
import type { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { MachineStore } from '../store/machine-store.ts';
import { keepAll, type RetentionPolicy } from '../store/retention.ts';
import type { Scrubber } from '../target/scrubber.ts';
import type { Target } from '../target/target.ts';
import type { FailoverCount } from './failover-series.ts';
import type { Parts } from './parts.ts';
import { replicaFacts } from './replica-facts.ts';
import { replicaFlow, TargetFlowMeter } from './target-flow.ts';
import type { Deletions } from './unprotected.ts';

const { pointsPerReportMax } = limits.control;

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
  retired: readonly number[],
  replica: TargetReport['machines'][number]['replica'],
  scrubber: Scrubber | undefined,
): TargetReport['machines'][number] {
  const view = store.points;
  const started = view.newestBooted;
  const marks = (disk: number, provenOnly: boolean): { point: number; cutTimeMs: number } | null => {
    const found = view.points.findLast(
      ({ point, disks }) => disks.some(({ no }) => no === disk) && (!provenOnly || view.stateOf(point) === 'proven'),
    );
    return found ? { point: found.point, cutTimeMs: Math.round(found.cutTimeMs) } : null;
  };
  const numbers = view.kept.map(({ point }) => point).filter((point) => point > (known ?? 0) || changed.has(point));
  let damagedBlocks = 0;
  for (const disk of store.disks) damagedBlocks += disk.blocksToRepair().length;
  return {
    name: store.machine,
    oldestPoint: view.kept[0]?.point ?? null,
    retired: [...retired],
    damagedBlocks,
    booted: started && { point: started.point, atMs: Math.round(started.atMs), seconds: started.seconds },
    replica,
    flow: replicaFlow(store, scrubber),
    disks: store.disks.map((disk) => ({
      name: disk.name,
      size: disk.geometry.size,
      committed: marks(disk.no, false),
      proven: marks(disk.no, true),
    })),
    points: numbers
      .slice(0, pointsPerReportMax)
      .map((number) => pointReport(store, number))
      .filter((report) => report !== null),
  };
}

/** As many as one report may carry (`control/schemas.ts`). */
const problemsMax = 64;

function fullProblem(machine: string): TargetReport['problems'][number] {
  return {
    code: 'full',
    message: `the target has no space left for ${machine}; acknowledging has stopped`,
    remedy: 'free some space on the file system of its directory; replication goes on by itself',
    retryable: true,
    machine,
  };
}

function problemOf(machine: string, what: string, { code, message, remedy, retryable }: Problem) {
  return { code, message: `${what}: ${message}`.slice(0, 1000), remedy, retryable, machine };
}

function problemsOf(target: Target, undeleted: Deletions['undeleted']): TargetReport['problems'] {
  const full = [...target.stores()].filter(([, store]) => store.full);
  return [
    ...full.map(([machine]) => fullProblem(machine)),
    ...[...target.unopened()].map(([machine, problem]) =>
      problemOf(machine, `the store of ${machine} can not be opened`, problem),
    ),
    ...[...undeleted].map(([machine, problem]) =>
      problemOf(machine, `the replica of ${machine} is not deleted`, problem),
    ),
  ].slice(0, problemsMax);
}

/** Makes the target's reports, remembering what control already has. */
export class TargetReporter {
  #undeleted: Deletions['undeleted'] = new Map();
  readonly #flow = new TargetFlowMeter();
  readonly #known = new Map<string, number | null>();
  #deleted: readonly string[] = [];
  readonly #retention = new Map<string, RetentionPolicy>();
  readonly #thinnedTold = new Map<string, Set<number>>();
  /** Points told as committed only, which may be proven or damaged meanwhile; and those told as damaged, which any other may become. */
  readonly #told = new Map<string, { readonly open: ReadonlySet<number>; readonly damaged: ReadonlySet<number> }>();

  make(
    parts: Parts,
    target: Target,
    recoveryFileWritten: boolean,
    freeBytes: number,
    failovers: Pick<FailoverCount, 'of'> = { of: () => [] },
  ): TargetReport {
    const machines = [...target.stores()].map(([name, store]) => {
      const { points: view } = store;
      const told = this.#told.get(name) ?? { open: new Set<number>(), damaged: new Set<number>() };
      const settled = [...told.open].filter((point) => view.stateOf(point) !== 'committed');
      const healed = [...told.damaged].filter((point) => view.stateOf(point) !== 'damaged');
      const newlyDamaged = [...view.damaged.keys()].filter((point) => !told.damaged.has(point));
      const report = machineReport(
        store,
        this.#known.get(name) ?? null,
        new Set([...settled, ...healed, ...newlyDamaged]),
        this.#thinned(name, view),
        replicaFacts(target, name, failovers.of(name)),
        target.scrubbers().get(name),
      );
      const sent = report.points.map(({ point }) => point);
      this.#told.set(name, {
        open: new Set([...told.open, ...sent].filter((point) => view.stateOf(point) === 'committed')),
        damaged: new Set([...told.damaged, ...sent].filter((point) => view.stateOf(point) === 'damaged')),
      });
      return report;
    });
    return {
      role: 'target',
      atMs: Math.round(parts.clock.wallMs()),
      version: parts.version,
      problems: problemsOf(target, this.#undeleted),
      recoveryFileWritten,
      deleted: [...this.#deleted],
      freeBytes,
      flow: this.#flow.measured(target.counters, freeBytes, parts.clock.wallMs()),
      machines,
    };
  }

  /** What became of replicas that were to be deleted. */
  deletions({ deleted, undeleted }: Deletions): void {
    this.#deleted = deleted;
    this.#undeleted = undeleted;
    for (const name of deleted) {
      this.#known.delete(name);
      this.#told.delete(name);
      this.#retention.delete(name);
      this.#thinnedTold.delete(name);
    }
  }

  answered(answer: ReportReply): void {
    for (const { name, newestPoint, retention } of answer.machines) {
      this.#known.set(name, newestPoint);
      if (retention) this.#retention.set(name, { hours: retention.hours, thinning: retention.thinning ?? undefined });
    }
  }

  /** As control said last; until it has, everything is kept. */
  retentionOf(machine: string): RetentionPolicy {
    return this.#retention.get(machine) ?? keepAll;
  }

  /** Points above the oldest that are no longer kept and were not told of, as many as a report takes. */
  #thinned(name: string, view: MachineStore['points']): number[] {
    const told = this.#thinnedTold.get(name) ?? new Set();
    this.#thinnedTold.set(name, told);
    const oldest = view.kept[0]?.point ?? 0;
    const found: number[] = [];
    // None is missing in between, as long as nothing is thinned out or held.
    if (view.kept.length === view.points.length - oldest + 1) return found;
    for (let point = oldest + 1; point <= view.points.length && found.length < pointsPerReportMax; point += 1)
      if (view.isRetired(point) && !told.has(point)) found.push(point);
    for (const point of found) told.add(point);
    return found;
  }
}

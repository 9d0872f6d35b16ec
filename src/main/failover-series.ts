/**
 * How many failovers there are of each machine, for dashboards: counted in the directory from time to time, since commands make and remove them beside
 * the target.
 */
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { MetricRegistry, Sample } from '../observe/registry.ts';
import type { Files } from '../posix/files.ts';
import { listFailovers } from '../recovery/failover-directory.ts';
import { listMachines } from '../store/machine-directory.ts';

const failovers = {
  name: 'tidemark_failovers',
  help: 'Failovers of the machine: tests, and one that made its replica the primary.',
  type: 'gauge',
  labels: ['machine', 'kind'],
} as const;

const kinds = ['test', 'unplanned'] as const;

export interface FailoverCount {
  /** Ids of those there are of the machine, as of a moment ago. */
  of(machine: string): readonly string[];
  close(): void;
}

/** Registers the series and counts until it is closed. */
export function countFailovers(
  registry: MetricRegistry,
  { files, clock }: { readonly files: Files; readonly clock: Clock },
  data: string,
): FailoverCount {
  let counted: ReadonlyMap<string, readonly string[]> = new Map();
  registry.sampled(failovers, () =>
    [...counted].flatMap(([machine, ids]) =>
      kinds.map((kind): Sample<'machine' | 'kind'> => {
        return { labels: { machine, kind }, value: ids.filter((id) => id.startsWith(`${kind}-`)).length };
      }),
    ),
  );
  const count = async (): Promise<void> => {
    const found = new Map<string, readonly string[]>();
    for (const machine of await listMachines(files, data))
      found.set(
        machine,
        (await listFailovers(files, data, machine)).map(({ id }) => id),
      );
    counted = found;
  };
  // What can not be counted is not known, so it is not told.
  const attempt = (): void => {
    void count().catch(() => (counted = new Map()));
  };
  attempt();
  const timer = clock.every(limits.target.failoversCountedMs, attempt);
  return {
    of: (machine) => counted.get(machine) ?? [],
    close: () => {
      timer.cancel();
    },
  };
}

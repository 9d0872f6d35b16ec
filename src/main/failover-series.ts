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

/** Registers the series and counts until the function it returns is called. */
export function registerFailoverSeries(
  registry: MetricRegistry,
  { files, clock }: { readonly files: Files; readonly clock: Clock },
  data: string,
): () => void {
  let counted: Sample<'machine' | 'kind'>[] = [];
  registry.sampled(failovers, () => counted);
  const count = async (): Promise<void> => {
    const found: Sample<'machine' | 'kind'>[] = [];
    for (const machine of await listMachines(files, data)) {
      const ids = (await listFailovers(files, data, machine)).map(({ id }) => id);
      for (const kind of kinds)
        found.push({ labels: { machine, kind }, value: ids.filter((id) => id.startsWith(`${kind}-`)).length });
    }
    counted = found;
  };
  // What can not be counted is not known, so it is not told.
  const attempt = (): void => {
    void count().catch(() => (counted = []));
  };
  attempt();
  const timer = clock.every(limits.target.failoversCountedMs, attempt);
  return () => timer.cancel();
}

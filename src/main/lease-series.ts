/** Of which machines a process server is the owner, and how often it ceased to be without wanting to, for dashboards. */
import type { MetricRegistry } from '../observe/registry.ts';
import type { LeaseKeeper } from './lease-keeper.ts';

const held = {
  name: 'tidemark_process_server_leases',
  help: 'Machines this process server has a lease of. Absent, as is the next, where leases are not used.',
  type: 'gauge',
  labels: [],
} as const;
const lost = {
  name: 'tidemark_process_server_leases_lost_total',
  help: 'Leases that ran out or were taken away; those given up are not counted.',
  type: 'counter',
  labels: [],
} as const;

export function registerLeaseSeries(registry: MetricRegistry, keeper: Pick<LeaseKeeper, 'held' | 'lost'>): void {
  registry.sampled(held, () => [{ labels: {}, value: keeper.held }]);
  registry.sampled(lost, () => [{ labels: {}, value: keeper.lost }]);
}

/** What an agent exports of its ceilings; without one there is nothing to export. */
import { MiB } from '../kit/sizes.ts';
import type { MetricRegistry } from '../observe/registry.ts';
import type { Governor } from './governor.ts';

const cpuLimit = {
  name: 'tidemark_agent_cpu_limit_cores',
  help: 'Processor time background work may take, seconds per second.',
  type: 'gauge',
  labels: [],
} as const;
const paused = {
  name: 'tidemark_agent_paced_seconds_total',
  help: 'Time background work was held back to keep to the limit of processor time.',
  type: 'counter',
  labels: [],
} as const;
const memoryLimit = {
  name: 'tidemark_agent_memory_limit_bytes',
  help: 'Memory the whole agent may take; compare with tidemark_process_resident_memory_bytes.',
  type: 'gauge',
  labels: [],
} as const;

export interface Ceilings {
  readonly governor: Governor | null;
  readonly memoryMiB: number | null;
}

export function registerCeilingSeries(registry: MetricRegistry, { governor, memoryMiB }: Ceilings): void {
  if (governor) {
    registry.sampled(cpuLimit, () => [{ labels: {}, value: governor.cores }]);
    registry.sampled(paused, () => [{ labels: {}, value: governor.pausedMs / 1000 }]);
  }
  if (memoryMiB !== null) registry.sampled(memoryLimit, () => [{ labels: {}, value: memoryMiB * MiB }]);
}

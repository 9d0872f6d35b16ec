/**
 * The series each role declares, without starting it: a registry that only writes down what is registered and never samples, so that nothing needs to
 * stand behind the interfaces the rooms read. That a running role exports the same is `test/deploy/running.test.ts`.
 */
import type { Agent } from '../../src/agent/agent.ts';
import { registerCeilingSeries } from '../../src/agent/ceiling-metrics.ts';
import { Governor } from '../../src/agent/governor.ts';
import { registerAgentSeries } from '../../src/agent/metrics.ts';
import { registerControlSeries } from '../../src/control/metrics.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { countFailovers } from '../../src/main/failover-series.ts';
import { registerLeaseSeries } from '../../src/main/lease-series.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { registerCertificateSeries, registerProcessSeries } from '../../src/observe/metrics.ts';
import { createRegistry, type MetricRegistry, type SeriesDeclaration } from '../../src/observe/registry.ts';
import { StorageFaults } from '../../src/observe/storage-faults.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { registerProcessServerSeries } from '../../src/process-server/metrics.ts';
import type { ProcessServer } from '../../src/process-server/server.ts';
import { registerSpoolSeries } from '../../src/process-server/spool-metrics.ts';
import { registerTargetSeries } from '../../src/target/metrics.ts';
import type { Target } from '../../src/target/target.ts';

export const roles = ['control', 'target', 'process-server', 'agent'] as const;
export type RoleName = (typeof roles)[number];

/** Never looked at. */
const nobody: unknown = null;

function ofEveryRole(registry: MetricRegistry): void {
  new StorageFaults(systemClock, createLogger({ level: 'silent', clock: systemClock })).register(registry);
  registerProcessSeries(registry, 0).close();
  registerCertificateSeries(registry, 'agent', 0);
}

const registrations: Readonly<Record<RoleName, (registry: MetricRegistry) => void>> = {
  control: (registry) => {
    registerControlSeries(registry, () => Promise.reject(new Error('never asked')));
  },
  target: (registry) => {
    registerTargetSeries(registry, nobody as Target, () => Promise.resolve(0));
    countFailovers(registry, { files: posixFiles, clock: systemClock }, 'nowhere').close();
  },
  'process-server': (registry) => {
    registerProcessServerSeries(registry, nobody as ProcessServer);
    registerSpoolSeries(registry, nobody as ProcessServer, systemClock);
    registerLeaseSeries(registry, { held: 0, lost: 0 });
  },
  agent: (registry) => {
    registerAgentSeries(registry, nobody as Agent);
    registerCeilingSeries(registry, {
      governor: new Governor({ cores: 1, clock: systemClock, cpuMs: () => 0 }),
      memoryMiB: 1,
    });
  },
};

/** In the order they are registered. */
export function declaredSeries(role: RoleName): SeriesDeclaration[] {
  const declared: SeriesDeclaration[] = [];
  const checked = createRegistry();
  const note = (declaration: SeriesDeclaration): void => void declared.push(declaration);
  const registry: MetricRegistry = {
    ...checked,
    counter: (declaration) => (note(declaration), checked.counter(declaration)),
    gauge: (declaration) => (note(declaration), checked.gauge(declaration)),
    histogram: (declaration) => (note(declaration), checked.histogram(declaration)),
    sampled: (declaration, sample) => {
      note(declaration);
      checked.sampled(declaration, sample);
    },
  };
  registrations[role](registry);
  ofEveryRole(registry);
  return declared;
}

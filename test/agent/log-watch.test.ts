/** A change log that fails is told: in the agent's log, to control, and as a metric, until there is one again. */
import { expect, it } from 'vitest';
import type { Agent, AgentReport } from '../../src/agent/agent.ts';
import { newCounters } from '../../src/agent/counters.ts';
import { watchLogs } from '../../src/agent/log-watch.ts';
import { registerAgentSeries } from '../../src/agent/metrics.ts';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import { reportOf } from '../../src/main/agent-report.ts';
import type { LogFields, Logger } from '../../src/observe/logger.ts';
import { createRegistry } from '../../src/observe/registry.ts';

function watched(failures: Record<string, string | null>) {
  const disks = Object.keys(failures).map((name) => ({
    name,
    capture: {
      get logFailure() {
        return failures[name] ?? null;
      },
    },
  }));
  const said: string[] = [];
  const warn = ({ disk, reason }: LogFields, message: string): void => {
    said.push(`${String(disk)} ${message} ${typeof reason === 'string' ? reason : ''}`.trim());
  };
  const other = (): void => expect.unreachable();
  const logger: Logger = { debug: other, info: other, error: other, warn, child: () => logger };
  let look = other;
  const every: Clock['every'] = (ms, run) => {
    expect(ms).toBeLessThanOrEqual(1000);
    look = run;
    return { cancel: () => (look = other) };
  };
  watchLogs(disks, { ...systemClock, every }, logger);
  return {
    said,
    look: () => {
      look();
    },
  };
}

it('is said once when it fails, and once when there is one again', () => {
  const failures: Record<string, string | null> = { vda: null, vdb: null };
  const { said, look } = watched(failures);
  look();
  failures['vdb'] = 'ENOSPC';
  look();
  look();
  failures['vdb'] = null;
  look();
  look();
  expect(said).toEqual(['vdb the change log failed ENOSPC', 'vdb there is a change log again']);
});

it('is looked for more often than it can come back', () => {
  // The shortest pause before a new one is tried for is half of the first one.
  expect(limits.agent.logWatchMs).toBeLessThan(limits.capture.logRetryBaseMs / 2);
});

it('is a metric and a problem of its disk', async () => {
  const facts = { size: 1, lagBytes: 0, newestPoint: null, resync: null };
  const report: AgentReport = {
    machine: 'm1',
    state: 'idle',
    reason: '',
    remedy: '',
    lastPoint: null,
    disks: [
      { ...facts, disk: 'vda', logFailure: null },
      { ...facts, disk: 'vdb', logFailure: 'ENOSPC' },
    ],
    inFlightBytes: 0,
    counters: newCounters(),
    flow: {
      ...{ pointsInFlight: 0, cycle: null, open: null, churn: null, drain: { minute: null, quarterHour: null } },
      waits: { windowMs: 0, readMs: 0, hashMs: 0, sendMs: 0, commitMs: 0 },
      ...{ retry: null, nextCutMs: null, nextAppPointMs: null },
    },
    gaps: new Map(),
  };
  const registry = createRegistry();
  registerAgentSeries(registry, { report: () => report } as unknown as Agent);
  const { text } = await registry.expose();
  expect(text).toContain('tidemark_agent_change_log_failed{machine="m1",disk="vda"} 0');
  expect(text).toContain('tidemark_agent_change_log_failed{machine="m1",disk="vdb"} 1');
  const said = reportOf({
    report,
    version: '1',
    atMs: 1,
    consistency: new Map(),
    timeZone: 'UTC',
    resyncDone: null,
    owed: null,
    faults: [],
  });
  expect(said.problems).toMatchObject([{ code: 'log-failed', disk: 'vdb', retryable: true }]);
});

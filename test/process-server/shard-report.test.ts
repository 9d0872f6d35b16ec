import { expect, it } from 'vitest';
import type { ProcessServerReport } from '../../src/control/report-schemas.ts';
import { reportRequest } from '../../src/control/report-schemas.ts';
import { mergedReport } from '../../src/main/shard-report.ts';

const reachable = { reachable: true, sinceMs: null };
const away = { reachable: false, sinceMs: 7 };

function report(more: Partial<ProcessServerReport>): ProcessServerReport {
  const base = { role: 'process-server', atMs: 1, version: 'v', problems: [], sessions: 0, inFlightBytes: 0 } as const;
  const made = reportRequest.parse({ ...base, ...more });
  if (made.role !== 'process-server') throw new Error('of a process server');
  return made;
}

it('shards are one process server: sums, the worst level of the spool, each machine once, each problem once', () => {
  const problem = { code: 'unreachable', message: 'the target is away', remedy: 'start it', retryable: true };
  const machine = (name: string, target: typeof away | typeof reachable) =>
    ({ machine: name, waits: null, durableMs: null, target, spool: null }) as const;
  const one = report({
    ...{ atMs: 5, sessions: 2, inFlightBytes: 10, problems: [problem], target: away },
    machines: [machine('m1', reachable), machine('m2', away)],
    spool: { level: 'throttling', usedBytes: 8, limitBytes: 10 },
  });
  const two = report({
    ...{ atMs: 9, sessions: 1, inFlightBytes: 5, problems: [problem], target: reachable },
    machines: [machine('m1', away), machine('m3', reachable)],
    spool: { level: 'warning-30', usedBytes: 7, limitBytes: 10 },
  });
  expect(mergedReport([one, two], one)).toEqual({
    ...{ role: 'process-server', version: 'v', atMs: 9, sessions: 3, inFlightBytes: 15, problems: [problem] },
    machines: [machine('m2', away), machine('m1', reachable), machine('m3', reachable)],
    spool: { level: 'throttling', usedBytes: 15, limitBytes: 20 },
    target: reachable,
  });
  expect(mergedReport([report({}), report({})], report({})).spool).toBeNull();
});

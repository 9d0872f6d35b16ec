/** A site that is well, of one machine with one disk. */
import type { StatusReport } from '../../src/cli/status-report.ts';

const recency = {
  rpoTargetSeconds: 60,
  rpoIntervalSeconds: 5,
  rpoActualSeconds: null,
  newestCommittedMs: null,
  newestProvenMs: null,
  lagBytes: null,
  stage: null,
  forecast: null,
};
export const machine: StatusReport['machines'][number] = {
  name: 'web1',
  policy: 'default',
  health: 'ok',
  reasons: [],
  ...recency,
  next: [],
  spooled: null,
  consistency: 'crash',
  booted: null,
  replica: null,
  gaps: [],
  disks: [{ name: 'vda', health: 'ok', reasons: [], ...recency, size: null, phase: null, resync: null }],
};
export const healthy: StatusReport = { atMs: 0, health: 'ok', reasons: [], spools: [], machines: [machine] };

/**
 * The order of test files: the longest come first, so that no core idles beside the last one. On a clean tree vitest knows nothing of how long a file
 * takes and goes by its size, which says little of one that waits; so the long ones are named here, and the order of the others is vitest's.
 */
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Worth a line is what takes ten seconds or more. */
const long = [
  'faults/kills',
  'product/bench',
  'faults/storage',
  'product/damage',
  'product/boot',
  'faults/pressure',
  'product/quickstart',
  'faults/partitions',
  'product/resync',
  'deploy/running',
  'product/unprotect',
  'product/lifecycle',
  'product/failover',
  'product/disaster',
  'product/disk-changes',
  'faults/kills-resync',
  'faults/guest',
  'faults/order',
  'product/ceilings',
  'product/scan',
  'product/refusals',
  'product/kill',
  'faults/takeover',
  'pipeline/resync',
  'recovery/failover-kill',
  'recovery/boot',
  'crash/agent-memory',
  'disk/change-set',
  'control/on-postgres',
  'recovery/failover',
  'pipeline/story',
  'recovery/failover-log',
  'recovery/large-points',
  'pipeline/spool',
  'crash/machine',
];

function rank({ moduleId }: TestSpecification): number {
  const at = long.findIndex((name) => moduleId.endsWith(`/test/${name}.test.ts`));
  return at < 0 ? long.length : at;
}

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const group = ({ project }: TestSpecification): number => project.config.sequence.groupOrder;
    return (await super.sort(files)).sort((a, b) => group(a) - group(b) || rank(a) - rank(b));
  }
}

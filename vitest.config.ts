import { defineConfig } from 'vitest/config';
import { LongestFirst } from './test/longest-first.ts';

/**
 * Whole sites wait for intervals, reports and leases more than they compute: three files at once are what keeps two cores busy. Everywhere else a file has
 * a core to itself, and so have those sites that compute (virtual machines, benches, ever the same target verified) or whose figures are judged by the clock.
 */
const waiting = ['test/{product,faults,deploy}/*.test.ts', 'test/control/on-postgres.test.ts'];
const alone = ['test/product/{bench,boot,damage}.test.ts', 'test/faults/{guest,partitions,pressure}.test.ts'];

/**
 * Tests run from the TypeScript sources; those that start whole roles start the compiled tree (`dist/`), because worker
 * paths and the command line are part of the product. `npm run build` comes first in `scripts/test`.
 */
export default defineConfig({
  test: {
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        extends: true,
        test: { name: 'waiting', include: waiting, exclude: alone, maxWorkers: 3, sequence: { groupOrder: 0 } },
      },
      {
        extends: true,
        test: {
          name: 'computing',
          include: ['test/!(product|faults|deploy)/**/*.test.ts', 'test/*.test.ts', ...alone],
          exclude: ['test/control/on-postgres.test.ts'],
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});

import { defineConfig } from 'vitest/config';
import { LongestFirst } from './test/longest-first.ts';

/**
 * Whole sites of real processes: they wait for intervals, reports and leases about as much as they compute, so that three files at once are what keeps
 * two cores busy. Everywhere else a file has a core to itself, and so has a takeover, which is held to seconds.
 */
const sites = ['test/product/*.test.ts', 'test/faults/!(takeover).test.ts', 'test/deploy/*.test.ts'];

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
      { extends: true, test: { name: 'sites', include: sites, maxWorkers: 3, sequence: { groupOrder: 0 } } },
      {
        extends: true,
        test: {
          name: 'rooms',
          include: ['test/**/*.test.ts'],
          exclude: sites,
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});

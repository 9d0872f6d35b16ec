import { defineConfig } from 'vitest/config';

/**
 * Tests run from the TypeScript sources; those that start whole roles start the compiled tree (`dist/`), because worker
 * paths and the command line are part of the product. `npm run build` comes first in `scripts/test`.
 */
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
  },
});

/**
 * Ends a test run with one plain line, `N passed, N failed`, for people and programs that read only the last one. `TIDEMARK_TEST_CLOSING_LINE` names a
 * file that gets it instead: `scripts/test` says it, because it knows of failures that are no test's.
 */
import { writeFileSync } from 'node:fs';
import type { Reporter, TestModule } from 'vitest/node';

export default class ClosingLine implements Reporter {
  /** A file that could not be loaded, and an error outside every test, count as one failure each. */
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[]): void {
    const count = { passed: 0, failed: unhandled.length, skipped: 0, pending: 0 };
    for (const module of modules) {
      count.failed += module.errors().length;
      for (const test of module.children.allTests()) count[test.result().state] += 1;
    }
    if (count.skipped > 0) process.stdout.write(`${count.skipped} skipped\n`);
    // A test that never ran because the run was cut short is not a pass.
    const line = `${count.passed} passed, ${count.failed + count.pending} failed\n`;
    const file = process.env['TIDEMARK_TEST_CLOSING_LINE'];
    if (file === undefined) process.stdout.write(line);
    else writeFileSync(file, line);
  }
}

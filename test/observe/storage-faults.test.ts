/** What the file system refuses is counted at once and said in the log, the first fault of a kind at once, the others now and then. */
import { expect, test } from 'vitest';
import { limits } from '../../src/limits.ts';
import type { Logger } from '../../src/observe/logger.ts';
import { createRegistry } from '../../src/observe/registry.ts';
import { StorageFaults } from '../../src/observe/storage-faults.ts';
import { systemClock } from '../../src/kit/clock.ts';

test('each fault is in the metric; the log has the first of each kind, and one more when the time is over', async () => {
  let nowMs = 0;
  const lines: string[] = [];
  const note = (fields: object, message: string): void => void lines.push(`${message} ${JSON.stringify(fields)}`);
  const quiet = (): void => undefined;
  const logger: Logger = { debug: quiet, info: quiet, warn: quiet, error: note, child: () => logger };
  const faults = new StorageFaults({ ...systemClock, monotonicMs: () => nowMs }, logger);
  const registry = createRegistry();
  faults.register(registry);
  expect((await registry.expose()).text).not.toMatch(/^tidemark_storage_faults_total/m);

  for (let each = 0; each < 5; each += 1) faults.hear({ operation: 'datasync', path: '/data/a', code: 'EIO' });
  faults.hear({ operation: 'sync-directory', path: '/data', code: 'ENOSPC' });
  expect(lines).toHaveLength(2);
  expect(lines[0]).toContain('"path":"/data/a"');
  const { text } = await registry.expose();
  expect(text).toContain('tidemark_storage_faults_total{kind="datasync",code="EIO"} 5');
  expect(text).toContain('tidemark_storage_faults_total{kind="sync-directory",code="ENOSPC"} 1');

  nowMs += limits.observe.storageFaultEveryMs;
  faults.hear({ operation: 'datasync', path: '/data/b', code: 'EIO' });
  expect(lines).toHaveLength(3);
  expect(lines[2]).toContain('"faults":6');
});

/** A machine that runs on a test failover which somebody else removes. */
import { readdir, readFile } from 'node:fs/promises';
import { expect, it, onTestFinished } from 'vitest';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { bootTestFailover } from '../../src/main/failover-boot.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { requireTool } from '../tools.ts';
import { plain } from './definitions.ts';
import { FailoverScene, machine } from './failover-scene.ts';

/** Whether QEMU runs on what is in the directory. */
async function isRun(directory: string): Promise<boolean> {
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    const isQemu = words[0]?.includes('qemu-system') === true;
    if (isQemu && words.some((word) => word.includes(directory))) return true;
  }
  return false;
}

it.skipIf(!requireTool('qemu-system-x86_64'))('ends with its failover, and says why', async () => {
  const scene = await FailoverScene.make({ ...plain, disks: ['vda'] });
  onTestFinished(() => scene.end());
  const logger = createLogger({ level: 'silent', clock });
  const interrupted = new AbortController();
  onTestFinished(() => {
    interrupted.abort();
  });
  const running = bootTestFailover(
    { files, clock, random, version: 'test', loggerOf: () => logger },
    {
      ...{ data: scene.data, vault: scene.vault, machine, point: undefined, listen: 'unix', spaceBytes: undefined },
      boot: { probe: 'serial:never', answerSeconds: 60, keepRunning: true },
    },
    {
      proven: () => expect.fail('there is nothing to start on this disk'),
      unproven: () => expect.fail('it is no longer there'),
    },
    interrupted.signal,
  );
  const said = running.catch((error: unknown) => error);
  await expect.poll(() => isRun(scene.directory), { timeout: 30_000 }).toBe(true);
  expect(await scene.ok('failover', 'cleanup', machine, 'test-1')).toEqual({ removed: ['test-1'] });
  expect(await said).toMatchObject({
    code: 'interrupted',
    message: `failover test-1 of ${machine} was removed while its machine ran`,
  });
  expect(await isRun(scene.directory)).toBe(false);
  expect(await scene.failovers()).toEqual([]);
});

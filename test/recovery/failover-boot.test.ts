/** A machine that runs on a test failover which somebody else removes, or whose command is killed. */
import { spawn } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { expect, it, onTestFinished } from 'vitest';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { bootTestFailover } from '../../src/main/failover-boot.ts';
import { evidenceOf, lockMachine, machineEnded } from '../../src/main/failover-booted.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { requireTool } from '../tools.ts';
import { plain } from './definitions.ts';
import { FailoverScene, machine } from './failover-scene.ts';

const program = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

/** Number of the QEMU that runs on what is in the directory; undefined: none does. */
async function qemuOn(directory: string): Promise<number | undefined> {
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    const isQemu = words[0]?.includes('qemu-system') === true;
    if (isQemu && words.some((word) => word.includes(directory))) return Number(pid);
  }
  return undefined;
}

const isRun = async (directory: string): Promise<boolean> => (await qemuOn(directory)) !== undefined;

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
  // At once: what was said to be removed is.
  expect(await isRun(scene.directory)).toBe(false);
  expect(await said).toMatchObject({
    code: 'interrupted',
    message: `failover test-1 of ${machine} was removed while its machine ran`,
  });
  expect(await scene.failovers()).toEqual([]);
});

it.skipIf(!requireTool('qemu-system-x86_64'))('does not outlive the command that is killed', async () => {
  const scene = await FailoverScene.make({ ...plain, disks: ['vda'] });
  onTestFinished(() => scene.end());
  const words = ['failover', 'test', machine, '--boot', '--probe', 'serial:never'];
  const command = spawn(process.execPath, [program, ...words, '--data', scene.data, '--vault', scene.vault], {
    stdio: 'ignore',
  });
  await expect.poll(() => isRun(scene.directory), { timeout: 30_000 }).toBe(true);
  onTestFinished(async () => {
    const left = await qemuOn(scene.directory);
    if (left !== undefined) process.kill(left, 'SIGKILL');
  });
  command.kill('SIGKILL');
  await expect.poll(() => isRun(scene.directory), { timeout: 5_000 }).toBe(false);
  // The test goes on, and is removed as any other.
  expect((await scene.list()).map(({ id, served }) => [id, served])).toEqual([['test-1', true]]);
  expect(await scene.ok('failover', 'cleanup', machine)).toEqual({ removed: ['test-1'] });
});

it('is waited for by who removes its failover, and named when it does not end', async () => {
  const scene = await FailoverScene.make();
  onTestFinished(() => scene.end());
  const logger = createLogger({ level: 'silent', clock });
  const ended: string[] = [];
  const parts = { files, clock, random, version: 'test', loggerOf: () => logger };
  const place = { data: scene.data, machine };
  const lock = await lockMachine(parts, evidenceOf(place, 2, 'test-7'), 'test-7');
  await machineEnded(parts, place, 'test-6');
  const waiting = machineEnded(parts, place, 'test-7').then(() => ended.push('all'));
  await clock.sleep(100);
  ended.push('machine');
  let nowMs = 0;
  const hurried = { ...parts, clock: { ...clock, monotonicMs: () => (nowMs += 1_000) } };
  await expect(machineEnded(hurried, place, 'test-7')).rejects.toMatchObject({ code: 'locked' });
  await lock.release();
  await waiting;
  expect(ended).toEqual(['machine', 'all']);
});

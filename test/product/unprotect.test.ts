/**
 * Pause, resume and the end of protection through the whole product: what the operator asks for is what agent and target do, and status says so. All at
 * once, each on a site of its own: most of the time they wait until a role reports or asks again.
 */
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, test, type TestContext } from 'vitest';
import type { StatusReport } from '../../src/cli/status-report.ts';
import { exitCodes } from '../../src/fatal.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { command } from './command.ts';
import { MiB } from './content.ts';
import { OneDisk } from './one-disk.ts';
import { machine } from './scene.ts';

/** Five sites start at once. */
const patience = { timeout: 120_000 };
const machinesOf = ({ site }: OneDisk): Promise<string[]> => readdir(path.join(site.targetData, 'machines'));
const reasonsOf = async (one: OneDisk): Promise<string[]> =>
  (await one.status())?.reasons.map(({ code }) => code) ?? [];

async function replicating(context: Pick<TestContext, 'onTestFinished'>): Promise<OneDisk> {
  const one = await OneDisk.forThis(context, { size: 4 * MiB, seed: 5 });
  await one.protect('--interval-seconds', '1');
  await one.site.startAgent();
  await one.untilPoint('the first point');
  return one;
}

test.concurrent(
  'a paused machine makes no points and goes on when it is resumed; the gap is on record',
  patience,
  async (context) => {
    const one = await replicating(context);
    const changed = JSON.parse((await one.operate('pause', machine, '--json')).stdout) as object;
    expect(changed).toEqual({ machine, paused: true, changed: true });
    await one.until('the status says so', async () => (await reasonsOf(one)).includes('paused'));
    await one.until('the agent rests', async () => (await one.status())?.disks[0]?.phase === 'paused');
    const last = await one.newest();
    await systemClock.sleep(3000);
    expect(await one.newest()).toBe(last);
    expect((await one.operate('resume', machine)).stderr).toContain('is now not paused');
    expect((await one.operate('resume', machine)).stderr).toContain('was already not paused');
    await one.untilPoint('a point after it was resumed', last);
    const gaps = await one.until('the gap', async () => {
      const found = (await one.status())?.gaps.find(({ reason }) => reason === 'paused');
      return found !== undefined && found;
    });
    expect(gaps.points).toBeGreaterThanOrEqual(2);
  },
);

test.concurrent('an unprotected machine is not replicated any more; its points stay', patience, async (context) => {
  const one = await replicating(context);
  const refused = await one.operate('unprotect', machine);
  expect([refused.code, refused.stderr]).toEqual([exitCodes.usage.code, expect.stringContaining('--yes')]);
  expect((await one.operate('unprotect', machine, '--yes')).code).toBe(0);
  await one.until('the agent is refused', async () =>
    (await readFile(one.site.dir('agent.log'), 'utf8')).includes(`protection of ${machine} was disabled`),
  );
  const last = await one.newest();
  await systemClock.sleep(2500);
  expect(await one.newest()).toBe(last);
  expect(last).toBeGreaterThan(0);
});

test.concurrent(
  'with --delete-replica everything of the machine is gone from the target, and it can be protected anew',
  patience,
  async (context) => {
    const one = await replicating(context);
    expect((await one.operate('unprotect', machine, '--delete-replica', '--yes')).code).toBe(0);
    await one.until('the replica is gone', async () => (await machinesOf(one)).length === 0);
    await one.until('it can be protected again', async () => {
      const again = await one.operate('protect', machine, '--disk', 'vda', '--interval-seconds', '1');
      return again.code === 0;
    });
    await one.site.role('agent').stop();
    await one.site.startAgent();
    await one.untilPoint('a point of the new replica');
  },
);

test.concurrent(
  'a replica a machine is started from stays, and status says why, until that is cleaned up',
  patience,
  async (context) => {
    const one = await replicating(context);
    await one.untilPoint('a proven point', 0, ({ provenMs }) => provenMs !== null);
    const data = one.site.targetData;
    const failover = (word: string): Promise<{ code: number }> => command(['failover', word, machine, '--data', data]);
    context.onTestFinished(async () => {
      await failover('cleanup');
    });
    expect((await failover('test')).code).toBe(0);
    expect((await one.operate('unprotect', machine, '--delete-replica', '--yes')).code).toBe(0);
    const siteReasons = async (): Promise<string[]> => {
      const report = JSON.parse((await one.operate('status', '--json')).stdout) as StatusReport;
      return report.reasons.map(({ code, message, remedy }) => `${code}: ${message}; ${remedy}`);
    };
    await one.until('the refusal', async () =>
      (await siteReasons()).some((reason) => /^in-use: .* is started from its replica: test-1; .*cleanup/.test(reason)),
    );
    expect(await machinesOf(one)).toEqual([machine]);
    expect((await failover('cleanup')).code).toBe(0);
    await one.until('the replica is gone', async () => (await machinesOf(one)).length === 0);
    await one.until('nothing is said of it any more', async () =>
      (await siteReasons()).every((reason) => !reason.startsWith('in-use')),
    );
  },
);

test.concurrent(
  'a point is pinned and let go again, while its target runs and when it does not',
  patience,
  async (context) => {
    const one = await replicating(context);
    const notes = async (...words: string[]): Promise<boolean[]> => {
      const run = await command(['points', machine, '--data', one.site.targetData, '--json', ...words]);
      return (JSON.parse(run.stdout) as { points: { pinned: boolean }[] }).points
        .slice(0, 1)
        .map(({ pinned }) => pinned);
    };
    expect(await notes('--pin', '1')).toEqual([true]);
    expect(await one.site.metric('target', 'tidemark_points_pinned')).toBe(1);
    await one.until(
      'points that are some time apart',
      async () => ((await one.site.metric('target', 'tidemark_points_longest_spacing_seconds')) ?? 0) > 0,
    );
    await one.site.stop();
    expect(await notes('--unpin', '1')).toEqual([false]);
    const wrong = await command(['points', machine, '--data', one.site.targetData, '--pin', '99']);
    expect([wrong.code, wrong.stderr]).toEqual([expect.any(Number), expect.stringContaining('has no point 99')]);
  },
);

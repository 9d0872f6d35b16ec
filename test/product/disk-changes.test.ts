/** A disk that is another one when the agent comes back: larger is handled, smaller or gone is refused by name; no point is lost. */
import { rename, truncate } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { tidemark, type CommandResult } from '../../scripts/demo/process.ts';
import { exitCodes } from '../../src/fatal.ts';
import { KiB, MiB } from './content.ts';
import { OneDisk } from './one-disk.ts';
import { identityOf } from './scene.ts';

const size = 4 * MiB;
const one = OneDisk.forEach({ size, seed: 9 });

/** Starts the agent on a disk that it can not take, and hears why. */
async function refusal(): Promise<CommandResult> {
  const config = await one.site.writeAgentConfig('refused.yaml');
  const words = ['agent', '--config', config, '--data', one.site.dir('agent'), '--metrics', '127.0.0.1:0'];
  return tidemark([...words, '--credentials', one.site.dir('agent.credentials')], { timeoutMs: 20_000 });
}

test('grown while the agent was stopped: the next point has the new size, and every point is whole', async () => {
  await one.site.startAgent();
  await one.untilPoint('the first point');
  await one.site.role('agent').stop();
  await truncate(one.image, size + MiB + 512);
  await one.site.startAgent();
  await one.untilPoint('a point of the grown disk', 0, ({ disks }) => disks[0]?.size === size + MiB + 512);
  const verified = await one.verified();
  expect(verified.code, verified.stderr).toBe(exitCodes.ok.code);
}, 90_000);

test('smaller, or gone: refused by name with a remedy, the points stay, and the disk as it was is taken again', async () => {
  await one.site.startAgent();
  await one.untilPoint('the first point');
  await one.site.role('agent').stop();
  const before = await one.points();

  await rename(one.image, `${one.image}.away`);
  const gone = await refusal();
  expect(gone, gone.stderr).toMatchObject({ code: exitCodes['not-found'].code });
  expect(gone.stderr).toContain(one.image);

  await rename(`${one.image}.away`, one.image);
  await truncate(one.image, size - 64 * KiB);
  const shrunk = await refusal();
  expect(shrunk, shrunk.stderr).toMatchObject({ code: exitCodes.usage.code });
  expect(shrunk.stderr).toContain('(shrunk)');
  expect(shrunk.stderr.trim().split('\n')).toHaveLength(2);
  expect((await one.points()).map(identityOf)).toEqual(before.map(identityOf));

  await truncate(one.image, size);
  await one.site.startAgent();
  const newest = before.at(-1)?.point ?? 0;
  await one.untilPoint('a point after that', newest);
  const kept = (await one.points()).filter(({ point }) => point <= newest);
  expect(kept.map(identityOf)).toEqual(before.map(identityOf));
}, 90_000);

test('gone while the agent runs: critical by name until it is back', async () => {
  await one.protect();
  await one.site.startAgent();
  const until = (code: string | null): Promise<string> =>
    one.until(`that ${code} is told`, async () => {
      const found = await one.status();
      const reason = found?.disks[0]?.reasons.find(({ severity }) => severity === 'critical');
      if (!found || (reason?.code ?? null) !== code || (code === null && found.health !== 'ok')) return undefined;
      return reason ? `${reason.message}; ${reason.remedy}` : '';
    });
  await until(null);
  await rename(one.image, `${one.image}.away`);
  expect(await until('not-found')).toMatch(new RegExp(`${one.image} .*leave the agent running`));
  await rename(`${one.image}.away`, one.image);
  await until(null);
}, 90_000);

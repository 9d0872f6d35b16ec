/** `points.log` that lost what it said of an unplanned failover, or can not be trusted: nothing that was written there goes with it. */
import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { FailoverReport } from '../../src/cli/failover-roles.ts';
import { exitCodes } from '../../src/fatal.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { keepFailovers } from '../../src/main/failover-keeper.ts';
import { startedElsewhere } from '../../src/main/failover-standing.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { readPoints, type PointsReading } from '../../src/store/points-log.ts';
import { contentOf, FailoverScene, killServing, machine, withDisk } from './failover-scene.ts';

const logger = createLogger({ level: 'silent', clock });
let scene: FailoverScene;
let log = '';
let begun: FailoverReport;
/** As it was before the failover. */
let older = '';
beforeEach(async () => {
  scene = await FailoverScene.make();
  log = path.join(scene.data, 'machines', machine, 'points.log');
  older = path.join(scene.directory, 'points.older');
  await cp(log, older);
  begun = await scene.ok('failover', 'unplanned', machine, '--yes');
  await withDisk(begun, (client) => client.write(Buffer.alloc(4096, 0x77), 4096, { fua: true }));
});
afterEach(async () => {
  // What can not be ended by a command is ended by hand.
  for (const each of (await scene.list()).filter(({ served }) => served)) await killServing(each);
  await scene.end();
});

async function flip(at: (bytes: Buffer) => number): Promise<void> {
  const bytes = await readFile(log);
  const where = at(bytes);
  bytes[where] = (bytes[where] ?? 0) ^ 1;
  await writeFile(log, bytes);
}

const inLastRecord = (bytes: Buffer): number => bytes.lastIndexOf('TMPL') + 60;
const inFirstRecord = (): number => 60;

async function said(): Promise<PointsReading> {
  const facts = JSON.parse(await readFile(path.join(path.dirname(log), 'machine.json'), 'utf8')) as { id: string };
  return readPoints({ files, path: log, machineId: Buffer.from(facts.id, 'hex') });
}

async function expectKept(): Promise<void> {
  const found = (await scene.list()).find(({ id }) => id === begun.id);
  expect(found).toMatchObject({ served: true, point: 3 });
  expect((await contentOf(begun)).subarray(4096, 8192).equals(Buffer.alloc(4096, 0x77))).toBe(true);
}

/** As a target that starts. */
function targetStarts(): Promise<void> {
  const parts = { files, clock, random, version: 'test', loggerOf: () => logger };
  return keepFailovers(parts, { data: scene.data, vault: scene.vault }, logger, new AbortController().signal);
}

const next: readonly [string, () => Promise<unknown>][] = [
  ['a test', () => scene.ok('failover', 'test', machine)],
  [
    'asking for it again',
    async () => {
      expect(await scene.ok('failover', 'unplanned', machine, '--yes')).toEqual(begun);
    },
  ],
  ['a clean-up', () => scene.run('failover', 'cleanup', machine, '--all')],
  ['a target that starts', targetStarts],
];

async function expectWrittenAgain(act: () => Promise<unknown>): Promise<void> {
  const before = await said();
  expect(before.view.failover).toBeNull();
  const refusal = await startedElsewhere(files, { data: scene.data, machine }, before.view);
  expect(refusal).toMatchObject({ code: 'failed-over', retryable: false });
  await act();
  await expectKept();
  const after = await said();
  expect(after).toMatchObject({ tail: 'none', view: { failover: { id: begun.id, step: 'begun', generation: 1 } } });
  expect(await startedElsewhere(files, { data: scene.data, machine }, after.view)).toBeNull();
}

it.each(next)(
  'after a flipped bit in the record of it %s writes it again, and the failover goes on',
  async (_, act) => {
    await flip(inLastRecord);
    await expectWrittenAgain(act);
  },
);

it('goes on after an old points.log', async () => {
  await cp(older, log);
  await expectWrittenAgain(targetStarts);
});

it('does not forget that a failover was committed', async () => {
  await scene.ok('failover', 'commit', machine);
  await flip(inLastRecord);
  expect((await said()).view.failover?.step).toBe('begun');
  expect((await scene.run('failover', 'cancel', machine, '--yes')).stderr).toContain('was committed');
  await expectKept();
  await cp(older, log);
  expect((await scene.run('failover', 'cancel', machine, '--yes')).stderr).toContain('was committed');
  expect((await said()).view.failover).toMatchObject({ step: 'committed', generation: 1 });
});

it('still takes back what is asked for by name of the machine, and ends what was cancelled', async () => {
  await cp(log, older);
  await flip(inLastRecord);
  expect(await scene.ok('failover', 'cancel', machine, '--yes')).toEqual({ id: begun.id });
  expect(await scene.failovers()).toEqual([]);
  // The record that it was cancelled, of an id whose number was given again: it is not this one that it ended.
  await rm(path.join(path.dirname(log), 'failovers', 'count.json'));
  begun = await scene.ok('failover', 'unplanned', machine, '--yes');
  expect(begun).toMatchObject({ id: 'unplanned-1', generation: 3 });
  await withDisk(begun, (client) => client.write(Buffer.alloc(4096, 0x77), 4096, { fua: true }));
  await flip(inLastRecord);
  expect((await said()).view.failover).toBeNull();
  await scene.ok('failover', 'test', machine);
  await expectKept();
  expect((await said()).view.failover).toMatchObject({ id: begun.id, generation: 3 });
});

describe('a points.log that is damaged', () => {
  const damage: Readonly<Record<string, () => Promise<void>>> = {
    'in its middle': () => flip(inFirstRecord),
    'because it is of another machine': async () => {
      const file = path.join(path.dirname(log), 'machine.json');
      const facts = JSON.parse(await readFile(file, 'utf8')) as object;
      await writeFile(file, JSON.stringify({ ...facts, id: '00'.repeat(16) }));
    },
  };
  it.each(Object.keys(damage))('%s ends and removes nothing', async (what) => {
    await damage[what]?.();
    for (const words of [
      ['test', machine],
      ['unplanned', machine, '--yes'],
      ['cancel', machine, '--yes'],
      ['commit', machine],
      ['cleanup', machine, '--all'],
    ]) {
      const { code, stderr } = await scene.run('failover', ...words);
      expect(code, stderr).toBe(exitCodes.damaged.code);
      expect(stderr).toContain('points.log is damaged at byte 0');
    }
    await targetStarts();
    await expectKept();
  });

  it('that lost the point says so, and ends nothing', async () => {
    await writeFile(log, '');
    const { code, stderr } = await scene.run('failover', 'unplanned', machine, '--yes');
    expect(code, stderr).toBe(exitCodes.damaged.code);
    expect(stderr).toContain('failover unplanned-1 runs from point 3, and points.log has no such point');
    await targetStarts();
    await expectKept();
  });
});

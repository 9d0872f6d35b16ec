/**
 * The offline verifier on real stores: what it finds good, what it names, what it can tell without the key, and that it looks at what is stored
 * once, however many points share it.
 */
import { cp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { entriesOf, entryHeaderBytes, entryType, flipBit } from '../../scripts/demo/damage.ts';
import type { VerifyReport, VerifyRequest } from '../../src/cli/roles.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { composeRoles } from '../../src/main/compose.ts';
import { ReadPool } from '../../src/recovery/read-pool.ts';
import { checkRoots } from '../../src/recovery/verify-roots.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { DiskHistory } from '../../src/store/disk-history.ts';
import { PointsView } from '../../src/store/points-view.ts';
import { PointsLog } from '../../src/store/points-log.ts';
import { MachineSurvey } from '../../src/store/machine-survey.ts';
import { blocks, PointsMade } from './points-made.ts';

// Threads take longer to start than all of this takes to read; the product's disaster test has them.
vi.mock('../../src/recovery/read-pool.ts', async () => ({ ReadPool: (await import('./read-here.ts')).ReadHere }));

const roles = composeRoles('0.0.0-test');
let made: PointsMade;
let damaged = '';
beforeAll(async () => {
  made = await PointsMade.make(
    [
      blocks(0, 200),
      blocks(900, 300),
      blocks(50, 40, 2, 0x0f00),
      blocks(60, 10, 1, 0x0001),
      [],
      blocks(0, 100),
      blocks(1900, 148),
      blocks(55, 5, 1, 0x8000),
    ],
    { restartEvery: 3 },
  );
  damaged = path.join(made.home, 'damaged');
}, 30_000);
afterAll(() => made.remove());
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(damaged, { recursive: true, force: true });
});

const machineFile = (...names: string[]): string => path.join(damaged, 'machines', 'm1', ...names);
const vault = (): string => path.join(made.home, 'vault.key');

function verified(data: string, change: Partial<VerifyRequest> = {}): Promise<VerifyReport> {
  const request = { data, vault: vault(), machine: undefined, disk: undefined, point: 'all', content: true } as const;
  const progress = { report: () => undefined };
  return roles.verify({ ...request, ...change }, progress, new AbortController().signal);
}

const goodOf = ({ points }: VerifyReport): number[] => points.filter(({ ok }) => ok).map(({ point }) => point);
const all = [1, 2, 3, 4, 5, 6, 7, 8];
const textOf = ({ machines }: VerifyReport): string =>
  machines.flatMap(({ findings }) => findings.map(({ text }) => text)).join('\n');

/** Flips a bit in the payloads of the n-th batch of a copy of the store. */
async function flipPayload(batch: number, fromEnd: number): Promise<void> {
  await cp(made.data, damaged, { recursive: true });
  let seen = 0;
  for (const name of (await readdir(machineFile('segments'))).sort()) {
    const file = machineFile('segments', name);
    for (const { type, at, bodyLength } of entriesOf(await readFile(file))) {
      if (type !== entryType.batch) continue;
      if (seen === batch) await flipBit(file, at + entryHeaderBytes + bodyLength - fromEnd, 4);
      seen += 1;
    }
  }
}

describe('verify of a store that is whole', () => {
  it('finds every point good, and counts what it looked at', async () => {
    const report = await verified(made.data);
    expect(report).toMatchObject({ ok: true, content: 'checked', bodies: 'checked' });
    expect(goodOf(report)).toEqual(all);
    expect(report.points.map(({ blocks: count }) => count)).toEqual([200, 500, 500, 500, 500, 500, 648, 648]);
    expect(report.machines).toEqual([{ machine: 'm1', points: 8, findings: [] }]);
  });

  it('rebuilds each version of a block once, not once per point', async () => {
    const read = vi.spyOn(ReadPool.prototype, 'read');
    await verified(made.data);
    const rebuilt = read.mock.calls.reduce((sum, [task]) => sum + task.blocks, 0);
    expect(rebuilt).toBe(200 + 300 + 40 + 10 + 100 + 148 + 5);
  });

  it('of one point reads that one alone', async () => {
    const read = vi.spyOn(ReadPool.prototype, 'read');
    const report = await verified(made.data, { point: 2 });
    expect(report).toMatchObject({ ok: true, bodies: 'left-out', points: [{ point: 2, ok: true, blocks: 500 }] });
    expect(read.mock.calls.reduce((sum, [task]) => sum + task.blocks, 0)).toBe(500);
  });

  it('names the point there is not, and those there are', async () => {
    const refusal = (message: RegExp): unknown =>
      expect.objectContaining({
        code: 'not-found',
        message: expect.stringMatching(message) as unknown,
        remedy: expect.stringMatching(/m1 has points 1 to 8/) as unknown,
      });
    const failure = (change: Partial<VerifyRequest>): Promise<unknown> =>
      verified(made.data, change).catch((error: unknown) => error);
    expect(await failure({ machine: 'm1', point: 99 })).toEqual(refusal(/m1 has no point 99/));
    expect(await failure({ point: 'proven' })).toEqual(refusal(/has no proven point/));
  });

  it('leaves nothing behind, and nothing of it touches the store', async () => {
    const before = await readdir(made.data, { recursive: true });
    await verified(made.data, { content: false });
    expect(await readdir(made.data, { recursive: true })).toEqual(before);
  });

  it('makes the roots of any number of points in any number of passes', async () => {
    const scratch = path.join(made.home, 'roots');
    const options = { files, data: made.data, machine: 'm1', bootId: 'boot', scratch, check: 'headers' } as const;
    const survey = await MachineSurvey.make({ ...options, visit: () => undefined });
    try {
      const disk = survey.facts.disks[0] ?? expect.fail('no disk');
      const history = new DiskHistory(survey, disk, () => true);
      const { signal } = new AbortController();
      for (const changesMax of [1, 7, 450, 1_000_000])
        expect(await checkRoots(history, { clock, signal, changesMax })).toEqual(all.map(() => true));
    } finally {
      await survey.close();
      await rm(scratch, { recursive: true, force: true });
    }
  });
});

describe('verify of a store whose points are not all kept', () => {
  it('looks at those that are, and says of another one that it is retired', async () => {
    await cp(made.data, damaged, { recursive: true });
    const facts = JSON.parse(await readFile(machineFile('machine.json'), 'utf8')) as { id: string };
    const machineId = Buffer.from(facts.id, 'hex');
    const log = await PointsLog.open({ files, path: machineFile('points.log'), machineId });
    await log.append({ type: 'retired', body: { points: [[2, 4]], atMs: 1 } });
    await log.close();
    // What only they needed may be gone: block 69's pages of point 4 were replaced by point 6, and point 5 is kept.
    expect(goodOf(await verified(damaged))).toEqual([1, 5, 6, 7, 8]);
    await expect(verified(damaged, { point: 3 })).rejects.toMatchObject({ code: 'not-found' });
  });
});

describe('verify beside a target that folds', () => {
  it('took a segment that was removed meanwhile for a lost one', async () => {
    await cp(made.data, damaged, { recursive: true });
    const file = machineFile('segments', '000002.seg');
    const bytes = await readFile(file);
    const make = MachineSurvey.make.bind(MachineSurvey);
    const surveyed = vi.spyOn(MachineSurvey, 'make').mockImplementationOnce(async (options) => {
      // What the first look finds is what a removal half-way looks like; it is noted before the second one.
      await rm(file);
      const survey = await make(options);
      await writeFile(file, bytes);
      Object.defineProperty(survey.points, 'removed', { value: new Set() });
      vi.spyOn(PointsView.prototype, 'removed', 'get').mockReturnValue(new Set([99]));
      return survey;
    });
    expect(await verified(damaged)).toMatchObject({ ok: true });
    expect(surveyed).toHaveBeenCalledTimes(2);
    // Damage that no removal explains is looked at once.
    await rm(file);
    surveyed.mockClear();
    expect(await verified(damaged)).toMatchObject({ ok: false });
    expect(surveyed).toHaveBeenCalledTimes(1);
  });
});

describe('verify of a damaged store', () => {
  it('names the points that need a damaged payload, and their blocks; those before and behind stay good', async () => {
    // Block 59's pages of point 4 lie at the end of its batch: they are whole again with point 6.
    await flipPayload(3, 1);
    const report = await verified(damaged);
    expect(report.ok).toBe(false);
    expect(goodOf(report)).toEqual([1, 2, 3, 6, 7, 8]);
    expect(report.points.find(({ point }) => point === 5)).toMatchObject({ rootMatches: true, damagedBlocks: [69] });
    expect(textOf(report)).toMatch(/segment \d+ is damaged/);
  });

  it('of a point that needs nothing of it says that the point is good', async () => {
    await flipPayload(3, 1);
    expect(await verified(damaged, { point: 2 })).toMatchObject({ ok: true });
    expect(await verified(damaged, { point: 4 })).toMatchObject({ ok: false });
  });

  it('without the key tells damage by digests, and says what it did not check', async () => {
    await flipPayload(3, 1);
    const report = await verified(damaged, { content: false });
    expect(report).toMatchObject({ ok: false, content: 'left-out' });
    expect(textOf(report)).toMatch(/segment 2 is damaged/);
    expect(goodOf(report)).toEqual([1, 2, 3, 6, 7, 8]);
    // Which of the batch's ten blocks it is can not be told.
    expect(report.points.find(({ point }) => point === 5)).toMatchObject({ rootMatches: true, damagedBlockCount: 10 });
    expect(await verified(made.data, { vault: path.join(made.home, 'none') })).toMatchObject({
      content: 'no-key',
      ok: true,
    });
  });

  it('whose entry of a layer is damaged calls no point good that needs its key', async () => {
    await cp(made.data, damaged, { recursive: true });
    const file = machineFile('segments', '000002.seg');
    const layer =
      entriesOf(await readFile(file)).find(({ type }) => type === entryType.layer) ?? expect.fail('no layer');
    await flipBit(file, layer.at + 25, 0);
    const report = await verified(damaged);
    expect(goodOf(report)).toEqual([1, 2, 3, 6, 7, 8]);
    // Blocks 60 to 69 as of point 4.
    expect(report.points.find(({ point }) => point === 4)).toMatchObject({ rootMatches: true, damagedBlockCount: 10 });
  });

  it('of a lost segment tells which points are gone by their roots', async () => {
    await cp(made.data, damaged, { recursive: true });
    await rm(machineFile('segments', '000002.seg'));
    const report = await verified(damaged);
    // Points 4, 5 and 6 were the second one's; point 6 replaced what point 4 brought, and is still needed itself.
    expect(goodOf(report)).toEqual([1, 2, 3]);
    expect(report.points.filter(({ rootMatches }) => rootMatches).map(({ point }) => point)).toEqual([1, 2, 3]);
  });

  it('tells an older points.log from what the segments say', async () => {
    await cp(made.data, damaged, { recursive: true });
    const log = await readFile(machineFile('points.log'));
    const starts = [...log.keys()].filter((at) => log.subarray(at, at + 4).toString('latin1') === 'TMPL');
    // The last record of type 1: what was written under that epoch is in the segments.
    const lastEpoch = starts.findLast((at) => log.readUInt16LE(at + 4) === 1);
    await writeFile(machineFile('points.log'), log.subarray(0, lastEpoch));
    const report = await verified(damaged);
    expect(report.ok).toBe(false);
    expect(textOf(report)).toContain('points.log is an older one');
    expect(goodOf(report)).toEqual(all.slice(0, goodOf(report).length));
  });

  it('tells a torn end from damage', async () => {
    await cp(made.data, damaged, { recursive: true });
    const log = machineFile('points.log');
    const bytes = await readFile(log);
    await truncate(log, bytes.length - 5);
    const torn = await verified(damaged);
    expect(textOf(torn)).toContain('ends in the beginning of a record');
    await writeFile(log, bytes);
    await flipBit(log, bytes.length >>> 1, 1);
    const rotten = await verified(damaged);
    expect(rotten.ok).toBe(false);
    expect(textOf(rotten)).toContain('points.log is damaged');
  });

  it('without machine.json, or with keys of another vault, does not pass over the machine', async () => {
    await cp(made.data, damaged, { recursive: true });
    const json = await readFile(machineFile('machine.json'), 'utf8');
    await rm(machineFile('machine.json'));
    expect(await verified(damaged)).toMatchObject({ ok: false, machines: [{ points: null }] });
    const facts = JSON.parse(json) as { disks: { keys: { leafKey: string }[] }[] };
    for (const disk of facts.disks) for (const key of disk.keys) key.leafKey = key.leafKey.replace(/^../, 'ff');
    await writeFile(machineFile('machine.json'), JSON.stringify(facts));
    const report = await verified(damaged);
    expect(report).toMatchObject({ ok: false });
    expect(goodOf(report)).toEqual([]);
    expect(textOf(report)).toContain('does not open with vault');
  });
});

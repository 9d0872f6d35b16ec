/**
 * Bit rot in a thousand places of everything a target stores: flips, lost and zeroed stretches, files cut short, exchanged, put back to what they were
 * or taken from somewhere else. Each is told by `verify`, and whatever an export gives afterwards is the disk as it was at that point. The store was
 * folded: records were moved, segments removed, points retired and pinned, a failover begun and cancelled.
 *
 * What may pass, by rule, and what rule it is:
 *  - **tail**: above what points and the next segment rely on, the last segment ends where nothing makes sense any more (C10). It must not be called
 *    damage, for a power failure leaves the same.
 *  - **end of points.log**: the same for its last record, so a flipped bit in it is taken for a write that was torn, and told as a note. Whoever can not
 *    do without that record (a failover) keeps what it says elsewhere too.
 *  - **removed**: a segment that REMOVED names is nothing, whether it lies there or not.
 *  - **label**: names of disks are what people call them; nothing is derived from them.
 *  - **rollback**: a `points.log` of before the newest points is told by epochs in the segments, and by nothing if none began since.
 * Caches (index, leaf files) are not read by `verify`; `machine-view.test.ts` and the product's damage test lie through them.
 *
 * TIDEMARK_TEST_SEED plays a run again; TIDEMARK_TEST_SOAK=1 tries all places, otherwise a share.
 */
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { entriesOf } from '../../scripts/demo/damage.ts';
import type { VerifyReport } from '../../src/cli/roles.ts';
import { isProblem } from '../../src/kit/problem.ts';
import { composeRoles } from '../../src/main/compose.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { diceOf, seedOfRun } from '../product/content.ts';
import { type Due, kinds, movedEntry } from './rot-mutations.ts';
import { RotStore } from './rot-store.ts';

// On the calling thread: starting threads a thousand times would take most of the time.
vi.mock('../../src/recovery/read-pool.ts', async () => ({ ReadPool: (await import('./read-here.ts')).ReadHere }));

const places = process.env['TIDEMARK_TEST_SOAK'] === '1' ? 1000 : 60;
const roles = composeRoles('0.0.0-test');
const progress = { report: () => undefined };
const { signal } = new AbortController();

let store: RotStore;
const weights = kinds.reduce((sum, [weight]) => sum + weight, 0);
/** Of records in `points.log` that must be among what is changed (FORMAT.md). */
const recordTypes = { machine: 6, failover: 7, pin: 9, retired: 10, removed: 11 };

beforeAll(async () => {
  // Power failures are not the matter here: memory is as good as a disk.
  if (await files.exists('/dev/shm')) vi.stubEnv('TMPDIR', '/dev/shm');
  store = await RotStore.make();
}, 60_000);
afterAll(async () => {
  await store.remove();
  vi.unstubAllEnvs();
});

const vault = (): string => path.join(store.made.home, 'vault.key');

async function verified(): Promise<VerifyReport | 'refused'> {
  const request = {
    data: store.made.data,
    vault: vault(),
    machine: undefined,
    disk: undefined,
    point: 'all',
    content: true,
  } as const;
  return roles.verify(request, progress, signal).catch((error: unknown) => {
    if (isProblem(error)) return 'refused' as const;
    throw error;
  });
}

function faultOf(due: Due, report: VerifyReport | 'refused'): string | null {
  if (report === 'refused') return due === 'damage' || due === 'either' ? null : 'refused';
  const findings = report.machines.flatMap((machine) => machine.findings);
  const told = `${report.ok ? 'ok' : 'not ok'}: ${findings.map(({ text }) => text).join('; ')}`;
  const isDamage = findings.some(({ severity }) => severity === 'damage');
  if (report.ok && isDamage) return `called whole although: ${told}`;
  switch (due) {
    case 'damage':
      return report.ok ? `not detected (${told})` : null;
    case 'no-damage':
      return report.ok ? null : `called damage (${told})`;
    case 'note':
      return report.ok && findings.length > 0 ? null : `not told as an end (${told})`;
    case 'either':
      return null;
  }
}

/** What an export of each point gives: nothing, or what the disk was. And what verify called good can be exported. */
async function lies(report: VerifyReport | 'refused'): Promise<string[]> {
  const found: string[] = [];
  const to = path.join(store.made.home, 'exported.raw');
  for (const [index, content] of store.made.contents.entries()) {
    const point = index + 1;
    const request = {
      data: store.made.data,
      vault: vault(),
      machine: 'm1',
      disk: undefined,
      point,
      to,
      overwrite: true,
    } as const;
    const format = { format: 'raw', compress: false, programPath: '' } as const;
    const outcome = await roles.exportPoint({ ...request, ...format }, progress, signal).catch((error: unknown) => {
      if (isProblem(error)) return error;
      throw error;
    });
    if (isProblem(outcome)) {
      const good = report !== 'refused' && report.points.some((each) => each.point === point && each.ok);
      if (good) found.push(`point ${point} is good for verify, and an export says ${outcome.message}`);
      if (await files.exists(to)) found.push(`a refused export of point ${point} left its file`);
    } else if (!(await readFile(to)).equals(content)) found.push(`point ${point}: wrong bytes`);
    await rm(to, { force: true });
  }
  return found;
}

async function withoutIndex<T>(without: boolean, work: () => Promise<T>): Promise<T> {
  if (!without) return work();
  await files.rename(store.file('index'), store.file('index.away'));
  try {
    return await work();
  } finally {
    await files.rename(store.file('index.away'), store.file('index'));
  }
}

describe('bit rot', () => {
  it('was not there before anything was changed', async () => {
    const report = await verified();
    expect(report).toMatchObject({ ok: true });
    expect(await lies(report)).toEqual([]);
    expect(store.retired).toEqual([1, 2, 3]);
    expect(store.types).toEqual(expect.arrayContaining(Object.values(recordTypes)));
    expect(await store.segments()).not.toContain('000001.seg');
    const last = await readFile(store.file('segments', '000003.seg'));
    expect(entriesOf(last).map(({ type }) => type)).toContain(movedEntry);
  });

  it(`in ${places} places is told, and no wrong byte is served`, { timeout: 600_000 }, async () => {
    const seed = seedOfRun('bit rot');
    const dice = diceOf(seed);
    const faults: string[] = [];
    const tried = new Map<string, number>();
    for (let place = 0; place < places; place += 1) {
      let lot = dice.between(0, weights);
      const [, kind, mutate] = kinds.find(([weight]) => (lot -= weight) < 0) ?? expect.fail('a kind for every lot');
      const kept = new Map<string, Buffer | null>();
      const keep = async (file: string): Promise<Buffer> => {
        const bytes = (await files.exists(file)) ? await readFile(file) : null;
        if (!kept.has(file)) kept.set(file, bytes);
        return Buffer.from(bytes ?? []);
      };
      const { what, due } = await mutate(store, dice, keep);
      try {
        const report = await verified();
        const fault = faultOf(due, report);
        if (fault !== null) faults.push(`${what}: ${fault}`);
        // Exports cost most of the time: some places are enough for them in every run.
        // Half of them without the target's index, which still knows what was there.
        if (place % 3 === 0)
          faults.push(...(await withoutIndex(place % 2 === 0, () => lies(report))).map((lie) => `${what}: ${lie}`));
      } finally {
        for (const [file, bytes] of kept) await (bytes === null ? rm(file) : writeFile(file, bytes));
      }
      tried.set(kind, (tried.get(kind) ?? 0) + 1);
    }
    expect(faults).toEqual([]);
    expect(tried.size).toBeGreaterThan(kinds.length / 2);
    expect(await verified()).toMatchObject({ ok: true });
    expect((await stat(store.file('points.log'))).size).toBeGreaterThan(0);
  });
});

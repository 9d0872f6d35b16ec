/**
 * Bit rot in a thousand places of everything a target stores: flips, lost and zeroed stretches, files cut short, exchanged, put back to what they were
 * or taken from somewhere else. Each is told by `verify`, and whatever an export gives afterwards is the disk as it was at that point.
 *
 * What may pass, by rule, and what rule it is:
 *  - **tail**: above what points and the next segment rely on, the last segment ends where nothing makes sense any more (C10). It must not be called
 *    damage, for a power failure leaves the same.
 *  - **end of points.log**: the same for its last record. It is told as a note.
 *  - **label**: names of disks are what people call them; nothing is derived from them.
 *  - **rollback**: a `points.log` of before the newest points is told by epochs in the segments, and by nothing if none began since.
 * Caches (index, leaf files) are not read by `verify`; `machine-view.test.ts` and the product's damage test lie through them.
 *
 * TIDEMARK_TEST_SEED plays a run again; TIDEMARK_TEST_SOAK=1 tries all places, otherwise a share.
 */
import { cp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { entriesOf, flipBit } from '../../scripts/demo/damage.ts';
import type { VerifyReport } from '../../src/cli/roles.ts';
import { isProblem } from '../../src/kit/problem.ts';
import { composeRoles } from '../../src/main/compose.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { readPoints } from '../../src/store/points-log.ts';
import { diceOf, seedOfRun, type Dice } from '../product/content.ts';
import { blocks, PointsMade } from './points-made.ts';

// On the calling thread: starting threads a thousand times would take most of the time.
vi.mock('../../src/recovery/read-pool.ts', async () => ({ ReadPool: (await import('./read-here.ts')).ReadHere }));

const places = process.env['TIDEMARK_TEST_SOAK'] === '1' ? 1000 : 60;
const roles = composeRoles('0.0.0-test');
const progress = { report: () => undefined };
const { signal } = new AbortController();

let made: PointsMade;
let other: PointsMade;
/** Copies of the store's directory after some of the points. */
let older: readonly string[] = [];
/** By segment: every byte below is relied on. */
const knownEnds = new Map<string, number>();
/** Where the records of `points.log` begin. */
let records: readonly number[] = [];
/** Where the last record of a new epoch ends. */
let lastEpochEnd = 0;

const plan = [
  [...blocks(0, 60)],
  blocks(10, 20, 2, 0x00ff),
  blocks(1000, 12),
  blocks(0, 30, 1, 0xf000),
  blocks(30, 20),
  blocks(1990, 8),
];

beforeAll(async () => {
  // Power failures are not the matter here: memory is as good as a disk.
  if (await files.exists('/dev/shm')) vi.stubEnv('TMPDIR', '/dev/shm');
  made = await PointsMade.make(plan, { restartEvery: 2, keepEvery: 2, unlisted: blocks(500, 6) });
  other = await PointsMade.make([blocks(0, 60), blocks(5, 10)]);
  older = made.kept;
  const directory = machineFile('segments');
  for (const name of await readdir(directory)) {
    const next = path.join(directory, `${String(Number(name.slice(0, 6)) + 1).padStart(6, '0')}.seg`);
    // Of the next segment's header: what of this one was durable before.
    if (await files.exists(next)) knownEnds.set(name, (await readFile(next)).readUInt32LE(12));
  }
  const facts = JSON.parse(await readFile(machineFile('machine.json'), 'utf8')) as { id: string };
  const machineId = Buffer.from(facts.id, 'hex');
  const { view } = await readPoints({ files, path: machineFile('points.log'), machineId });
  for (const { segment, length } of view.extents) {
    const name = `${String(segment).padStart(6, '0')}.seg`;
    knownEnds.set(name, Math.max(knownEnds.get(name) ?? 0, length));
  }
  const log = await readFile(machineFile('points.log'));
  records = [...log.keys()].filter((at) => log.subarray(at, at + 4).toString('latin1') === 'TMPL');
  const lastEpoch = records.findLastIndex((at) => log.readUInt16LE(at + 4) === 1);
  lastEpochEnd = records[lastEpoch + 1] ?? 0;
}, 60_000);
afterAll(async () => {
  await made.remove();
  await other.remove();
  vi.unstubAllEnvs();
});

const machineFile = (...names: string[]): string => path.join(made.data, 'machines', 'm1', ...names);
const vault = (): string => path.join(made.home, 'vault.key');

/** What a mutation must lead to. `either`: told or not, it may be one of the rules in the head. */
type Due = 'damage' | 'no-damage' | 'note' | 'either';

interface Mutation {
  readonly what: string;
  readonly due: Due;
}

/** Changes something; the files it names are put back afterwards. */
type Mutate = (dice: Dice, keep: (file: string) => Promise<Buffer>) => Promise<Mutation>;

async function segmentNames(): Promise<string[]> {
  return (await readdir(machineFile('segments'))).filter((name) => name.endsWith('.seg')).sort();
}

async function relied(dice: Dice): Promise<{ name: string; file: string; offset: number }> {
  const name = dice.pick([...knownEnds.keys()]);
  return { name, file: machineFile('segments', name), offset: dice.between(0, knownEnds.get(name) ?? 1) };
}

const flipRelied: Mutate = async (dice, keep) => {
  const { name, file, offset } = await relied(dice);
  await keep(file);
  await flipBit(file, offset, dice.between(0, 8));
  return { what: `a bit of byte ${offset} of ${name}`, due: 'damage' };
};

/** In the first bytes of an entry: header, prefix and rows are few bytes among payloads. */
const flipFramed: Mutate = async (dice, keep) => {
  const { name, file } = await relied(dice);
  const bytes = await keep(file);
  const entry = dice.pick(entriesOf(bytes).filter(({ at }) => at < (knownEnds.get(name) ?? 0)));
  const offset = Math.min(
    entry.at + dice.between(0, 64 + Math.min(entry.bodyLength, 2000)),
    (knownEnds.get(name) ?? 1) - 1,
  );
  await flipBit(file, offset, dice.between(0, 8));
  return { what: `a bit of byte ${offset} of ${name}, in the entry at ${entry.at}`, due: 'damage' };
};

const loseStretch: Mutate = async (dice, keep) => {
  const { name, file, offset } = await relied(dice);
  const bytes = await keep(file);
  const from = offset - (offset % 512);
  const to = Math.min(from + 512 * dice.between(1, 16), knownEnds.get(name) ?? 0);
  const before = Buffer.from(bytes.subarray(from, to));
  bytes.fill(dice.pick([0, 0xff]), from, to);
  await writeFile(file, bytes);
  const same = before.equals(bytes.subarray(from, to));
  return { what: `bytes ${from} to ${to} of ${name} lost`, due: same ? 'no-damage' : 'damage' };
};

const cutShort: Mutate = async (dice, keep) => {
  const { name, file, offset } = await relied(dice);
  await writeFile(file, (await keep(file)).subarray(0, offset));
  return { what: `${name} cut at ${offset}`, due: 'damage' };
};

const loseSegment: Mutate = async (dice, keep) => {
  const { name, file } = await relied(dice);
  await keep(file);
  await rm(file);
  return { what: `${name} gone`, due: 'damage' };
};

const exchange: Mutate = async (dice, keep) => {
  const names = [...knownEnds.keys()];
  const [first, second] = [dice.pick(names), dice.pick(names)];
  const [one, two] = [await keep(machineFile('segments', first)), await keep(machineFile('segments', second))];
  await writeFile(machineFile('segments', first), two);
  await writeFile(machineFile('segments', second), one);
  return { what: `${first} and ${second} exchanged`, due: first === second ? 'no-damage' : 'damage' };
};

/** A whole entry of somewhere else in the place of one, every byte of it once right. */
const moveEntry: Mutate = async (dice, keep) => {
  const { name, file } = await relied(dice);
  const bytes = await keep(file);
  const from = dice.pick(await segmentNames());
  const source = await readFile(machineFile('segments', from));
  const entry = dice.pick(entriesOf(source));
  const place = dice.pick(entriesOf(bytes).filter(({ at }) => at < (knownEnds.get(name) ?? 0)));
  const same = from === name && entry.at === place.at;
  source.copy(bytes, place.at, entry.at, Math.min(entry.at + 64 + entry.bodyLength, source.length));
  await writeFile(file, bytes);
  return {
    what: `the entry at ${entry.at} of ${from} in the place of ${place.at} of ${name}`,
    due: same ? 'no-damage' : 'damage',
  };
};

const ofAnotherMachine: Mutate = async (dice, keep) => {
  const { name, file } = await relied(dice);
  await keep(file);
  await cp(path.join(other.data, 'machines', 'm1', 'segments', '000001.seg'), file);
  return { what: `${name} of another machine`, due: 'damage' };
};

const staleSegment: Mutate = async (dice, keep) => {
  const before = path.join(dice.pick(older), 'machines', 'm1', 'segments');
  const name = dice.pick((await readdir(before)).filter((each) => knownEnds.has(each)));
  const bytes = await keep(machineFile('segments', name));
  const stale = await readFile(path.join(before, name));
  await writeFile(machineFile('segments', name), stale);
  const end = knownEnds.get(name) ?? 0;
  const same = stale.length >= end && stale.subarray(0, end).equals(bytes.subarray(0, end));
  return { what: `${name} as it was once`, due: same ? 'no-damage' : 'damage' };
};

const flipTail: Mutate = async (dice, keep) => {
  const name = [...knownEnds.keys()].sort().at(-1) ?? '';
  const file = machineFile('segments', name);
  const { length } = await keep(file);
  const end = knownEnds.get(name) ?? 0;
  if (length <= end) return { what: `${name} has no tail`, due: 'no-damage' };
  const offset = dice.between(end, Math.min(length, end + 40_000));
  await flipBit(file, offset, dice.between(0, 8));
  return { what: `a bit of byte ${offset} of ${name}, above ${end}`, due: 'no-damage' };
};

const cutTail: Mutate = async (dice, keep) => {
  const name = [...knownEnds.keys()].sort().at(-1) ?? '';
  const file = machineFile('segments', name);
  const bytes = await keep(file);
  const at = dice.between(knownEnds.get(name) ?? 0, bytes.length + 1);
  await writeFile(file, bytes.subarray(0, at));
  return { what: `${name} cut at ${at}, in its tail`, due: 'no-damage' };
};

const flipPoints: Mutate = async (dice, keep) => {
  const file = machineFile('points.log');
  const { length } = await keep(file);
  const offset = dice.between(0, length);
  await flipBit(file, offset, dice.between(0, 8));
  return { what: `a bit of byte ${offset} of points.log`, due: offset >= (records.at(-1) ?? 0) ? 'note' : 'damage' };
};

const cutPoints: Mutate = async (dice, keep) => {
  const file = machineFile('points.log');
  const bytes = await keep(file);
  // Between two records, and in one.
  const at = dice.pick([dice.pick(records), dice.between(0, bytes.length)]);
  await writeFile(file, bytes.subarray(0, at));
  const due = at < lastEpochEnd ? 'damage' : records.includes(at) ? 'either' : 'note';
  return { what: `points.log cut at ${at}`, due };
};

const olderPoints: Mutate = async (dice, keep) => {
  const bytes = await keep(machineFile('points.log'));
  const log = await readFile(path.join(dice.pick(older), 'machines', 'm1', 'points.log'));
  await writeFile(machineFile('points.log'), log);
  const due = log.length < lastEpochEnd ? 'damage' : log.length === bytes.length ? 'no-damage' : 'either';
  return { what: `points.log as it was with ${log.length} bytes`, due };
};

const flipFacts: Mutate = async (dice, keep) => {
  const file = machineFile('machine.json');
  const before = await keep(file);
  const offset = dice.between(0, before.length);
  await flipBit(file, offset, dice.between(0, 8));
  return {
    what: `a bit of byte ${offset} of machine.json`,
    due: sameButLabels(before, await readFile(file)) ? 'either' : 'damage',
  };
};

/** Whether two `machine.json` differ in the names of disks at most; hex digits count the same in either case. */
function sameButLabels(before: Buffer, after: Buffer): boolean {
  const bare = (bytes: Buffer): string | null => {
    try {
      return JSON.stringify(JSON.parse(bytes.toString('utf8')), (key, value: unknown) => (key === 'name' ? '' : value));
    } catch {
      return null;
    }
  };
  return bare(before) === bare(after);
}

/** With weights: what lies where most bytes are is hit most often, but nothing is left out. */
const kinds: readonly (readonly [number, string, Mutate])[] = [
  [20, 'flip', flipRelied],
  [20, 'flip in a header or row', flipFramed],
  [8, 'lost stretch', loseStretch],
  [8, 'cut', cutShort],
  [2, 'lost segment', loseSegment],
  [3, 'exchanged segments', exchange],
  [8, 'moved entry', moveEntry],
  [2, 'foreign segment', ofAnotherMachine],
  [3, 'stale segment', staleSegment],
  [6, 'flip in the tail', flipTail],
  [3, 'cut tail', cutTail],
  [8, 'flip in points.log', flipPoints],
  [4, 'cut points.log', cutPoints],
  [2, 'older points.log', olderPoints],
  [6, 'flip in machine.json', flipFacts],
];
const weights = kinds.reduce((sum, [weight]) => sum + weight, 0);

async function verified(): Promise<VerifyReport | 'refused'> {
  const request = {
    data: made.data,
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
  const to = path.join(made.home, 'exported.raw');
  for (const [index, content] of made.contents.entries()) {
    const point = index + 1;
    const request = {
      data: made.data,
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
  await files.rename(machineFile('index'), machineFile('index.away'));
  try {
    return await work();
  } finally {
    await files.rename(machineFile('index.away'), machineFile('index'));
  }
}

describe('bit rot', () => {
  it('was not there before anything was changed', async () => {
    const report = await verified();
    expect(report).toMatchObject({ ok: true });
    expect(await lies(report)).toEqual([]);
  });

  it(`in ${places} places is told, and no wrong byte is served`, { timeout: 600_000 }, async () => {
    const seed = seedOfRun('bit rot');
    const dice = diceOf(seed);
    const faults: string[] = [];
    const tried = new Map<string, number>();
    for (let place = 0; place < places; place += 1) {
      let lot = dice.between(0, weights);
      const [, kind, mutate] = kinds.find(([weight]) => (lot -= weight) < 0) ?? expect.fail('a kind for every lot');
      const kept = new Map<string, Buffer>();
      const keep = async (file: string): Promise<Buffer> => {
        const bytes = await readFile(file);
        if (!kept.has(file)) kept.set(file, bytes);
        return Buffer.from(bytes);
      };
      const { what, due } = await mutate(dice, keep);
      try {
        const report = await verified();
        const fault = faultOf(due, report);
        if (fault !== null) faults.push(`${what}: ${fault}`);
        // Exports cost most of the time: some places are enough for them in every run.
        // Half of them without the target's index, which still knows what was there.
        if (place % 3 === 0)
          faults.push(...(await withoutIndex(place % 2 === 0, () => lies(report))).map((lie) => `${what}: ${lie}`));
      } finally {
        for (const [file, bytes] of kept) await writeFile(file, bytes);
      }
      tried.set(kind, (tried.get(kind) ?? 0) + 1);
    }
    expect(faults).toEqual([]);
    expect(tried.size).toBeGreaterThan(kinds.length / 2);
    expect(await verified()).toMatchObject({ ok: true });
    expect((await stat(machineFile('points.log'))).size).toBeGreaterThan(0);
  });
});

/**
 * One flipped bit in every kind of file a target stores. Afterwards a point is either refused, with an exit code of the closed list, or
 * it is what it was, byte by byte: never wrong bytes and exit code 0. The same for a target that is started on the damage and goes on.
 */
import { execFile } from 'node:child_process';
import { cp, mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  batchPrefixBytes,
  entriesOf,
  entryHeaderBytes,
  entryType,
  firstSegment,
  flipBit,
  type SegmentEntry,
} from '../../scripts/demo/damage.ts';
import { tidemark, type CommandRunner } from '../../scripts/demo/process.ts';
import type { PointReport } from '../../src/cli/roles.ts';
import { exitCodes } from '../../src/fatal.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { connectNbd } from '../../src/nbd/client.ts';
import { command } from './command.ts';
import { denseBytes, diceOf, KiB, MiB, seedOfRun, writeImage, type Dice } from './content.ts';
import { differenceAt, disk, listPoints, machine, Scene } from './scene.ts';

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const size = 8 * MiB;
const writableFrom = 6 * MiB;

const segmentHeaderBytes = 64;

interface Place {
  readonly file: string;
  readonly offset: number;
}

async function onlyFile(directory: string, wanted: RegExp): Promise<string> {
  const name = (await readdir(directory)).filter((each) => wanted.test(each)).sort()[0];
  if (name === undefined) throw new Error(`${directory} has no ${wanted.source}`);
  return path.join(directory, name);
}

/** Where to flip a bit, by kind. `data` is the target's directory. */
type Chooser = (data: string, dice: Dice) => Promise<Place>;

const machineDirectory = (data: string): string => path.join(data, 'machines', machine);

/** A byte of the file with something else than zeros near it. */
async function usedByte(file: string, dice: Dice): Promise<Place> {
  const bytes = await readFile(file);
  for (let tries = 0; tries < 10_000; tries += 1) {
    const offset = dice.between(0, bytes.length);
    if (bytes.subarray(Math.max(0, offset - 16), offset + 16).some((byte) => byte !== 0)) return { file, offset };
  }
  throw new Error(`${file} is empty`);
}

function inFile(name: string): Chooser {
  return (data, dice) => usedByte(path.join(data, name), dice);
}

function inMachine(folder: string, wanted: RegExp): Chooser {
  return async (data, dice) => {
    return usedByte(await onlyFile(path.join(machineDirectory(data), folder), wanted), dice);
  };
}

/** In a random entry of the first segment that is of this type; `within` gives the offset from the entry's start. */
function inEntry(type: number, within: (entry: SegmentEntry, dice: Dice) => number): Chooser {
  return async (data, dice) => {
    const file = await firstSegment(data, machine);
    const entry = dice.pick(entriesOf(await readFile(file)).filter((each) => each.type === type));
    return { file, offset: entry.at + within(entry, dice) };
  };
}

const segmentHeader: Chooser = async (data, dice) => ({
  file: await firstSegment(data, machine),
  offset: dice.between(0, segmentHeaderBytes),
});

const pointsLogAt =
  (from: number, to: number): Chooser =>
  async (data, dice) => {
    const file = path.join(machineDirectory(data), 'points.log');
    const { size: bytes } = await stat(file);
    return { file, offset: dice.between(Math.floor(bytes * from), Math.floor(bytes * to)) };
  };

interface Kind {
  readonly choose: Chooser;
  /** Places tried. */
  readonly times: number;
  /** Started on by a target, too, in the default run. */
  readonly restarted?: true;
  /** Without the index, verify must notice: there is no byte that nothing relies on. */
  readonly noticed?: true;
}

const segmentKinds: Readonly<Record<string, Kind>> = {
  'segment header': { choose: segmentHeader, times: 2 },
  'entry header of a layer': { choose: inEntry(entryType.layer, (_, dice) => dice.between(0, 64)), times: 2 },
  'body of a layer': {
    noticed: true,
    choose: inEntry(entryType.layer, ({ bodyLength }, dice) => entryHeaderBytes + dice.between(0, bodyLength)),
    times: 2,
  },
  'entry header of a batch': { choose: inEntry(entryType.batch, (_, dice) => dice.between(0, 64)), times: 2 },
  'prefix of a batch': {
    noticed: true,
    choose: inEntry(entryType.batch, (_, dice) => entryHeaderBytes + dice.between(0, batchPrefixBytes)),
    times: 2,
  },
  'rows of a batch': {
    noticed: true,
    // Of the first row what lies behind block, mask, codec and a byte that is always zero.
    choose: inEntry(entryType.batch, (_, dice) => entryHeaderBytes + batchPrefixBytes + dice.between(8, 72)),
    times: 2,
    restarted: true,
  },
  'lengths in a row of a batch': {
    noticed: true,
    choose: inEntry(entryType.batch, (_, dice) => entryHeaderBytes + batchPrefixBytes + dice.between(8, 16)),
    times: 2,
  },
  payload: {
    noticed: true,
    choose: inEntry(entryType.batch, ({ bodyLength }, dice) => entryHeaderBytes + bodyLength - dice.between(1, 512)),
    times: 2,
    restarted: true,
  },
};

const kinds: Readonly<Record<string, Kind>> = {
  ...segmentKinds,
  'points.log, middle': { choose: pointsLogAt(0.2, 0.6), times: 2, restarted: true },
  'points.log, end': { choose: pointsLogAt(0.98, 1), times: 2, restarted: true },
  'machine.json': { choose: inFile(path.join('machines', machine, 'machine.json')), times: 8 },
  'tidemark.json': { choose: inFile('tidemark.json'), times: 8 },
  'vault.key': { choose: inFile('vault.key'), times: 8 },
  'index data': { choose: inMachine('index', /^data\.mdb$/), times: soak ? 40 : 2, restarted: true },
  'index boot file': { choose: inMachine('index', /^boot\.json$/), times: 2 },
  leaves: { choose: inMachine('leaves', /./), times: 4, restarted: true },
};

async function flip({ file, offset }: Place, dice: Dice): Promise<string> {
  const bit = dice.between(0, 8);
  await flipBit(file, offset, bit);
  return `${path.basename(file)} byte ${offset} bit ${bit}`;
}

/** Codes a command may refuse with; a bug (70) and a death by signal (255) are none. */
const refusals: readonly number[] = [
  exitCodes['check-failed'].code,
  exitCodes.usage.code,
  exitCodes['not-found'].code,
  exitCodes.damaged.code,
  exitCodes['wrong-version'].code,
  exitCodes['no-key'].code,
];

const sabotageMsMax = 90_000;
/** It waits more than it works, so it runs beside the other tests. */
let sabotaged = Promise.resolve({ code: -1, stdout: '', stderr: 'not started' });
beforeAll(() => {
  const script = fileURLToPath(new URL('../../dist/scripts/quickstart.js', import.meta.url));
  const words = [script, '--size', '16M', '--sabotage', '--json'];
  sabotaged = new Promise((resolve) => {
    // SIGTERM when it takes too long: then it ends its roles and removes its files.
    const child = execFile(process.execPath, words, { timeout: sabotageMsMax - 5_000 }, (_, stdout, stderr) => {
      resolve({ code: child.exitCode ?? 255, stdout, stderr });
    });
  });
});
afterAll(async () => {
  await sabotaged;
}, sabotageMsMax);

describe('one flipped bit', () => {
  const seed = seedOfRun('damage');
  const dice = diceOf(seed);
  let scene: Scene;
  let pristine = '';
  let points: readonly PointReport[] = [];
  const contents = new Map<string, Buffer>();
  /** A point may be replaced by another of the same number only where the target had to forget it. */
  const nameOf = ({ point, cutTimeMs }: PointReport): string => `${point}@${cutTimeMs}`;

  beforeAll(async () => {
    scene = await Scene.open({
      image: (file) => writeImage(file, size, writableFrom, seed),
      writer: { from: writableFrom, pauseMs: 10, lanes: 2, sectorsMax: 32 },
    });
    await scene.site.startTarget();
    await scene.site.startProcessServer();
    await scene.startLife();
    await scene.untilPoints('three proven points', (listed) => listed.filter((each) => each.provenMs).length >= 3);
    await scene.endLife();
    await scene.site.role('target').stop();
    points = await scene.points();
    for await (const { point, content } of scene.oracles(points)) contents.set(nameOf(point), Buffer.from(content));
    pristine = scene.file('pristine');
    await mkdir(pristine);
    for (const name of ['target', 'agent', 'disk.raw'])
      await cp(scene.file(name), path.join(pristine, name), { recursive: true });
  }, 60_000);

  afterAll(async () => {
    await scene.close();
  }, 30_000);

  /** What is wrong with what can be read from `data`: nothing, when everything is refused or true. */
  async function lies(data: string, run: CommandRunner, listed: readonly PointReport[]): Promise<string[]> {
    const found: string[] = [];
    const to = scene.file('exported.raw');
    for (const point of listed) {
      await rm(to, { force: true });
      const words = ['export', machine, disk, '--data', data, '--point', String(point.point), '--to', to];
      const { code, stderr } = await run(words);
      const exported = await readFile(to).catch(() => null);
      if (code !== 0) {
        if (!refusals.includes(code))
          found.push(`export of ${point.point} ended with ${code}: ${stderr.slice(0, 500)}`);
        if (exported) found.push(`export of ${point.point} was refused and left a file`);
        continue;
      }
      const content = contents.get(nameOf(point));
      if (!content || !exported) found.push(`point ${point.point} is one nobody made`);
      else if (!exported.equals(content))
        found.push(`point ${point.point} differs from byte ${differenceAt(exported, content)}, with exit code 0`);
    }
    return found;
  }

  for (const [name, kind] of Object.entries(kinds)) {
    it(`in ${name} is refused or harmless`, { timeout: 30_000 + kind.times * 10_000 }, async () => {
      // LMDB maps its file: what is wrong in there can end a process, which then must not be the test's.
      const run = name === 'index data' ? tidemark : command;
      const data = scene.file('damaged');
      for (let time = 0; time < kind.times; time += 1) {
        await rm(data, { recursive: true, force: true });
        await cp(path.join(pristine, 'target'), data, { recursive: true });
        const where = await flip(await kind.choose(data, dice), dice);
        // The index may hide what is wrong in a segment: with it, and without.
        if (name in segmentKinds && time % 2 === 1)
          await rm(path.join(machineDirectory(data), 'index'), { recursive: true });
        const verified = await run(['verify', '--data', data, '--point', 'all', '--json']);
        expect([0, ...refusals], `verify, ${where}: ${verified.stderr}`).toContain(verified.code);
        const listed = await listPoints(run, data).catch(() => points);
        const wanted = [listed[0], listed.at(-1)].filter((point) => point !== undefined);
        expect(await lies(data, run, wanted), where).toEqual([]);
        if (kind.noticed === true && time % 2 === 1) expect(verified.code, where).not.toBe(0);
      }
    });
  }

  /** Why the agent does not go on, if it gave up. */
  async function refusal(): Promise<string | null> {
    const metrics = await scene.site.role('agent').where('metrics');
    const text = await (await fetch(metrics.replace(/metrics$/, 'readyz'))).text();
    return text.includes('critical') ? text : null;
  }

  for (const [name, kind] of Object.entries(kinds).filter(([, { restarted }]) => restarted === true || soak)) {
    it(`in ${name} does not deceive a target started on it`, { timeout: 60_000 }, async () => {
      for (const each of ['target', 'agent', 'disk.raw']) {
        await rm(scene.file(each), { recursive: true, force: true });
        await cp(path.join(pristine, each), scene.file(each), { recursive: true });
      }
      const where = await flip(await kind.choose(scene.site.targetData, dice), dice);
      const target = scene.site.startTarget();
      const started = await target.then(
        () => true,
        () => false,
      );
      if (!started) {
        expect(refusals, where).toContain(await scene.site.role('target').exited());
        expect(await lies(scene.site.targetData, tidemark, points.slice(0, 1)), where).toEqual([]);
        return;
      }
      const agent = await scene.site.startAgent();
      try {
        const client = await connectNbd(
          { unixPath: scene.site.socketOf(disk) },
          { exportName: disk, clock: systemClock },
        );
        await client.write(denseBytes(dice.between(0, 1e9), 64 * KiB), writableFrom + 4 * KiB);
        await client.close();
        const writtenMs = Date.now();
        const listed = (): Promise<readonly PointReport[]> => scene.points().catch(() => []);
        const isFresh = ({ cutTimeMs }: PointReport): boolean => cutTimeMs > writtenMs;
        const outcome = await scene.until(`a point after the damage (${where}), or a refusal`, async () =>
          (await listed()).some(isFresh) ? 'goes on' : ((await refusal()) ?? undefined),
        );
        // What says it can not go on names what is damaged.
        if (outcome !== 'goes on') expect(outcome).toContain('damaged');
        const all = await listed();
        const image = await readFile(scene.image);
        for (const point of all.filter(isFresh)) contents.set(nameOf(point), image);
        const wanted = [...all.slice(0, 1), ...all.filter(isFresh).slice(-1)];
        expect(await lies(scene.site.targetData, tidemark, wanted), where).toEqual([]);
      } finally {
        expect(await agent.stop()).toBe(exitCodes.ok.code);
        expect(refusals.concat(0)).toContain(await scene.site.role('target').stop());
      }
    });
  }
});

describe('scripts/quickstart --sabotage', () => {
  it('ends with exit code 1 and never says identical', { timeout: sabotageMsMax }, async () => {
    const { code, stdout, stderr } = await sabotaged;
    expect(code, stderr).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ identical: false });
  });
});

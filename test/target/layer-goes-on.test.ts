/**
 * A process server loses its target at any frame and sends again: what is unanswered, or everything. All is stored once, and every point is what it would
 * have been. TIDEMARK_TEST_SOAK=1 tries every way at every frame.
 */
import { mkdtempSync } from 'node:fs';
import { appendFile, readdir, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { leaveMapped } from '../crash/real-index.ts';
import { MortalFiles } from '../pipeline/mortal-files.ts';
import { Dice } from '../simulated-bytes.ts';
import { SimulatedFiles } from '../simulated-files.ts';
import {
  deadEnds,
  LayerStream,
  mortal,
  script,
  scriptedEntries,
  storedEntries,
  storedImages,
  turns,
} from './layer-stream.ts';
import { TargetSite } from './peer.ts';

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';

const sites = new Set<TargetSite>();
afterEach(async () => {
  for (const site of sites) await site.remove();
  sites.clear();
});

const ways = ['connection lost', 'restarted', 'killed', 'killed in a write', 'index lost', 'torn'] as const;
type Way = (typeof ways)[number];

/** A target on mortal files, and what may happen to it. */
class Run {
  site: TargetSite;
  #files: MortalFiles;

  private constructor(site: TargetSite, files: MortalFiles) {
    this.site = site;
    this.#files = files;
    sites.add(site);
  }

  static async begin(): Promise<Run> {
    const files = new MortalFiles(posixFiles);
    return new Run(await TargetSite.start({ files }), files);
  }

  async suffer(way: Way): Promise<void> {
    if (way === 'connection lost') return;
    const [before, files] = [this.site, new MortalFiles(posixFiles)];
    sites.delete(before);
    const machine = path.join(before.data, 'machines', 'm1');
    const between = async (): Promise<void> => {
      if (way === 'index lost') await rm(path.join(machine, 'index'), { recursive: true });
      if (way === 'torn') await tear(path.join(machine, 'segments'));
    };
    if (way === 'restarted') this.site = await before.restarted({ files });
    else this.site = await before.killed(this.#files, { files }, between);
    this.#files = files;
    sites.add(this.site);
  }

  /** The write of a segment after this one never ends. */
  dieInAWrite(): void {
    this.#files.trouble = (operation, file) => {
      if (operation !== 'write' || !file.endsWith('.seg')) return undefined;
      return new Promise(() => undefined);
    };
  }
}

/** Half an entry behind the last one, as of a write that was under way. */
async function tear(segments: string): Promise<void> {
  const name = (await readdir(segments))
    .filter((each) => each.endsWith('.seg'))
    .sort()
    .at(-1);
  if (name === undefined) return;
  const file = path.join(segments, name);
  const bytes = await posixFiles.readWhole(file);
  let end = bytes.byteLength;
  while (end > 0 && bytes[end - 1] === 0) end -= 1;
  await truncate(file, Math.ceil(end / 8) * 8);
  await appendFile(file, Buffer.concat([Buffer.from('TMSE'), Buffer.alloc(300, 0x77)]));
  expect((await stat(file)).size).toBeGreaterThan(end);
}

/** Cuts after `frames` frames, `late` turns after they were sent (null: when all of them are answered). */
async function cutAfter(frames: number, late: number | null, way: Way): Promise<void> {
  const run = await Run.begin();
  const stream = new LayerStream();
  await stream.open(run.site);
  const before = way === 'killed in a write' ? Math.max(0, frames - 2) : frames;
  stream.send(0, before);
  if (late === null) await stream.settled(before);
  else await turns(late);
  if (before < frames) {
    run.dieInAWrite();
    stream.send(before, frames);
    await turns(30);
  }
  await stream.hear();
  stream.peer?.connection.cut();
  await run.suffer(way);
  // What is not answered; the connection breaks again, all of it having come or not.
  await stream.open(run.site);
  const end = Math.min(script.length, frames + 3);
  stream.send(stream.uncommitted, end, stream.isDone);
  await (late === null ? turns(frames) : stream.settled(end));
  stream.peer?.connection.cut();
  // Everything, from the last point on that is known to be committed.
  await stream.open(run.site);
  stream.send(stream.uncommitted, stream.frames.length);
  await stream.settled();
  await judged(run.site, stream, posixFiles);
}

/** All of the script is there, once, and nothing else. */
async function judged(site: TargetSite, stream: LayerStream, files: Files): Promise<void> {
  expect(new Map([...(await storedEntries(site, files))].sort())).toEqual(scriptedEntries());
  expect(await storedImages(site)).toEqual(stream.images);
  expect(site.store().points.points.map(({ epoch, cutTimeMs }) => [epoch, cutTimeMs])).toEqual(
    stream.frames.filter(({ step }) => step.kind === 'point').map(({ cutTimeMs }) => [1, cutTimeMs]),
  );
  sites.delete(site);
  await site.remove();
}

/** The power fails `late` turns after `frames` frames were sent, and again when what was not answered is on its way. */
async function powerLost(frames: number, late: number, seed: number): Promise<void> {
  const directory = mkdtempSync(path.join(tmpdir(), 'tidemark-power-'));
  let files = new SimulatedFiles([directory]);
  files.turnsMax = 3;
  let door = mortal(files);
  let site = await TargetSite.start({ files: door, directory });
  sites.add(site);
  const stream = new LayerStream();
  await stream.open(site);
  stream.send(0, frames);
  await turns(late);
  for (const lot of [seed, seed + 1]) {
    await stream.hear();
    stream.peer?.connection.cut();
    files = Object.assign(files.afterPowerLoss(new Dice(lot)), { turnsMax: 3 });
    sites.delete(site);
    // What LMDB never synced is no index any more.
    const between = (): Promise<void> => {
      leaveMapped(path.join(site.data, 'machines', 'm1', 'index'), null);
      return Promise.resolve();
    };
    const dying = door;
    door = mortal(files);
    site = await site.killed({ die: () => deadEnds(dying) }, { files: door }, between);
    sites.add(site);
    await stream.open(site);
    stream.send(stream.uncommitted, stream.frames.length, stream.isDone);
    if (lot === seed) await turns(late);
    else await stream.settled();
  }
  await judged(site, stream, files);
}

const cuts = Array.from({ length: script.length }, (_, at) => at + 1);

test(
  'cut off after any frame, in half of the cases with the target restarted, killed or torn',
  { timeout: 180_000 },
  async () => {
    for (const frames of cuts) {
      const way = frames % 2 === 0 ? ways[1 + ((frames / 2) % 5)] : ways[0];
      await cutAfter(frames, frames % 3 === 0 ? null : frames * 3, way ?? 'killed');
    }
  },
);

test('the power of the target fails after any frame', { timeout: 600_000 }, async () => {
  for (const frames of cuts)
    for (let lot = 0; lot < (soak ? 40 : 1); lot += 1)
      await powerLost(frames, (frames * 7 + lot * 13) % 90, frames + 1000 * lot);
});

test.runIf(soak).each(ways)('%s after any frame', { timeout: 600_000 }, async (way) => {
  for (const frames of cuts) for (const late of [null, 0, 5, 20, 60]) await cutAfter(frames, late, way);
});

/**
 * Random writers, rounds, cuts, commits, failures downstream, kills and power failures over a simulated slow disk, against plain memory.
 * The replica is a buffer that only committed content reaches, as a target would hold it. Checked:
 *  (a) after every commit the replica equals the image at the instant of the cut;
 *  (b) after every restart each page in which image and replica differ is dirty;
 *  (c) no writer is ever failed.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { makeCutAll } from '../../src/capture/cut.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { isProblem } from '../../src/kit/problem.ts';
import { invariant } from '../../src/kit/invariant.ts';
import type { Clock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { Dice } from '../simulated-bytes.ts';
import { type SimulatedFiles } from '../simulated-files.ts';
import {
  blockSize,
  imagePath,
  kill,
  logPath,
  losePower,
  openSim,
  overwrite,
  pageSize,
  peek,
  stillClock,
  turns,
  simWithImage,
} from './setup.ts';

const imageBytes = 16 * MiB + 3 * 512;
const seed = Number(process.env['TIDEMARK_TEST_SEED'] ?? 20_261_121);
const numRuns = Number(process.env['TIDEMARK_TEST_RUNS'] ?? 40);

interface Story {
  seed: number;
  lives: number;
  steps: number;
  turnsMax: number;
  hotRegionsMax: number;
  memoryBytes: number;
  logFails: boolean;
}

const stories: fc.Arbitrary<Story> = fc.record({
  seed: fc.nat(),
  lives: fc.integer({ min: 1, max: 4 }),
  steps: fc.integer({ min: 5, max: 60 }),
  turnsMax: fc.integer({ min: 0, max: 6 }),
  hotRegionsMax: fc.integer({ min: 1, max: 4 }),
  memoryBytes: fc.constantFrom(0, 3 * pageSize, 1 * MiB),
  logFails: fc.integer({ min: 0, max: 9 }).map((n) => n < 3),
});

/** One run of the agent: writers and a sender side by side until `stop`. */
class Life {
  readonly files: SimulatedFiles;
  readonly capture: NbdCapture;
  readonly #dice: Dice;
  readonly #replica: Buffer;
  readonly #staged = new Map<number, Buffer>();
  /** Per write whether it ended; null for one that ends with a sync, which a cut does not wait for. */
  readonly #ended: (boolean | null)[] = [];
  #snapshot: Buffer = Buffer.alloc(0);
  #stop = false;
  #inFlight = 0;
  commits = 0;
  voids = 0;
  failure: unknown = null;

  constructor(files: SimulatedFiles, capture: NbdCapture, replica: Buffer) {
    this.files = files;
    this.capture = capture;
    this.#dice = files.dice;
    this.#replica = replica;
    const swapInCut = capture.swapInCut.bind(capture);
    // The only instant at which the image as of the cut can be seen from outside.
    capture.swapInCut = () => {
      this.#snapshot = peek(files, imagePath);
      const writes = swapInCut();
      expect(this.#ended.slice(0, writes).includes(false)).toBe(false);
      expect(this.#ended.slice(writes).includes(true)).toBe(false);
      return writes;
    };
  }

  stop(): void {
    this.#stop = true;
  }

  get writersBusy(): boolean {
    return this.#inFlight > 0;
  }

  async writers(steps: number): Promise<void> {
    for (let step = 0; step < steps && !this.#stop; step += 1) {
      if (this.#inFlight < 12) this.#startOne();
      await turns(this.#dice.below(4));
    }
  }

  #startOne(): void {
    const dice = this.#dice;
    // Few sites, so that writes, regions and unread blocks meet.
    const sites = [0, 4 * MiB - 3000, 4 * MiB + 70_000, 9 * MiB, imageBytes - 5000];
    const offset = Math.min(imageBytes - 512, (sites[dice.below(sites.length)] ?? 0) + dice.below(9000));
    const length = 1 + dice.below(Math.min(dice.below(8) === 0 ? 5 * MiB : 20_000, imageBytes - offset));
    const what = dice.below(10);
    const number = this.#ended.length;
    if (what > 6) {
      const page = Buffer.alloc(pageSize * (1 + dice.below(3)), 1 + dice.below(255));
      const at = Math.min(offset - (offset % pageSize), imageBytes - (imageBytes % pageSize) - page.byteLength);
      if (this.capture.writeNow(page, at)) {
        this.#ended.push(true);
        seen.atOnce += 1;
        return;
      }
    }
    const done =
      what === 0
        ? this.capture.flush()
        : what < 3
          ? this.capture.zero(offset, length, what === 1, dice.below(2) === 0)
          : this.capture.write(Buffer.alloc(length, 1 + dice.below(255)), offset, what === 3);
    const synced = what === 1 || what === 3;
    if (what !== 0) this.#ended.push(synced ? null : false);
    this.#inFlight += 1;
    void done.then(
      () => {
        this.#inFlight -= 1;
        if (what !== 0 && !synced) this.#ended[number] = true;
      },
      (error: unknown) => {
        this.failure ??= error;
      },
    );
  }

  async sender(): Promise<void> {
    const { capture } = this;
    while (!this.#stop) {
      const what = this.#dice.below(10);
      if (what < 3) await this.#round();
      else if (what < 7) await this.#cut();
      else if (what === 7) {
        capture.giveUp();
        this.#staged.clear();
      } else if (what === 8) capture.mark(this.#dice.below(capture.geometry.blockCount), 0xffff);
      await turns(this.#dice.below(12));
    }
  }

  /** Pre-copy: what is read may be torn, and is superseded by a later layer. */
  async #round(): Promise<void> {
    this.capture.swap();
    if (await this.#readSending()) this.capture.endSending();
  }

  async #cut(): Promise<void> {
    // Some cuts do not wait until no write waits for the log, none gives up because a write is slow.
    const patient = this.#dice.below(2) === 0;
    const after: Clock['after'] = (ms, run) => {
      if (ms === limits.capture.cutCalmMs && !patient) queueMicrotask(run);
      return { cancel: () => undefined };
    };
    const report = await makeCutAll({ ...stillClock, after })([this.capture], 1000);
    invariant(report, 'the still clock lets every cut drain');
    const snapshot = this.#snapshot;
    try {
      if (!(await this.#readSending())) return;
      this.capture.endSending();
    } catch (error) {
      if (!isProblem(error) || error.code !== 'cut-void') throw error;
      this.voids += 1;
      this.capture.giveUp();
      this.#staged.clear();
      return;
    }
    await turns(this.#dice.below(5));
    if (this.#stop) return;
    for (const [block, bytes] of this.#staged) bytes.copy(this.#replica, block * blockSize);
    this.#staged.clear();
    this.commits += 1;
    expectEqual(this.#replica, snapshot);
    const forgotten = this.capture.forget();
    if (this.#dice.below(2) === 0) await forgotten;
  }

  /** Reads all of sending, several at a time; false when it was given up halfway. */
  async #readSending(): Promise<boolean> {
    const jobs: Promise<void>[] = [];
    const giveUpAt = this.#dice.below(6) === 0 ? this.#dice.below(20) : Infinity;
    let count = 0;
    for (const [block] of this.capture.sending()) {
      if (this.#stop || (count += 1) > giveUpAt) {
        await Promise.allSettled(jobs);
        this.capture.giveUp();
        this.#staged.clear();
        return false;
      }
      const into = Buffer.alloc(blockSize);
      jobs.push(this.capture.readBlocks(block, into).then(() => void this.#staged.set(block, into)));
      if (jobs.length % 4 === 0) await Promise.all(jobs.slice(-4));
    }
    await Promise.all(jobs);
    return true;
  }
}

function expectEqual(replica: Buffer, image: Buffer): void {
  if (replica.compare(image, 0, imageBytes, 0, imageBytes) === 0) return;
  for (let page = 0; page * pageSize < imageBytes; page += 1) {
    const [from, to] = [page * pageSize, Math.min((page + 1) * pageSize, imageBytes)];
    if (replica.compare(image, from, to, from, to) !== 0) throw new Error(`(a) page ${page} is not as of the cut`);
  }
}

/** (b) */
function expectCovered(capture: NbdCapture, replica: Buffer, image: Buffer): void {
  for (let page = 0; page * pageSize < imageBytes; page += 1) {
    const [from, to] = [page * pageSize, Math.min((page + 1) * pageSize, imageBytes)];
    if (replica.compare(image, from, to, from, to) === 0) continue;
    const mask = capture.currentMask(Math.floor(page / 16));
    if ((mask & (1 << (page % 16))) === 0)
      throw new Error(`(b) page ${page} differs from the replica and is not dirty`);
  }
}

const seen = { atOnce: 0, commits: 0, voids: 0, losses: 0, continued: 0, scratch: 0, disowned: 0, revived: 0 };

async function tell(story: Story): Promise<void> {
  const dice = new Dice(story.seed);
  let files = simWithImage(imageBytes, story.seed);
  files.dice = dice;
  // Pages arrive one by one, with others' writes in between.
  files.pieceBytes = 1024;
  files.punches = () => dice.below(2) === 0;
  const start = Buffer.alloc(imageBytes);
  for (let at = 0; at < imageBytes; at += 1_000_003) start.fill(at % 251, at, Math.min(imageBytes, at + 4000));
  overwrite(files, imagePath, start);
  const replica = Buffer.alloc(Math.ceil(imageBytes / blockSize) * blockSize);
  for (let life = 0; life < story.lives; life += 1) {
    files.turnsMax = 0;
    const capture = await openSim(files, life > 0, {
      hotRegionsMax: story.hotRegionsMax,
      clock: { ...stillClock, after: (_, run) => retrySoon(dice, run) },
      copyBeforeWriteMemoryBytes: story.memoryBytes,
      copyBeforeWriteScratchBytes: story.memoryBytes === 0 ? 20 * pageSize : 4 * MiB,
    });
    if (capture.logLoss) seen.losses += 1;
    else seen.continued += 1;
    expectCovered(capture, replica, peek(files, imagePath));
    files.turnsMax = story.turnsMax;
    const now = new Life(files, capture, replica);
    files = await live(now, story, dice);
  }
  const last = await openSim(files, true, { hotRegionsMax: story.hotRegionsMax });
  expectCovered(last, replica, peek(files, imagePath));
}

/** A capture waits for nothing but the next try for a new log. */
function retrySoon(dice: Dice, run: () => void): { cancel: () => void } {
  let cancelled = false;
  void turns(dice.below(10)).then(() => cancelled || run());
  return { cancel: () => void (cancelled = true) };
}

async function live(now: Life, story: Story, dice: Dice): Promise<SimulatedFiles> {
  const { files, capture } = now;
  const failAt = story.logFails ? dice.below(6) : Infinity;
  let operations = 0;
  // For a while, then the disk of the log is well again.
  const wellAt = failAt + dice.below(4);
  files.fault = (operation, filePath) =>
    filePath.startsWith(logPath) && operation === 'datasync' && (operations += 1) > failAt && operations <= wellAt + 1
      ? { code: 'EIO' }
      : null;
  const broken: { error?: unknown } = {};
  const sender = now.sender().catch((error: unknown) => (broken.error = error));
  await now.writers(story.steps);
  await turns(dice.below(30));
  const end = dice.below(3);
  let after = files;
  if (end === 0) after = losePower(files);
  else if (end === 1) after = kill(files);
  now.stop();
  if (end === 2) {
    await sender;
    await capture.close();
  }
  if (broken.error) throw broken.error as Error;
  if (now.failure) throw now.failure as Error;
  seen.commits += now.commits;
  seen.voids += now.voids;
  if ((files.counts.get('open') ?? 0) > 3) seen.scratch += 1;
  if (capture.logFailure !== null) seen.disowned += 1;
  else if (operations > wellAt) seen.revived += 1;
  files.fault = () => null;
  return after;
}

test(`any story of writers, cuts and failures keeps a superset and true cuts (seed ${seed})`, async () => {
  await fc.assert(fc.asyncProperty(stories, tell), { seed, numRuns, endOnFailure: true });
  console.info(`stories: ${JSON.stringify(seen)}`);
  // The stories must really have told all this.
  for (const count of [seen.atOnce, seen.commits, seen.voids, seen.losses, seen.continued, seen.disowned, seen.revived])
    expect(count).toBeGreaterThan(0);
}, 120_000);

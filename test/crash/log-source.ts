/**
 * A disk under capture on a simulated file system, driven one operation at a time, and what a crash of it may leave. The replica is what the
 * target holds: it takes over the image as of a swap when the capture is told to forget.
 */
import { makeCutAll } from '../../src/capture/cut.ts';
import { openNbdCapture, type NbdCaptureOptions } from '../../src/capture/nbd-open.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import type { Random } from '../../src/kit/random.ts';
import { MiB } from '../../src/kit/sizes.ts';
import type { Files } from '../../src/posix/files.ts';
import { SparseBytes, type Dice } from '../simulated-bytes.ts';
import { SimulatedFiles } from '../simulated-files.ts';

export const imagePath = '/images/vda.raw';
const state = '/state';
const blockSize = 65_536;
const pageBytes = 4096;
const imageBytes = 12 * MiB;
const regionBytes = 4 * MiB;

/** Deadlines never come: what is slow is for the simulation to say. */
const stillClock: Clock = { ...systemClock, after: () => ({ cancel: () => undefined }) };
const cutAll = makeCutAll(stillClock);

function randomOf(dice: Dice): Random {
  return {
    bytes: (length) => Buffer.from(Array.from({ length }, () => dice.below(256))),
    fraction: () => dice.fraction(),
  };
}

/** A disk that was never protected, with some content every `stepBytes`. */
export function newDisk(size: number, stepBytes: number): SimulatedFiles {
  const image = new SparseBytes();
  image.resize(size);
  for (let at = 1000; at < size; at += stepBytes) image.write(Buffer.alloc(5000, 200 + (at % 17)), at);
  const files = new SimulatedFiles(['/images', state]);
  files.plant(imagePath, image);
  return files;
}

export function openCapture(files: SimulatedFiles, more: Partial<NbdCaptureOptions> = {}): Promise<NbdCapture> {
  return openNbdCapture({
    files,
    clock: stillClock,
    random: randomOf(files.dice),
    image: imagePath,
    name: 'vda',
    owner: 'web1/vda',
    blockSize,
    stateDirectory: state,
    hadLog: true,
    lock: () => Promise.resolve({ release: () => Promise.resolve() }),
    hotRegionsMax: 1,
    copyBeforeWriteMemoryBytes: 0,
    copyBeforeWriteScratchBytes: MiB,
    ...more,
  });
}

/** What a start after a crash is judged by. */
export interface SourceModel {
  /** A capture of this disk was open before, and its agent knew. */
  readonly hadLog: boolean;
  readonly replica: SparseBytes;
  /** The image as of the last flush that ended, and the 4 KiB pages changed since it began. */
  readonly flushed: SparseBytes;
  readonly touched: ReadonlySet<number>;
}

export class Source {
  files = newDisk(imageBytes, 3_000_001);
  /** Between the capture and its disk. */
  door: (files: Files) => Files = (files) => files;
  readonly #hotRegionsMax: number;
  #capture: NbdCapture | null = null;
  #hadLog = false;
  #replica: SparseBytes;
  #flushed: SparseBytes;
  #touched = new Set<number>();
  #fill = 0;

  constructor(hotRegionsMax = 1) {
    this.#flushed = this.files.content(imagePath).copy();
    // The target has nothing yet.
    this.#replica = new SparseBytes();
    this.#replica.resize(imageBytes);
    this.#hotRegionsMax = hotRegionsMax;
  }

  /** Goes on with a capture that was opened on what a crash left. */
  static continued(files: SimulatedFiles, capture: NbdCapture, model: SourceModel): Source {
    const source = new Source();
    source.files = files;
    source.#capture = capture;
    source.#hadLog = true;
    source.#replica = model.replica.copy();
    source.#flushed = files.content(imagePath).copy();
    return source;
  }

  get capture(): NbdCapture {
    if (!this.#capture) throw new Error('the capture is open');
    return this.#capture;
  }

  model(): SourceModel {
    return {
      hadLog: this.#hadLog,
      replica: this.#replica.copy(),
      flushed: this.#flushed.copy(),
      touched: new Set(this.#touched),
    };
  }

  async open(): Promise<void> {
    const files = this.door(this.files);
    this.#capture = await openCapture(this.files, { files, hadLog: this.#hadLog, hotRegionsMax: this.#hotRegionsMax });
    this.#hadLog = true;
    // Opening syncs the image.
    this.#flushed = this.files.content(imagePath).copy();
    this.#touched.clear();
  }

  /** Some bytes at a place of their own in the region, over a page's edge. */
  async write(region: number, fua = false): Promise<void> {
    const fill = (this.#fill += 1);
    const offset = region * regionBytes + 3 * pageBytes - 300 + (fill % 3) * 100_000;
    const length = 700;
    this.#touch(offset, length);
    await this.capture.write(Buffer.alloc(length, fill), offset, fua);
  }

  async zero(region: number): Promise<void> {
    const offset = region * regionBytes + 2 * pageBytes;
    this.#touch(offset, 2 * pageBytes);
    await this.capture.zero(offset, 2 * pageBytes, false, true);
  }

  /** No write may be under way. */
  async flush(): Promise<void> {
    const image = this.files.content(imagePath).copy();
    await this.capture.flush();
    this.#touched.clear();
    this.#flushed = image;
  }

  /** Two flushes of one instant, beside a durable write that needs the slot of the hot region: whoever was told "durable" was told the truth. */
  async flushTwice(): Promise<void> {
    const image = this.files.content(imagePath).copy();
    const before = this.#touched;
    this.#touched = new Set();
    const flushes = await Promise.allSettled([this.capture.flush(), this.capture.flush(), this.write(1, true)]);
    if (flushes.slice(0, 2).some(({ status }) => status === 'fulfilled')) this.#flushed = image;
    else for (const page of before) this.#touched.add(page);
    for (const each of flushes) if (each.status === 'rejected') throw each.reason;
  }

  /** A round: what is in the image now is what the target then has. */
  async commit(): Promise<void> {
    const image = this.files.content(imagePath).copy();
    this.capture.swap();
    await this.#commit(image, () => Promise.resolve());
  }

  /** The same under a cut, with writers in between whose old pages go to the scratch file. */
  async cutAndCommit(): Promise<void> {
    const cutting = cutAll([this.capture], 1000);
    await cutting;
    const image = this.files.content(imagePath).copy();
    await this.#commit(image, async () => {
      await this.write(0);
      await this.zero(0);
    });
  }

  async #commit(image: SparseBytes, meanwhile: () => Promise<void>): Promise<void> {
    try {
      await meanwhile();
      await this.#readSending(image);
      this.capture.endSending();
    } catch (error) {
      this.capture.giveUp();
      throw error;
    }
    await this.#forget(image);
  }

  /** A round that comes to nothing. */
  giveUp(): void {
    this.capture.swap();
    this.capture.endSending();
    this.capture.giveUp();
  }

  async mark(): Promise<void> {
    this.capture.mark(70, 0xffff);
    for (let turn = 0; turn < 30; turn += 1) await Promise.resolve();
  }

  async reopen(): Promise<void> {
    await this.capture.close();
    await this.open();
  }

  async killAndReopen(): Promise<void> {
    this.files = this.files.kill();
    await this.open();
  }

  async #readSending(image: SparseBytes): Promise<void> {
    const into = Buffer.alloc(blockSize);
    const expected = Buffer.alloc(blockSize);
    for (const [block] of [...this.capture.sending()].slice(0, 8)) {
      await this.capture.readBlocks(block, into);
      image.read(expected, block * blockSize);
      if (!into.equals(expected)) throw new Error(`block ${block} is not as of the swap`);
    }
  }

  /** The target has answered COMMITTED: from the call on the log may forget. */
  async #forget(image: SparseBytes): Promise<void> {
    this.#replica = image;
    await this.capture.forget();
  }

  #touch(offset: number, length: number): void {
    const last = Math.floor((offset + length - 1) / pageBytes);
    for (let page = Math.floor(offset / pageBytes); page <= last; page += 1) this.#touched.add(page);
  }
}

/** Where a judge writes after its start. */
export const judgesPage = (2 * regionBytes) / pageBytes;

/** C3: every page in which image and replica differ is marked. */
export function expectCovered(files: SimulatedFiles, capture: NbdCapture, model: SourceModel): void {
  const image = files.content(imagePath);
  for (const page of image.differences(model.replica)) {
    const mask = capture.currentMask(Math.floor(page / 16));
    if ((mask & (1 << (page % 16))) === 0) throw new Error(`page ${page} differs from the replica and is not marked`);
  }
}

/** What a writer was told is on the disk is there. */
export function expectFlushed(files: SimulatedFiles, model: SourceModel): void {
  for (const page of files.content(imagePath).differences(model.flushed))
    if (!model.touched.has(page) && page !== judgesPage) throw new Error(`page ${page} was flushed and is lost`);
}

/**
 * What an agent durably knows of one disk — image, change log, leaf file, state file — on a simulated file system, driven by the agent's own
 * cycles, surveys and comparisons against a replica without a network (`replica.ts`), and what a crash of it may leave.
 */
import { readDiskState } from '../../src/agent/disk-state.ts';
import { newCounters } from '../../src/agent/counters.ts';
import { runCycle } from '../../src/agent/cycle.ts';
import { FlightLog } from '../../src/agent/flight-log.ts';
import { inlineHasher, type BlockHasher } from '../../src/agent/hash-blocks.ts';
import { PointsInFlight } from '../../src/agent/points-in-flight.ts';
import { ReplicaDisk } from '../../src/agent/replica-disk.ts';
import { resyncDisk } from '../../src/agent/resync-disk.ts';
import { ResyncGate } from '../../src/agent/resync-gate.ts';
import { BuilderPool } from '../../src/agent/sender.ts';
import type { Session } from '../../src/agent/session.ts';
import { makeCutAll } from '../../src/capture/cut.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { zeroLeaf } from '../../src/disk/merkle.ts';
import { fullMask } from '../../src/disk/page-mask.ts';
import { isZero, leafOf } from '../../src/kernels/hash.ts';
import { MiB } from '../../src/kit/sizes.ts';
import type { Logger } from '../../src/observe/logger.ts';
import type { Files } from '../../src/posix/files.ts';
import { batchRecords } from '../../src/wire/batch.ts';
import { frameHeaderBytes } from '../../src/wire/frame.ts';
import type { SparseBytes } from '../simulated-bytes.ts';
import type { SimulatedFiles } from '../simulated-files.ts';
import { imagePath, newDisk, openCapture } from './log-source.ts';
import { Replica } from './replica.ts';

const directory = '/state';
const blockSize = 65_536;
const pageBytes = 4096;
const regionBytes = 4 * MiB;
const imageBytes = regionBytes + 5 * blockSize + 1536;

const stillClock: Clock = { ...systemClock, monotonicMs: () => 0, after: () => ({ cancel: () => undefined }) };
const cutAll = makeCutAll(stillClock);
const builders = new BuilderPool();
const zeroBlock = Buffer.alloc(blockSize);
const looked = Buffer.alloc(blockSize);
const quiet = (): void => undefined;
const logger: Logger = { debug: quiet, info: quiet, warn: quiet, error: quiet, child: () => logger };

/** Where a session ends before its cycle does. */
export interface Ending {
  /** Batches and pieces of a survey it lets through. */
  readonly steps: number;
  /** What was sent and is in no point is gone with it. */
  readonly loses?: boolean;
  /** The point is made, or refused, and the agent does not hear of it. */
  readonly answer?: 'lost' | 'root-mismatch';
}

/** What a start after a crash is judged by. */
export interface AgentModel {
  readonly replica: Replica;
  /** Content of every block that was ever read, by its leaf. */
  readonly contents: ReadonlyMap<string, Buffer>;
  /** The leaf file was given up as worthless, and is all zeros now. */
  readonly blank: boolean;
}

function endless(): Ending {
  return { steps: Infinity };
}

export class AgentRun {
  files: SimulatedFiles;
  /** Between the agent and its disk. */
  door: (files: Files) => Files = (files) => files;
  replica = new Replica(blockSize);
  #contents = new Map<string, Buffer>();
  #capture: NbdCapture | null = null;
  #disk: ReplicaDisk | null = null;
  #inSession = false;
  /** The process is about to end, or has. */
  #ended = false;
  #fill = 0;
  /** Found so at the last start: it stays the reason of the resync until the state file knows of its point. */
  #leavesLostBefore = false;

  /** Default: a disk that was never protected. */
  constructor(files = newDisk(imageBytes, 1_000_001)) {
    this.files = files;
  }

  /** On what a crash left. */
  static after(files: SimulatedFiles, model: AgentModel): AgentRun {
    const run = new AgentRun(files);
    run.replica = model.replica.copy();
    run.#contents = new Map(model.contents);
    run.#fill = 100;
    return run;
  }

  model(): AgentModel {
    const leaves = this.#disk?.leaves;
    const blank = !leaves || isZero(leaves.committedLeavesOf(0, leaves.geometry.blockCount));
    return { replica: this.replica.copy(), contents: this.#contents, blank };
  }

  get capture(): NbdCapture {
    if (!this.#capture) throw new Error('the agent runs');
    return this.#capture;
  }

  get disk(): ReplicaDisk {
    if (!this.#disk) throw new Error('the agent runs');
    return this.#disk;
  }

  // ---- the agent's life -----------------------------------------------------------------------------------------------------

  /** As `main` does it. */
  async start(): Promise<void> {
    const files = this.door(this.files);
    this.#disk = null;
    const state = await readDiskState(files, directory, 'vda');
    this.#leavesLostBefore = state?.resync === 'leaves-lost';
    const capture = await openCapture(this.files, { files, hadLog: state !== null });
    this.#capture = capture;
    const read = capture.readBlocks.bind(capture);
    capture.readBlocks = async (first, into) => {
      await read(first, into);
      const { blockSize } = capture.geometry;
      for (let at = 0; at < into.byteLength; at += blockSize) {
        const block = into.subarray(at, at + blockSize);
        if (isZero(block)) continue;
        const leaf = hexOf(leafOf(this.disk.leafKey, block));
        if (!this.#contents.has(leaf)) this.#contents.set(leaf, Buffer.from(block));
      }
    };
    this.#inSession = false;
    try {
      this.#disk = await ReplicaDisk.open({ capture, files, directory, state });
    } catch (error) {
      await capture.close();
      throw error;
    }
  }

  /** After a fault that ended what the agent was about: the session is over and the next one comes, or the process is, and is started again. */
  async recover(): Promise<void> {
    if (!this.#disk || this.#ended) {
      await this.start();
      this.#ended = false;
      return;
    }
    this.disk.sessionEnded();
    this.#inSession = false;
    await this.disk.mend();
  }

  async reopen(meanwhile: (image: SparseBytes) => void = () => undefined): Promise<void> {
    this.endSession();
    this.#ended = true;
    await this.disk.close();
    const image = this.files.content(imagePath).copy();
    meanwhile(image);
    if (image.size !== this.capture.size || image.differences(this.files.content(imagePath)).length > 0)
      this.files.plant(imagePath, image);
    await this.start();
    this.#ended = false;
  }

  async kill(): Promise<void> {
    this.files = this.files.kill();
    await this.start();
  }

  endSession(): void {
    if (this.#inSession) this.disk.sessionEnded();
    this.#inSession = false;
  }

  /** A cycle, with whatever has to come before it; the session goes on, unless it is ended. */
  async cycle(ending: Ending = endless(), meanwhile: () => Promise<void> = () => Promise.resolve()): Promise<void> {
    const session = new ScriptedSession(this, ending);
    const pace = async (): Promise<void> => {
      await meanwhile();
    };
    const counters = newCounters();
    const flight = new FlightLog(counters, stillClock);
    const common = { session: session.asSession, clock: stillClock, counters, flight, builders, pace };
    try {
      this.#meet();
      this.disk.beginRequested();
      this.#meet();
      const gate = new ResyncGate({
        window: () => ({ open: true }),
        clock: stillClock,
        pause: () => Promise.resolve(),
      });
      const ahead = await resyncDisk({ ...common, hasher: session.hasher, gate, logger }, 0, this.disk);
      const points = new PointsInFlight(stillClock, common.counters);
      const sending = (): void => undefined;
      const disks = [this.disk];
      const outcome = await runCycle({
        ...common,
        disks,
        ahead: [ahead],
        points,
        sending,
        cutAll,
        evidence: () => null,
      });
      if (outcome.kind !== 'sent') throw new Error(`the cycle was ${JSON.stringify(outcome)}`);
      await this.#answered(session.answer);
    } catch (error) {
      if (error !== session.reason) throw error;
      this.endSession();
      if (ending.loses === true) this.replica.loseLayers();
    }
  }

  /** As the agent takes an answer: null is `root-mismatch`. */
  async #answered(point: number | null): Promise<void> {
    if (point === null) {
      this.endSession();
      this.disk.distrustLeaves();
      return;
    }
    this.disk.committed(point);
    await this.disk.fold();
  }

  /** OPEN_DISK, OPENED and LEAVES, until they are of use. */
  #meet(): void {
    const { disk } = this;
    while (!this.#inSession || disk.reopeningDue) {
      this.endSession();
      const { opened, leaves } = this.replica.open(disk.knownPoint, disk.capture.geometry.size);
      disk.opened(opened);
      disk.lay({ last: true, pairs: leaves });
      this.#inSession = true;
    }
  }

  repair(): void {
    this.#meet();
    this.disk.requestRepair([1, 2]);
  }

  // ---- what writers do ------------------------------------------------------------------------------------------------------

  /** Over a page's edge, in the small region. */
  async writeA(): Promise<void> {
    const fill = (this.#fill += 1);
    await this.capture.write(Buffer.alloc(700, fill), regionBytes + 3 * pageBytes - 300 + (fill % 3) * 100_000, false);
  }

  /** All of a block, and some of its neighbours. */
  async writeB(): Promise<void> {
    const fill = (this.#fill += 1);
    await this.capture.write(Buffer.alloc(blockSize + 9000, fill), 20 * blockSize - 4500, fill % 2 === 0);
  }

  async zero(): Promise<void> {
    await this.capture.zero(19 * blockSize + 3 * pageBytes, 2 * blockSize, false, true);
  }

  // ---- what must hold ---------------------------------------------------------------------------------------------------------

  /**
   * Invariant 1 of `disk-memory.ts`: what a block's leaf does not say of it is marked, page by page; and leaves as of a point are those the
   * target recorded for it.
   */
  expectRemembered(): void {
    const { disk, capture } = this;
    const image = this.files.content(imagePath);
    const { knownPoint, leaves } = disk;
    const { blockCount } = capture.geometry;
    const committed = leaves.committedLeavesOf(0, blockCount);
    for (let block = 0; block < blockCount; block += 1) {
      const leaf = committed.subarray(block * zeroLeaf.byteLength, (block + 1) * zeroLeaf.byteLength);
      const recorded = knownPoint === null ? leaf : this.replica.leafAt(knownPoint, block);
      if (recorded === null || Buffer.compare(leaf, recorded) !== 0)
        throw new Error(`block ${block}: the leaf is not that of point ${knownPoint}`);
      const mask = capture.currentMask(block);
      if (mask === fullMask) continue;
      const differing = maskOfDifference(image.padded(looked, block * blockSize), this.#contentOf(leaf));
      if ((differing & ~mask) !== 0)
        throw new Error(
          `block ${block} differs from its leaf in the pages ${differing.toString(2)}, marked are ${mask.toString(2)}`,
        );
    }
  }

  #contentOf(leaf: Uint8Array): Buffer | null {
    return Buffer.compare(leaf, zeroLeaf) === 0 ? zeroBlock : (this.#contents.get(hexOf(leaf)) ?? null);
  }

  /** A kill tears nothing: a leaf file that counted counts, so nothing is hashed again that was durable. */
  expectFound(): void {
    if (this.disk.resyncReason === 'leaves-lost' && !this.#leavesLostBefore)
      throw new Error('the leaf file counts no more');
  }

  /** Nobody writes: the newest point is the disk. */
  expectReplicated(): void {
    const image = this.files.content(imagePath);
    for (let block = 0; block < this.capture.geometry.blockCount; block += 1) {
      if (!image.padded(looked, block * blockSize).equals(this.replica.bytesOf(block) ?? zeroBlock))
        throw new Error(`block ${block} of the point is not the disk's`);
    }
  }
}

/** What of a session cycles and resyncs use. */
class ScriptedSession implements Pick<
  Session,
  'isOver' | 'ended' | 'beginLayer' | 'sendBatch' | 'sendPoint' | 'compare'
> {
  readonly reason = new Problem('closed', 'the script ends the session', { retryable: true });
  readonly ended = Promise.resolve(this.reason);
  isOver = false;
  /** The point that was made of POINT; null: it was refused. */
  answer: number | null = null;
  readonly #run: AgentRun;
  readonly #ending: Ending;
  #steps = 0;

  constructor(run: AgentRun, ending: Ending) {
    this.#run = run;
    this.#ending = ending;
  }

  get asSession(): Session {
    return this as unknown as Session;
  }

  get hasher(): BlockHasher {
    const inline = inlineHasher(stillClock);
    return {
      width: inline.width,
      hash: (...what) => {
        this.#step();
        return inline.hash(...what);
      },
    };
  }

  beginLayer(): Promise<number> {
    const seq = 2 ** 32 + this.#run.replica.nextCounter;
    this.#run.replica.layer(seq);
    return Promise.resolve(seq);
  }

  async sendBatch(frame: Uint8Array): Promise<void> {
    this.#step();
    if (this.isOver) throw this.reason;
    for (const record of batchRecords(frame.subarray(frameHeaderBytes))) this.#run.replica.take(record);
    await Promise.resolve();
  }

  sendPoint(...[{ disks }]: Parameters<Session['sendPoint']>): Promise<void> {
    const [disk] = disks;
    if (!disk) throw new Error('a point of no disk');
    if (this.#ending.answer === 'root-mismatch') return Promise.resolve();
    this.answer = this.#run.replica.commit(disk.root, disk.layers);
    if (this.#ending.answer !== 'lost') return Promise.resolve();
    this.isOver = true;
    return Promise.reject(this.reason);
  }

  compare(...[, checksums]: Parameters<Session['compare']>): ReturnType<Session['compare']> {
    return Promise.resolve(this.#run.replica.compare(checksums));
  }

  #step(): void {
    this.#steps += 1;
    this.isOver ||= this.#steps > this.#ending.steps;
  }
}

function hexOf(leaf: Uint8Array): string {
  return Buffer.from(leaf).toString('hex');
}

/** Of a content nobody knows every page differs. */
function maskOfDifference(bytes: Buffer, from: Buffer | null): number {
  if (from === null) return fullMask;
  if (bytes.equals(from)) return 0;
  let mask = 0;
  for (let page = 0; page < 16; page += 1) {
    const [start, end] = [page * pageBytes, (page + 1) * pageBytes];
    if (!bytes.subarray(start, end).equals(from.subarray(start, end))) mask |= 1 << page;
  }
  return mask;
}

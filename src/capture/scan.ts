/**
 * Capture by comparison, for sources nobody can stand in front of: snapshots of a volume or file system, images of machines that are off, dumps.
 * The image is opened for reading alone. There is no change log: what the agent's leaf file says of the target is the memory, and in each cycle
 * the agent compares the whole disk with it and marks what differs. So everything here is memory, and may be lost with the process.
 *
 * Each cycle opens the path anew, because the next snapshot is another file under the same name; within a cycle every read goes to the file it
 * began with.
 *
 * Invariants:
 *  1. A cut claims `crash` only of a source declared frozen, and only if size and times of its file, or the sectors written to its device, are what they were when the
 *     cycle began: a declaration the source contradicts voids the cut.
 *  2. A source that is gone, unreadable or smaller changes nothing: neither sets nor geometry nor the file in use.
 */
import { invariant } from '../kit/invariant.ts';
import { Problem } from '../kit/problem.ts';
import { geometryOf, type Geometry } from '../disk/geometry.ts';
import { fullMask } from '../disk/page-mask.ts';
import type { File, FileFacts, Files } from '../posix/files.ts';
import type { CaptureDisk } from './contract.ts';
import type { Cuttable } from './cut.ts';
import { DirtySets } from './dirty-sets.ts';
import { openImage, readBlocksOf } from './image.ts';
import { layoutOf } from './log-layout.ts';
import { WriteGate } from './write-gate.ts';

export interface ScanCaptureOptions {
  readonly files: Files;
  /** The source: a regular file or block device. */
  readonly image: string;
  /** The disk's name. */
  readonly name: string;
  /** Bytes. */
  readonly blockSize: number;
  /** The operator's word that nobody writes to the source during a cycle. */
  readonly frozen: boolean;
}

/** @throws Problem `not-found`, `bad-image`, `bad-geometry`. */
export async function openScanCapture(options: ScanCaptureOptions): Promise<ScanCapture> {
  const image = await openImage(options.files, options.image, 'read');
  try {
    return new ScanCapture(options, image, geometryOf(image.facts().size, options.blockSize));
  } catch (error) {
    await image.close();
    throw error;
  }
}

/** What others wrote to a device is counted only once it has left the page cache; what is read may come from there. */
async function settle(image: File): Promise<void> {
  if (image.facts().kind === 'block-device') await image.datasync();
}

export class ScanCapture implements CaptureDisk, Cuttable {
  readonly tracking = 'scan';
  readonly logLoss = null;
  readonly logFailure = null;
  readonly writesAccepted = 0;
  readonly changedBytes = 0;
  readonly name: string;
  readonly consistency: 'crash' | 'none';
  readonly #options: ScanCaptureOptions;
  readonly #reads = new WriteGate();
  #image: File;
  #asBegun: FileFacts;
  #geometry: Geometry;
  #sets: DirtySets;
  #inCut = false;
  #closing: Promise<void> | null = null;

  constructor(options: ScanCaptureOptions, image: File, geometry: Geometry) {
    this.#options = options;
    this.#image = image;
    this.#asBegun = image.facts();
    this.#geometry = geometry;
    this.#sets = new DirtySets(layoutOf(geometry));
    this.name = options.name;
    this.consistency = options.frozen ? 'crash' : 'none';
  }

  get geometry(): Geometry {
    return this.#geometry;
  }

  get source(): CaptureDisk['source'] {
    return { path: this.#options.image, inode: this.#asBegun.inode };
  }

  get currentBlocks(): number {
    return this.#sets.current.size;
  }

  get currentBytes(): number {
    return this.#sets.currentBytes;
  }

  get uncommittedBytes(): number {
    return this.#sets.uncommittedBytes;
  }

  /** Invariant 1. */
  get cutVoid(): string | null {
    if (!this.#inCut || !this.#options.frozen || !this.#changed()) return null;
    return `${this.#options.image} is declared frozen and was changed during the cycle`;
  }

  async beginCycle(): Promise<'same' | 'grown'> {
    this.#refuseClosed();
    invariant(this.#sets.sending.size === 0 && !this.#inCut, 'a cycle begins when the last one has ended');
    const image = await openImage(this.#options.files, this.#options.image, 'read');
    let geometry: Geometry;
    try {
      geometry = this.#grownGeometry(image.facts().size);
      await settle(image);
      this.#refuseClosed();
    } catch (error) {
      await image.close();
      throw error;
    }
    const before = this.#image;
    const grown = geometry.size > this.#geometry.size;
    this.#image = image;
    this.#asBegun = image.facts();
    if (grown) this.#grow(geometry);
    await before.close();
    return grown ? 'grown' : 'same';
  }

  swap(): number {
    return this.#sets.swap();
  }

  sending(from = 0): Iterable<readonly [block: number, mask: number]> {
    return this.#sets.sending.entries(from);
  }

  currentMask(block: number): number {
    return this.#sets.current.get(block);
  }

  async readBlocks(first: number, into: Uint8Array): Promise<void> {
    this.#refuseClosed();
    void this.#reads.enter();
    try {
      await readBlocksOf(this.#image, this.#geometry, first, into);
      if (this.#inCut && this.#options.frozen) await settle(this.#image);
      this.#refuseVoid();
    } finally {
      this.#reads.leave();
    }
  }

  mark(block: number, mask: number): void {
    this.#sets.current.add(block, mask);
  }

  markAll(): void {
    this.#sets.markAll();
  }

  endSending(): void {
    this.#refuseVoid();
    this.#sets.endSending();
    this.#inCut = false;
  }

  forget(): Promise<void> {
    this.#sets.forget(() => undefined);
    return Promise.resolve();
  }

  forgetSending(from: number, to: number): Promise<void> {
    invariant(!this.#inCut, 'a cut forgets nothing but by its commit');
    this.#sets.forgetSending(from, to, () => undefined);
    return Promise.resolve();
  }

  giveUp(): void {
    this.#inCut = false;
    this.#sets.giveUp();
  }

  close(): Promise<void> {
    this.#closing ??= this.#reads.drained().then(() => this.#image.close());
    return this.#closing;
  }

  // ---- Cuttable: there are no writers to hold -------------------------------------------------------------------------------

  get canCut(): boolean {
    return this.#closing === null && this.#sets.sending.size === 0;
  }

  writesCalm(): undefined {
    return undefined;
  }

  holdWrites(): void {
    // Nobody writes through this capture.
  }

  writesDrained(): Promise<void> {
    return Promise.resolve();
  }

  swapInCut(): number {
    this.#sets.swap();
    this.#inCut = true;
    return this.writesAccepted;
  }

  releaseWrites(): void {
    // Nobody was held.
  }

  // ---- inside ---------------------------------------------------------------------------------------------------------------

  #changed(): boolean {
    const now = this.#image.facts();
    const then = this.#asBegun;
    if (now.size !== then.size || now.inode !== then.inode) return true;
    // Of a partition its own count: its neighbours are nobody's business here, and would void every cut.
    if (now.kind === 'block-device') return now.sectorsWritten?.here !== then.sectorsWritten?.here;
    return now.mtimeNs !== then.mtimeNs || now.ctimeNs !== then.ctimeNs;
  }

  #refuseVoid(): void {
    const reason = this.cutVoid;
    if (reason !== null) throw new Problem('cut-void', `the cut is void: ${reason}`, { retryable: true });
  }

  #refuseClosed(): void {
    if (this.#closing) throw new Problem('ESHUTDOWN', `disk ${this.name} is being closed`, { retryable: true });
  }

  /** @throws Problem `shrunk`, `bad-geometry`. */
  #grownGeometry(size: number): Geometry {
    const known = this.#geometry.size;
    if (size < known) {
      throw new Problem(
        'shrunk',
        `the source ${this.#options.image} of ${this.name} has ${size} bytes, it had ${known}`,
        {
          remedy: 'give the source its size back, or unprotect the disk and protect it anew',
        },
      );
    }
    return geometryOf(size, this.#geometry.blockSize);
  }

  /** What was the last block may have been padded, and what lies behind it is new; both are in current. */
  #grow(geometry: Geometry): void {
    const { blockCount, blockSize, size } = this.#geometry;
    const before = this.#sets;
    const firstNew = size % blockSize === 0 ? blockCount : blockCount - 1;
    this.#geometry = geometry;
    this.#sets = new DirtySets(layoutOf(geometry));
    before.giveUp();
    for (const [block, mask] of before.current.entries()) this.#sets.current.add(block, mask);
    for (let block = firstNew; block < geometry.blockCount; block += 1) this.#sets.current.add(block, fullMask);
  }
}

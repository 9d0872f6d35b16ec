/**
 * The write splitter: the disk that a machine uses through NBD (`Backend`), and the capture an agent drives (`CaptureDisk`), in one.
 *
 * A change goes: gate (a cut may hold it) → pin its regions (durably hot) → mark its blocks → save old pages a cut still needs → image →
 * unpin → leave the gate → sync, if it was asked for → answer. A swap meanwhile marks its blocks again.
 *
 * Invariants:
 *  1. Marked before issued, and durably hot before that (C3).
 *  2. What is in flight is in current, at any time: a swap marks it again at once. So a block read in a round is read again after the data
 *     arrived, and whatever a read may have seen of it is in `currentMask`, however many rounds it lasts. Under a cut nothing is in flight.
 *  3. Capture never fails a writer; the image's own errors reach it, and marks stay.
 *  4. A failed write marks like any other: what it left behind is unknown.
 *  5. Requests longer than `pieceRegions` regions are done in pieces, so that no request needs more pins than there are slots.
 *  6. A small write to hot regions that nothing holds back goes the same way within one turn of the event loop: no cut, swap or sync can come in
 *     between, so it needs neither pin nor place among what is in flight.
 */
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { Serial } from '../kit/serial.ts';
import type { Geometry } from '../disk/geometry.ts';
import type { Backend, Extent } from '../nbd/backend.ts';
import type { File } from '../posix/files.ts';
import type { ChangeLog } from './change-log.ts';
import type { CaptureDisk, LogLoss } from './contract.ts';
import type { Cuttable } from './cut.ts';
import type { DirtySets } from './dirty-sets.ts';
import { backendProblem, readBlocksOf, readWhole, zeroRange } from './image.ts';
import { ImageSyncs } from './image-syncs.ts';
import { regionOfBlock, type LogLayout } from './log-layout.ts';
import { OldPages } from './old-pages.ts';
import { clientReadBytesMax, QuickReads } from './quick-reads.ts';
import { QuickWrites } from './quick-writes.ts';
import { WriteGate } from './write-gate.ts';

/** Gives the image one piece of a change. */
type Issue = (at: number, length: number) => Promise<void>;

/** A request's piece spans at most this many regions. */
const pieceRegionsMax = 16;

export interface SplitterParts {
  readonly name: string;
  readonly clock: Clock;
  readonly layout: LogLayout;
  readonly image: File;
  readonly sets: DirtySets;
  readonly logLoss: LogLoss | null;
  readonly hotRegionsMax: number;
  readonly memoryBytesMax: number;
  readonly scratchBytesMax: number;
  readonly openScratch: () => Promise<File>;
  /** Ends log, image and lock, in that order, after the last write; `synced` tells whether the image's last sync succeeded. */
  readonly finish: (synced: boolean) => Promise<void>;
}

export class NbdCapture implements CaptureDisk, Backend, Cuttable {
  readonly readOnly = false;
  readonly multiConnection = true;
  readonly tracking = 'writes';
  readonly consistency = 'crash';
  readonly preferredBytes: number;
  readonly name: string;
  readonly geometry: Geometry;
  readonly size: number;
  readonly logLoss: LogLoss | null;
  readonly source: CaptureDisk['source'];
  readonly #parts: SplitterParts;
  readonly #image: File;
  readonly #sets: DirtySets;
  readonly #log: ChangeLog;
  readonly #reads: QuickReads;
  /** Reads of whole blocks, for the agent. */
  readonly #pieces: QuickReads;
  readonly #writes: QuickWrites;
  readonly #syncs: ImageSyncs;
  readonly #pieceRegions: number;
  readonly #gate = new WriteGate();
  /** All requests, whether a cut waits for them or not. */
  readonly #requests = new WriteGate();
  readonly #cutEnds = new Serial();
  /** Pieces of changes that are marked and whose data may or may not have arrived. */
  readonly #inFlight = new Set<{ readonly at: number; readonly length: number }>();
  #cut: OldPages | null = null;
  #closing: Promise<void> | null = null;

  constructor(parts: SplitterParts, log: ChangeLog) {
    this.#parts = parts;
    this.#image = parts.image;
    this.#sets = parts.sets;
    this.#log = log;
    this.#reads = new QuickReads(parts.image, clientReadBytesMax);
    this.#pieces = new QuickReads(parts.image, limits.disk.blockBytesMax);
    this.#writes = new QuickWrites(parts.image, parts.clock);
    this.#syncs = new ImageSyncs(parts.image, log);
    this.name = parts.name;
    this.geometry = parts.layout.geometry;
    this.size = this.geometry.size;
    this.preferredBytes = this.geometry.pageSize;
    this.logLoss = parts.logLoss;
    this.source = { path: parts.image.path, inode: parts.image.facts().inode };
    this.#pieceRegions = Math.max(1, Math.min(pieceRegionsMax, Math.floor(parts.hotRegionsMax / 2)));
  }

  // ---- Backend: the disk a machine uses -------------------------------------------------------------------------------------

  async read(into: Uint8Array, offset: number): Promise<void> {
    await this.#request(() => readWhole(this.#image, into, offset));
  }

  write(data: Uint8Array, offset: number, fua: boolean): Promise<void> {
    return this.#change(offset, data.byteLength, fua, async (at, length) => {
      if (length === data.byteLength && this.#writes.takes(length, at)) {
        this.#writes.write(data, at);
        return;
      }
      await this.#image.write(
        [length === data.byteLength ? data : data.subarray(at - offset, at - offset + length)],
        at,
      );
    });
  }

  /** Never waits: what is not in the page cache is left to `read`. */
  readNow(into: Uint8Array, offset: number): boolean {
    if (this.#closing) return false;
    try {
      return this.#reads.tryRead(into, offset);
    } catch (error) {
      throw backendProblem(error);
    }
  }

  /** Invariant 6. */
  writeNow(data: Uint8Array, offset: number): boolean {
    const { byteLength: length } = data;
    if (this.#closing || !this.#writes.takes(length, offset) || this.#cut?.isUnread(offset, length) === true)
      return false;
    const { regionBytes } = this.#parts.layout;
    const last = Math.floor((offset + length - 1) / regionBytes);
    if (this.#gate.isHeld || !this.#log.tryUse(Math.floor(offset / regionBytes), last)) return false;
    this.#gate.pass();
    this.#sets.markRange(offset, length);
    try {
      this.#writes.write(data, offset);
    } catch (error) {
      throw backendProblem(error);
    } finally {
      this.#syncs.changed();
    }
    return true;
  }

  zero(offset: number, length: number, fua: boolean, mayUnmap: boolean): Promise<void> {
    return this.#change(offset, length, fua, (at, bytes) => zeroRange(this.#image, at, bytes, mayUnmap));
  }

  async flush(): Promise<void> {
    await this.#request(() => this.syncImage());
  }

  extents(offset: number, length: number): Promise<readonly Extent[]> {
    const found: Extent[] = [];
    for (let done = 0; done < length && found.length < limits.capture.extentsPerCallMax;) {
      const { hole, length: bytes } = this.#image.extentSync(offset + done, length - done);
      const last = found.at(-1);
      if (last?.hole === hole) found[found.length - 1] = { length: last.length + bytes, zero: hole, hole };
      else found.push({ length: bytes, zero: hole, hole });
      done += bytes;
    }
    return Promise.resolve(found);
  }

  // ---- CaptureDisk: what an agent drives ------------------------------------------------------------------------------------

  get currentBlocks(): number {
    return this.#sets.current.size;
  }

  get currentBytes(): number {
    return this.#sets.currentBytes;
  }

  get changedBytes(): number {
    return this.#sets.changedBytes;
  }

  get uncommittedBytes(): number {
    return this.#sets.uncommittedBytes;
  }

  currentMask(block: number): number {
    return this.#sets.current.get(block);
  }

  get writesAccepted(): number {
    return this.#gate.accepted;
  }

  get cutVoid(): string | null {
    return this.#cut?.voidReason ?? null;
  }

  get logFailure(): string | null {
    return this.#log.failure;
  }

  /** A machine is using the disk as it was opened: neither its size nor its file change before the next start. */
  beginCycle(): Promise<'same'> {
    return Promise.resolve('same');
  }

  swap(): number {
    const blocks = this.#sets.swap();
    for (const { at, length } of this.#inFlight) this.#sets.markRange(at, length); // 2
    return blocks;
  }

  sending(from = 0): Iterable<readonly [block: number, mask: number]> {
    return this.#sets.sending.entries(from);
  }

  readBlocks(first: number, into: Uint8Array): Promise<void> {
    const { blockSize } = this.geometry;
    const cut = this.#cut;
    return this.#request(async () => {
      await readBlocksOf(this.#image, this.geometry, first, into, this.#pieces);
      for (let at = 0; cut && at < into.byteLength; at += blockSize) {
        const block = first + at / blockSize;
        invariant(this.#sets.sending.get(block) !== 0, 'under a cut only blocks of sending are read');
        await cut.settle(block, into.subarray(at, at + blockSize));
      }
    }, false);
  }

  mark(block: number, mask: number): void {
    this.#sets.current.add(block, mask);
    this.#log.touch(regionOfBlock(this.#parts.layout, block));
    void this.#log.persist();
  }

  markAll(): void {
    this.#sets.markAll();
    for (let region = 0; region < this.#parts.layout.regionCount; region += 1) this.#log.touch(region);
    void this.#log.persist();
  }

  endSending(): void {
    const reason = this.cutVoid;
    if (reason !== null) throw new Problem('cut-void', `the cut is void: ${reason}`, { retryable: true });
    this.#sets.endSending();
    this.#endCut();
  }

  forget(): Promise<void> {
    this.#sets.forget((region) => this.#log.touch(region));
    return this.#log.persist();
  }

  forgetSending(from: number, to: number): Promise<void> {
    invariant(!this.#cut, 'a cut forgets nothing but by its commit');
    this.#sets.forgetSending(from, to, (region) => this.#log.touch(region));
    return this.#log.persist();
  }

  giveUp(): void {
    this.#endCut();
    this.#sets.giveUp();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  // ---- Cuttable -------------------------------------------------------------------------------------------------------------

  get canCut(): boolean {
    return this.#closing === null && this.#sets.sending.size === 0;
  }

  holdWrites(): void {
    this.#gate.hold();
  }

  writesCalm(): Promise<void> | undefined {
    return this.#log.pinsGranted();
  }

  writesDrained(): Promise<void> {
    return this.#gate.drained();
  }

  swapInCut(): number {
    this.#sets.swap();
    const { geometry, memoryBytesMax, scratchBytesMax, openScratch } = { ...this.#parts, geometry: this.geometry };
    this.#endCut();
    this.#cut = new OldPages({
      geometry,
      image: this.#image,
      sending: this.#sets.sending,
      memoryBytesMax,
      scratchBytesMax,
      openScratch,
    });
    return this.#gate.included;
  }

  releaseWrites(): void {
    this.#gate.release();
  }

  // ---- inside ---------------------------------------------------------------------------------------------------------------

  /** Makes durable every write that has ended, and tells the log so. */
  syncImage(): Promise<void> {
    return this.#syncs.run();
  }

  #change(offset: number, length: number, fua: boolean, issue: Issue): Promise<void> {
    return this.#request(async () => {
      await this.#throughGate(offset, length, issue);
      // A cut that has the data need not wait until it is durable.
      if (fua) await this.syncImage();
    });
  }

  async #throughGate(offset: number, length: number, issue: Issue): Promise<void> {
    const held = this.#gate.enter();
    if (held) await held;
    try {
      const { regionBytes } = this.#parts.layout;
      const end = offset + length;
      for (let at = offset; at < end;) {
        const first = Math.floor(at / regionBytes);
        const pieceEnd = Math.min(end, (first + this.#pieceRegions) * regionBytes);
        await this.#piece(at, pieceEnd - at, first, issue);
        at = pieceEnd;
      }
    } finally {
      this.#gate.leave();
    }
  }

  async #piece(at: number, length: number, first: number, issue: Issue): Promise<void> {
    const last = Math.floor((at + length - 1) / this.#parts.layout.regionBytes);
    const pinning = this.#log.pin(first, last);
    if (pinning) await pinning;
    const inFlight = { at, length };
    this.#inFlight.add(inFlight);
    try {
      this.#sets.markRange(at, length);
      const saving = this.#cut?.save(at, length);
      if (saving) await saving;
      await issue(at, length);
    } finally {
      this.#inFlight.delete(inFlight);
      this.#syncs.changed();
      this.#log.unpin(first, last);
    }
  }

  async #request(run: () => Promise<void>, forClient = true): Promise<void> {
    this.#refuseClosed();
    void this.#requests.enter();
    try {
      await run();
    } catch (error) {
      throw forClient ? backendProblem(error) : error;
    } finally {
      this.#requests.leave();
    }
  }

  #refuseClosed(): void {
    if (this.#closing) throw new Problem('ESHUTDOWN', `disk ${this.name} is being closed`, { retryable: true });
  }

  #endCut(): void {
    const cut = this.#cut;
    this.#cut = null;
    if (cut) void this.#cutEnds.run(() => cut.end());
  }

  async #close(): Promise<void> {
    await this.#requests.drained();
    this.giveUp();
    await this.#cutEnds.idle();
    let synced = true;
    try {
      await this.syncImage();
    } catch {
      synced = false;
    }
    await this.#parts.finish(synced);
  }
}

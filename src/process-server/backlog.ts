/**
 * What is on its way to one machine's target, in the order the agent sent it, whatever order the workers finish in (SPOOL.md, "When").
 *
 *   flying (on disk) ─┤cursor├─ unread (on disk) ─┤ sent (in memory) ── unsent (in memory)
 *   ◄──── sent, not answered                        sent, not answered  ◄──── push
 *
 * Invariants:
 *  1. Left to right is the order of the agent. What is in memory is newer than all on disk; something in memory was sent only if nothing on disk is unread.
 *  2. Where answers are not kept for (`keep` false: no spool, or a target that can not take a layer up again), only batches are remembered behind
 *     their sending, and nothing of theirs but their number.
 *  3. CYCLE and GAP are forgotten when they were sent: a layer that goes on brings its CYCLE along (`sender.ts`). A GAP that a connection took along is
 *     not told again.
 *  4. What waits in memory is bounded: batches by the window, and, with what each costs beside its bytes, by `controlQueueBytesMax` (`full` tells the
 *     session to stop reading). On disk by room; of what was read from there by `spoolFlightsMax`.
 *  5. Memory has users: the backlog while the entry is in it, a sender and a writer while they use it. The last gives it back.
 */
import { Problem } from '../kit/problem.ts';
import { KiB } from '../kit/sizes.ts';
import { limits } from '../limits.ts';
import { Flights } from './flights.ts';
import { frameAt } from './seal-batch.ts';
import { Signal } from './signal.ts';
import type { Slabs } from './slabs.ts';
import type { LayerStart, Place, SpoolLog } from './spool-log.ts';
import type { PointMessage } from '../wire/point.ts';
import type { WaitingPoints } from './waiting-points.ts';
import type { Waits } from './waits.ts';
import { entryOfDisk, newEntry, type Durably, type Kept, type SealedBatch } from './kept.ts';

const { controlQueueBytesMax, spoolFlightsMax } = limits.processServer;
/** Of a batch that waits, beside its bytes: it may be one of zeros, of 64. */
const batchBytes = 2 * KiB;

export interface BacklogOptions {
  readonly slabs: Slabs;
  readonly waits: Waits;
  readonly points: WaitingPoints;
  /** A batch takes nothing of the window any more: the target has it, or the spool. Told once per batch. */
  readonly freed: (entry: Kept, by: 'target' | 'spool') => void;
  /** `full` became false again. */
  readonly onRoom: () => void;
  /** A sender that came for more finds nothing left, and nothing kept. */
  readonly onEmpty: () => void;
}

export class Backlog {
  readonly changed = new Signal();
  keep = false;
  readonly #options: BacklogOptions;
  #log: SpoolLog | null = null;
  #flying: Kept[] = [];
  #sent: Kept[] = [];
  #unsent: Kept[] = [];
  readonly #flights = new Flights();
  #waitingBytes = 0;
  #writing: Kept | null = null;
  /** Of what is being read: neither unread nor flying for a while. */
  #reading: Place | null = null;
  /** The target may have batches that were not sent to it on this connection. */
  #isSecondTime = false;
  /** All up to this POINT is known to be committed. */
  #skipThrough: number | null = null;
  #ended: Error | null = null;

  constructor(options: BacklogOptions) {
    this.#options = options;
  }

  get full(): boolean {
    return this.#waitingBytes > controlQueueBytesMax;
  }

  /** Nothing is to be sent, and nothing kept. */
  get isEmpty(): boolean {
    return this.#unsent.length === 0 && this.#sent.length === 0 && this.isDiskEmpty;
  }

  get isDiskEmpty(): boolean {
    return this.#flying.length === 0 && (this.#log?.unreadBytes ?? 0) === 0 && this.#writing === null;
  }

  /** When the oldest batch in memory that the target has not answered was sent, monotonic; null: none is. */
  get oldestSentAtMs(): number | null {
    const oldest = this.#sent.find(({ kind, answered }) => kind === 'sealed' && !answered);
    return oldest && oldest.sentAtMs > 0 ? oldest.sentAtMs : null;
  }

  get unreadBytes(): number {
    return this.#log?.unreadBytes ?? 0;
  }

  /** From now on entries may be written to `log`. */
  spoolTo(log: SpoolLog): void {
    this.#log = log;
    this.#isSecondTime ||= log.unreadBytes > 0;
  }

  // ---- what comes -----------------------------------------------------------------------------------------------------------

  control(frame: Uint8Array, ready?: () => Promise<void>, waitingBytes = 0): void {
    this.#push(
      newEntry({ kind: 'control', frame, costBytes: frame.byteLength + waitingBytes, ...(ready ? { ready } : {}) }),
    );
  }

  gap(frame: Uint8Array): void {
    this.#push(newEntry({ kind: 'gap', frame, costBytes: frame.byteLength }));
  }

  cycle(layer: LayerStart): void {
    this.#push(newEntry({ kind: 'cycle', layer, frame: layer.frame, costBytes: layer.frame.byteLength }));
  }

  /** @throws Problem `protocol-error`: too many wait. */
  point(frame: Uint8Array, message: PointMessage): void {
    const { cutTimeMs } = message;
    if (this.keep) this.#options.points.add(message);
    this.#push(newEntry({ kind: 'point', frame, cutTimeMs, costBytes: frame.byteLength }));
  }

  sealed(batch: SealedBatch): void {
    if (this.keep) this.#options.points.batch(batch.layer.disk, batch.layer.seq);
    // The queue may end before it comes to this outcome; its failure must not count as unhandled then.
    batch.outcome.catch(() => undefined);
    this.#push(newEntry({ kind: 'sealed', costBytes: batchBytes, ...batch }));
  }

  #push(entry: Kept): void {
    if (this.#ended) return;
    this.#waitingBytes += entry.costBytes;
    this.#unsent.push(entry);
    this.changed.notify();
  }

  // ---- what goes ------------------------------------------------------------------------------------------------------------

  /** The next to be sent, once; for one sender at a time; null: the sender is over. Its memory is the sender's until `sent`. Rejects after `end`. */
  async next(isOver: () => boolean): Promise<Kept | null> {
    for (;;) {
      if (this.isEmpty) this.#options.onEmpty();
      if (this.#ended) throw this.#ended;
      if (isOver()) return null;
      const entry = await this.#take();
      if (entry && !this.#passOver(entry)) {
        entry.users += 1;
        return entry;
      }
    }
  }

  /** Waits until the entry is sealed. @throws Problem `leaf-mismatch`. */
  async seal(entry: Kept): Promise<Uint8Array> {
    const sealed = entry.frame ? null : await entry.outcome;
    // Whoever else waited for it may have been first.
    if (entry.frame) return entry.frame;
    if (sealed?.outcome !== 'sealed') {
      throw new Problem('leaf-mismatch', `block ${sealed?.block ?? 0} does not have the leaf its record names`, {
        remedy: 'something flips bits between the disk and here: check the memory of both machines',
        retryable: true,
      });
    }
    entry.slab = sealed.buffer;
    entry.frame = new Uint8Array(sealed.buffer, frameAt, sealed.frameBytes);
    return entry.frame;
  }

  /** The sender is done with it, whether it went out or not. */
  sent(entry: Kept): void {
    if (!this.#isKept(entry)) this.#leavesMemory(entry);
    this.#release(entry);
    if (entry.place && !this.#isKept(entry)) this.#trim();
  }

  /** A POINT was merged into a later one. */
  leaveOut(entry: Kept): void {
    entry.answered = true;
    this.#leavesMemory(entry);
    this.#pop();
  }

  async #take(): Promise<Kept | null> {
    const { waits } = this.#options;
    const log = this.#log;
    // What is being written and was sent before is not unread, though it may be on disk already.
    if (log && log.unreadBytes > 0 && this.#writing?.claimed !== true) {
      if (this.#flying.length < spoolFlightsMax) {
        waits.for('spool');
        return this.#readOne(log);
      }
      waits.for('target');
    } else {
      const entry = this.#unsent.shift();
      if (entry) return this.#claim(entry);
      waits.for('agent');
    }
    await this.changed.wait();
    return null;
  }

  async #readOne(log: SpoolLog): Promise<Kept> {
    let slab: ArrayBuffer | null = null;
    const memory = (bytes: number): Uint8Array => {
      slab = this.#options.slabs.take(frameAt + bytes);
      return new Uint8Array(slab, frameAt, bytes);
    };
    this.#reading = log.next;
    try {
      const entry = this.#claim(entryOfDisk(await log.read(memory), slab));
      if (this.#ended) throw this.#ended;
      return entry;
    } finally {
      this.#reading = null;
    }
  }

  #claim(entry: Kept): Kept {
    entry.claimed = true;
    if (entry.kind === 'sealed' && entry.layer) {
      this.#options.points.sending(entry.layer.disk, entry.layer.seq);
      this.#flights.claim(entry);
    }
    if (!this.#isKept(entry)) return entry;
    if (entry.place) this.#flying.push(entry);
    else this.#sent.push(entry);
    return entry;
  }

  #isKept({ kind }: Kept): boolean {
    return this.keep && (kind === 'sealed' || kind === 'point');
  }

  /** True: the target is known to have it, or it is a CYCLE on disk: each SEALED brings its own along, and of a layer without any none is missed. */
  #passOver(entry: Kept): boolean {
    if (this.#skipThrough !== null) {
      if (entry.kind === 'point' && entry.cutTimeMs === this.#skipThrough) this.#skipThrough = null;
    } else if (entry.kind === 'point') {
      if (!this.keep || this.#options.points.at(entry.cutTimeMs)) return false;
    } else if (entry.kind === 'cycle') {
      if (!entry.place) return false;
    } else if (entry.kind !== 'sealed' || !this.#flights.isDurable(entry)) return false;
    entry.users += 1;
    if (entry.kind === 'sealed') this.#flights.leave(entry);
    this.#answer(entry);
    this.sent(entry);
    this.#pop();
    return true;
  }

  // ---- what is answered -----------------------------------------------------------------------------------------------------

  /** @throws Problem when it names what was never sent. */
  durable(seq: number, batches: number, nowMs: number): Durably {
    const durable = this.#flights.durable(seq, batches, this.#isSecondTime);
    let waitedMs = 0;
    for (const entry of durable) {
      if (entry.sentAtMs > 0) waitedMs += nowMs - entry.sentAtMs; // Else the target has it from another connection.
      this.#answer(entry);
    }
    this.#pop();
    return { batches: durable.length, waitedMs };
  }

  /** POINTs with a cut up to `cutTimeMs` are answered. */
  committed(cutTimeMs: number): void {
    for (const list of [this.#flying, this.#sent]) {
      for (const entry of list) if (entry.kind === 'point' && entry.cutTimeMs <= cutTimeMs) this.#answer(entry);
    }
    this.#pop();
  }

  /** All up to the POINT with this cut is committed, sent on this connection or not. Behind `rewind`. */
  committedThrough(cutTimeMs: number): void {
    this.#skipThrough = cutTimeMs;
    this.changed.notify();
  }

  /** All that is not answered is to be sent again. No sender is at work. */
  rewind(): void {
    this.#isSecondTime = true;
    this.#flights.clear();
    const [first] = this.#flying;
    if (first?.place) {
      this.#log?.rewind(
        first.place,
        this.#flying.map(({ layer }) => layer),
      );
    }
    this.#flying = [];
    const again = this.#sent.filter(({ answered }) => !answered);
    for (const entry of again) [entry.claimed, entry.sentAtMs] = [false, 0];
    // One that is being written is on disk and unread when that is done; unless its answer, or its sending, was first and nothing before it is unread: then
    // the target may have it in a point already. (Where something is, a point with it can not be; to send it twice costs nothing.)
    const writing = this.#writing;
    if (writing) writing.claimed &&= this.unreadBytes === 0 && (writing.answered || !this.#isKept(writing));
    this.#unsent = [...again, ...this.#unsent];
    this.#sent = [];
    this.changed.notify();
  }

  // ---- what goes to disk ----------------------------------------------------------------------------------------------------

  /** The oldest in memory, to be written next; null: there is none that can be. It is the writer's until `written`. */
  beginWrite(): Kept | null {
    const entry = this.#sent[0] ?? this.#unsent[0];
    if (!entry || entry.kind === 'control' || this.#ended) return null;
    this.#writing = entry;
    entry.users += 1;
    return entry;
  }

  /** @param place null: it was not written. */
  written(entry: Kept, place: Place | null): void {
    this.#writing = null;
    this.#release(entry);
    if (place) {
      if (entry.claimed) {
        this.#log?.skip();
        if (this.#sent[0] === entry) this.#flying.push(entry);
      }
      entry.place = place;
      if (entry.kind === 'point') this.#options.points.spooled(entry.cutTimeMs);
      if (this.#sent[0] === entry) this.#sent.shift();
      else if (this.#unsent[0] === entry) this.#unsent.shift();
      this.#leavesMemory(entry, 'spool');
    }
    this.#pop();
    this.#trim(); // What could not go while it was being written to.
  }

  /** What is only in memory is given up. */
  forgetMemory(): void {
    for (const entry of this.#unsent)
      if (entry.kind === 'point' && entry !== this.#writing) this.#options.points.forget(entry.cutTimeMs);
    this.#unsent = [];
    this.#sent = [];
    this.changed.notify();
  }

  /** Drops what waits. Idempotent. */
  end(reason: Error): void {
    this.#ended ??= reason;
    this.changed.notify();
  }

  #answer(entry: Kept): void {
    entry.answered = true;
    if (entry.place) {
      if (entry.kind === 'sealed') this.#options.freed(entry, 'target');
    } else this.#leavesMemory(entry, 'target');
  }

  /** It is on disk, answered, or sent and not kept; or it never counted. */
  #leavesMemory(entry: Kept, by: 'target' | 'spool' | null = null): void {
    if (entry.kind === 'sealed' && by !== null && entry.takesWindow) {
      entry.takesWindow = false;
      this.#options.freed(entry, by);
    }
    if (!entry.counts) return;
    entry.counts = false;
    const before = this.#waitingBytes;
    this.#waitingBytes -= entry.costBytes;
    this.#release(entry);
    if (before > controlQueueBytesMax && this.#waitingBytes <= controlQueueBytesMax) this.#options.onRoom();
  }

  #release(entry: Kept): void {
    entry.users -= 1;
    if (entry.users > 0 || entry.slab === null) return;
    this.#options.slabs.give(entry.slab);
    entry.slab = null;
    entry.frame = null;
  }

  #pop(): void {
    const before = this.#flying.length;
    while (this.#flying[0]?.answered === true) this.#flying.shift();
    while (this.#sent[0]?.answered === true && this.#sent[0] !== this.#writing) this.#sent.shift();
    if (this.#flying.length < before) this.#trim();
  }

  #trim(): void {
    this.#log?.trim(this.#flying[0]?.place ?? this.#reading);
    this.changed.notify();
  }
}

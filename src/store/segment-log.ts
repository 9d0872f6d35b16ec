/**
 * The append side of a machine's segments: one queue, one writer, group commit. Opened by `openSegmentLog` (`segment-recovery.ts`).
 *
 * Invariants:
 *  1. `durable` resolves only after the entry and everything appended before it was written and synced, and resolves in order (C1).
 *  2. A failed write or sync is final for its file (C4): everything not yet durable is refused with `store-failed` (or `full`, when
 *     there was no space), and the next append begins a new segment, whose header says where the given-up one ends.
 *  3. A layer that lost an append takes no more: its later batches are refused, until it is taken up again behind the last durable one. So the durable
 *     batches of a layer are always 0, 1, 2, … without a gap, and a batch left whole in a given-up file can not become the middle of anything.
 *  4. What is queued is the caller's memory and bounded by the credit its sender has (C5); nothing is copied.
 *  5. While `full`, layers and batches are refused; drops and what compaction moves are taken, they are what makes room in the end. Whoever
 *     moves looks first whether there is room for it.
 */
import { invariant } from '../kit/invariant.ts';
import type { Clock } from '../kit/clock.ts';
import { messageOf, Problem, systemCode } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import { limits } from '../limits.ts';
import { protocolError } from '../wire/codes.ts';
import { decodeSealedHeader, sealedHeaderBytes, sealedRowBytes } from '../wire/sealed.ts';
import { SegmentFile } from './segment-file.ts';
import {
  encodeDropBody,
  encodeLayerBody,
  entryType,
  toHex,
  type Extent,
  type LayerBody,
  type Position,
} from './segment-format.ts';
import { SegmentPlan, type PlacedEntry } from './segment-plan.ts';
import { SegmentSpace } from './segment-space.ts';

export interface SegmentLimits {
  readonly segmentBytesMax: number;
  readonly groupBytesMax: number;
  readonly freeBytesStop: number;
  readonly freeBytesResume: number;
  readonly freeCheckBytes: number;
  readonly freeCheckMs: number;
}

export const segmentLimits: SegmentLimits = {
  segmentBytesMax: limits.target.segmentBytesMax,
  groupBytesMax: limits.target.groupBytesMax,
  freeBytesStop: limits.target.freeBytesStop,
  freeBytesResume: limits.target.freeBytesResume,
  freeCheckBytes: limits.store.freeCheckBytes,
  freeCheckMs: limits.store.freeCheckMs,
};

export interface SegmentLogOptions {
  readonly files: Files;
  readonly clock: Clock;
  /** The machine's `segments` directory. */
  readonly directory: string;
  /** 16 bytes. */
  readonly machineId: Uint8Array;
  readonly limits?: SegmentLimits;
  /** Told when `full` changes. */
  readonly fullChanged?: (full: boolean) => void;
}

export type NewEntry =
  | { readonly type: 'layer'; readonly diskNo: number; readonly layer: LayerBody }
  /** `body`: a SEALED body whose digest the caller has checked. It must not change until `durable` settles. */
  | { readonly type: 'batch'; readonly diskNo: number; readonly body: Uint8Array }
  | { readonly type: 'drop'; readonly diskNo: number; readonly seq: number }
  /** `body`: of `encodeMoved`. Must not change either. */
  | { readonly type: 'moved'; readonly diskNo: number; readonly body: Uint8Array };

export interface Appended {
  readonly position: Position;
  /** Where the next entry of the segment begins. */
  readonly end: Position;
  /** Rejects with Problem `store-failed` or `full`, both retryable. Need not be listened to. */
  readonly durable: Promise<void>;
}

interface Queued {
  readonly placed: PlacedEntry;
  readonly resolve: () => void;
  readonly reject: (reason: Problem) => void;
}

/** Where an earlier process left off: see `segment-recovery.ts`. */
export interface LogStart {
  /** The end of the last segment; segment 0, offset 0 when there is none. */
  readonly end: Position;
  /** How far each segment reaches, with its chain. */
  readonly extents: readonly Extent[];
}

export class SegmentLog {
  readonly #plan: SegmentPlan;
  readonly #file: SegmentFile;
  readonly #space: SegmentSpace;
  readonly #groupBytesMax: number;
  readonly #directory: string;
  #closed: Promise<void> | null = null;
  #queue: Queued[] = [];
  #writing: Promise<void> = Promise.resolve();
  /** Falls in the same step in which the writer found the queue empty, so that no append waits for a writer that has left. */
  #running = false;
  /** Per disk the layer that takes batches, and the number of the next one (invariant 3). */
  readonly #layers = new Map<number, { readonly seq: number; next: number }>();
  /** Per segment how far it is durable. */
  readonly #extents = new Map<number, Extent>();
  #durableEnd: Position;
  #failures = 0;

  constructor(options: SegmentLogOptions, start: LogStart) {
    const { files, directory, clock, machineId, fullChanged } = options;
    const bounds = options.limits ?? segmentLimits;
    this.#directory = directory;
    this.#groupBytesMax = bounds.groupBytesMax;
    this.#durableEnd = start.end;
    for (const extent of start.extents) this.#extents.set(extent.segment, extent);
    this.#space = new SegmentSpace({
      files,
      directory,
      clock,
      stopBytes: bounds.freeBytesStop,
      resumeBytes: bounds.freeBytesResume,
      checkBytes: bounds.freeCheckBytes,
      checkMs: bounds.freeCheckMs,
      changed: (full) => {
        if (full) void this.#file.dropSpare();
        fullChanged?.(full);
      },
    });
    this.#plan = new SegmentPlan(machineId, bounds.segmentBytesMax, start.end);
    this.#file = new SegmentFile({ files, directory, segmentBytesMax: bounds.segmentBytesMax, space: this.#space });
  }

  /** There is too little space for content. */
  get full(): boolean {
    return this.#space.full;
  }

  /** Every byte of the log before this place is durable. */
  get durableEnd(): Position {
    return this.#durableEnd;
  }

  /** Files given up since the log was opened (C4). */
  get failures(): number {
    return this.#failures;
  }

  /** Looks at the free space now. */
  checkSpace(): Promise<void> {
    return this.#space.check();
  }

  /**
   * Queues one entry and says where it will stand.
   * @throws Problem `full`, `store-failed` (closed, or invariant 3), `protocol-error` (not a SEALED body, or not the layer's next batch).
   */
  append(entry: NewEntry): Appended {
    if (this.#closed) throw this.#failed('it is closed');
    if (this.full && entry.type !== 'drop' && entry.type !== 'moved') throw this.#outOfSpace();
    const { type, body } = this.#admit(entry);
    let appended: Appended | null = null;
    for (const placed of this.#plan.place(type, entry.diskNo, body)) {
      const durable = this.#enqueue(placed);
      const { segment } = placed.position;
      appended = { position: placed.position, end: { segment, offset: placed.end }, durable };
    }
    invariant(appended, 'an entry was placed');
    return appended;
  }

  /** Batches of the layer may be appended from this number on: all before are durable, and nothing of it is queued (invariant 3). */
  takeUpLayer(diskNo: number, seq: number, next: number): void {
    this.#layers.set(diskNo, { seq, next });
  }

  /**
   * How far each segment is durable that grew since `mark` (the end of what the last point relies on; `null`: from the
   * beginning): the extents of the next POINT record. Forgets what lies before `mark`.
   */
  extentsSince(mark: Position | null): Extent[] {
    const grown: Extent[] = [];
    for (const extent of this.#extents.values()) {
      if (mark && extent.segment < mark.segment) this.#extents.delete(extent.segment);
      else if (!mark || extent.segment > mark.segment || extent.length > mark.offset) grown.push(extent);
    }
    return grown.sort((a, b) => a.segment - b.segment);
  }

  /** Makes durable what is queued, ends the open segment with a FOOTER, closes. Idempotent; takes nothing more from its call on. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const footer = this.#plan.finish();
    // A footer that fails is no loss: the next opening finds the end without it.
    if (footer) await this.#enqueue(footer).catch(() => undefined);
    await this.#writing;
    this.#space.end();
    await this.#file.close();
  }

  /** The entry's bytes, if it may be appended now (invariant 3). */
  #admit(entry: NewEntry): { type: PlacedEntryType; body: Uint8Array } {
    switch (entry.type) {
      case 'layer':
        this.#layers.set(entry.diskNo, { seq: entry.layer.seq, next: 0 });
        return { type: entryType.layer, body: encodeLayerBody(entry.layer) };
      case 'drop':
        if (this.#layers.get(entry.diskNo)?.seq === entry.seq) this.#layers.delete(entry.diskNo);
        return { type: entryType.drop, body: encodeDropBody(entry.seq) };
      case 'moved':
        return { type: entryType.moved, body: entry.body };
      case 'batch': {
        const { seq, batch, count } = decodeSealedHeader(entry.body);
        const { byteLength } = entry.body;
        if (byteLength < sealedHeaderBytes + count * sealedRowBytes || byteLength > limits.wire.frameBytesMax)
          throw protocolError(`a SEALED of ${count} records has ${byteLength} bytes`);
        const layer = this.#layers.get(entry.diskNo);
        if (layer?.seq !== seq) throw this.#failed(`layer ${seq} of disk ${entry.diskNo} has ended`);
        if (layer.next !== batch) throw protocolError(`batch ${batch} of layer ${seq} comes before ${layer.next}`);
        layer.next += 1;
        return { type: entryType.batch, body: entry.body };
      }
    }
  }

  #enqueue(placed: PlacedEntry): Promise<void> {
    const durable = new Promise<void>((resolve, reject) => {
      this.#queue.push({ placed, resolve, reject });
    });
    durable.catch(() => undefined);
    if (!this.#running) {
      this.#running = true;
      this.#writing = this.#run();
    }
    return durable;
  }

  async #run(): Promise<void> {
    // One turn of the microtask queue, so that what is appended together is written together.
    await Promise.resolve();
    for (let group = this.#takeGroup(); group; group = this.#takeGroup()) {
      const [first, ...rest] = group;
      try {
        await this.#file.commit([first.placed, ...rest.map(({ placed }) => placed)]);
      } catch (error) {
        await this.#giveUp(group, error);
        continue;
      }
      const { placed } = group.at(-1) ?? first;
      const { segment } = placed.position;
      this.#durableEnd = { segment, offset: placed.end };
      this.#extents.set(segment, { segment, length: placed.end, chain: toHex(placed.chain) });
      this.#space.wrote(placed.end - first.placed.from);
      for (const { resolve } of group) resolve();
    }
    this.#running = false;
  }

  /** The longest run at the head of the queue that lies in one segment and within the bound. */
  #takeGroup(): [Queued, ...Queued[]] | null {
    const first = this.#queue[0];
    if (!first) return null;
    const { segment } = first.placed.position;
    const beyond = this.#queue.findIndex(
      ({ placed }) => placed.position.segment !== segment || placed.end - first.placed.from > this.#groupBytesMax,
    );
    const [, ...rest] = this.#queue.splice(0, beyond === -1 ? this.#queue.length : Math.max(beyond, 1));
    return [first, ...rest];
  }

  /** Invariant 2. Refuses first, so that nothing new can slip in between. */
  async #giveUp(group: readonly [Queued, ...Queued[]], error: unknown): Promise<void> {
    const ranOut = isOutOfSpace(error);
    const reason = ranOut ? this.#outOfSpace(error) : this.#failed(messageOf(error), error);
    const lost = [...group, ...this.#queue.splice(0)];
    this.#plan.giveUp(this.#durableEnd);
    this.#layers.clear();
    this.#failures += 1;
    for (const { reject } of lost) reject(reason);
    await this.#file.abandon(group[0].placed.position.segment !== this.#durableEnd.segment);
    if (ranOut) this.#space.ranOut();
  }

  #failed(why: string, cause?: unknown): Problem {
    return new Problem('store-failed', `${this.#directory}: ${why}`, {
      remedy: 'the source sends again what was not acknowledged; check the health of the disk under the store',
      retryable: true,
      cause,
    });
  }

  #outOfSpace(cause?: unknown): Problem {
    return new Problem('full', `${this.#directory}: no space left for content`, {
      remedy: 'free some space on its file system; replication goes on by itself',
      retryable: true,
      cause,
    });
  }
}

type PlacedEntryType = Parameters<SegmentPlan['place']>[0];

const outOfSpaceCodes = new Set(['ENOSPC', 'EDQUOT']);

/** Whether an error, or what caused it, says that space ran out. */
function isOutOfSpace(error: unknown): boolean {
  if (outOfSpaceCodes.has(systemCode(error) ?? '')) return true;
  return error instanceof Error && error.cause !== undefined && isOutOfSpace(error.cause);
}

/**
 * Sends one layer: reads the blocks of the sending set, hashes them, drops what the target already has, packs the rest into batches.
 *
 * Invariants:
 *  1. A block whose leaf equals the working leaf is not sent: that one rule gives resume, cheap crash recovery and resync.
 *  2. Mask and leaf speak of the same content: outside a cut the pages that were written during the read are added to the mask
 *     (`currentMask`), because the write behind them was marked when it was issued.
 *  3. A leaf is laid over the working leaves when its batch goes out, never before: what was packed and not sent is not at the target.
 *  4. Leaves of no point (initial replication, comparison): what was read and laid is made durable every `checkpointBytes` or `checkpointMs`, and
 *     the log forgets it, sent or not: the comparison of the next session tells. So nothing is read or sent twice after days of sending.
 *  5. Ahead of the rounds (`resync-stretches.ts`) it is told which blocks, and what the target has of each. Their leaves are laid like all others, and
 *     made durable by who told: until a batch goes out, the leaf is that of the source.
 *  6. Blocks side by side are read in one piece of at most `pieceBytes` and `pieceBlocks`. Reads run ahead of hashing by at most `readAhead` pieces, sends behind it
 *     by the builders of the pool; memory is bounded by both.
 */
import type { Clock } from '../kit/clock.ts';
import { Credit } from '../kit/credit.ts';
import { invariant } from '../kit/invariant.ts';
import { fullMask, gatherPages, pageCount } from '../disk/page-mask.ts';
import { zeroLeaf } from '../disk/merkle.ts';
import { leafOf } from '../kernels/hash.ts';
import { withLayer } from '../kernels/layer-run.ts';
import { KiB } from '../kit/sizes.ts';
import { limits } from '../limits.ts';
import { BatchBuilder } from '../wire/batch.ts';
import type { ReplicaDisk } from './replica-disk.ts';
import type { Session } from './session.ts';
import type { AgentCounters } from './counters.ts';
import type { FlightLog } from './flight-log.ts';

const readAhead = 3;
const pieceBytes = 512 * KiB;
const pieceBlocks = 16;

export interface LayerResult {
  readonly records: number;
  readonly payloadBytes: number;
}

/** Blocks side by side, of which pages are to be sent. */
interface Piece {
  readonly first: number;
  /** One mask for each block. */
  readonly masks: readonly number[];
}

interface Reading extends Piece {
  readonly memory: Buffer;
  readonly done: Promise<void>;
}

function* wholly(blocks: Iterable<number>): Generator<readonly [block: number, mask: number]> {
  for (const block of blocks) yield [block, fullMask];
}

function* piecesOf(blocks: Iterable<readonly [block: number, mask: number]>, blocksMax: number): Generator<Piece> {
  let [first, masks]: [number, number[]] = [0, []];
  for (const [block, mask] of blocks) {
    if (masks.length > 0 && (block !== first + masks.length || masks.length === blocksMax)) {
      yield { first, masks };
      masks = [];
    }
    if (masks.length === 0) first = block;
    masks.push(mask);
  }
  if (masks.length > 0) yield { first, masks };
}

export interface SenderContext {
  readonly session: Session;
  readonly disk: ReplicaDisk;
  readonly index: number;
  /** Whether a cut holds the content still. */
  readonly underCut: boolean;
  /** Called with the bytes of what is read next; under a cut it is not, because every pause there costs memory for old pages. */
  readonly pace: (bytes: number) => Promise<void>;
  readonly counters: AgentCounters;
  readonly flight: FlightLog;
  readonly clock: Clock;
  readonly builders: BuilderPool;
}

/** Batches being built or sent. Two sends in flight keep the connection busy (one awaited at a time is a third slower). */
const buildersMax = 3;

/** The builders of an agent, which outlive layers and sessions so that their memory stays warm. */
export class BuilderPool {
  readonly #free: BatchBuilder[] = Array.from({ length: buildersMax }, () => new BatchBuilder());
  readonly #slots = new Credit(buildersMax);

  async take(): Promise<BatchBuilder> {
    await this.#slots.take(1);
    const builder = this.#free.pop();
    invariant(builder, 'a slot is a builder');
    return builder;
  }

  /** Its frame is not in use any more. */
  give(builder: BatchBuilder): void {
    builder.clear();
    this.#free.push(builder);
    this.#slots.give(1);
  }
}

/** Whether the record goes into this batch: an empty one takes any. */
function roomFor(builder: BatchBuilder, bytes: number): boolean {
  if (builder.count === 0) return true;
  return builder.fits(bytes) && builder.payloadBytes + bytes <= limits.agent.batchPayloadBytes;
}

export class LayerSender {
  readonly #context: SenderContext;
  #builder: BatchBuilder | null = null;
  /** Sends not resolved yet, and why one failed. */
  readonly #sends = new Set<Promise<void>>();
  #failure: Error | null = null;
  #packed: { readonly block: number; readonly leaf: Uint8Array; readonly bytes: number; readonly asked: boolean }[] =
    [];
  /** Invariant 5. */
  #ahead: ReadonlyMap<number, Uint8Array> | null = null;
  #seq: number | null = null;
  #batch = 0;
  #records = 0;
  #payloadBytes = 0;
  #unsavedBytes = 0;
  #savedMs: number;

  constructor(context: SenderContext) {
    this.#context = context;
    this.#savedMs = context.clock.monotonicMs();
  }

  /** What was sent so far. */
  get result(): LayerResult {
    return { records: this.#records, payloadBytes: this.#payloadBytes };
  }

  /** Sends everything in the disk's sending set. Rejects when the session ends or the cut is void. */
  async send(): Promise<LayerResult> {
    await this.#send(this.#context.disk.capture.sending());
    return this.result;
  }

  /**
   * Sends these blocks, ascending, with the target's leaf of each, unless they have become what the target has. With higher blocks it may be called
   * again: the layer goes on. Rejects when the session ends.
   */
  async sendAhead(differing: ReadonlyMap<number, Uint8Array>): Promise<void> {
    this.#ahead = differing;
    await this.#send(wholly(differing.keys()));
  }

  async #send(blocks: Iterable<readonly [block: number, mask: number]>): Promise<void> {
    const { disk, session, clock, underCut, pace } = this.#context;
    const { blockSize } = disk.capture.geometry;
    const blocksMax = Math.max(1, Math.min(pieceBlocks, Math.floor(pieceBytes / blockSize)));
    const spare: Buffer[] = [];
    const ahead: Reading[] = [];
    let hashedSinceTurn = 0;
    const finishOldest = async (): Promise<void> => {
      const oldest = ahead.shift();
      if (!oldest) return;
      const askedMs = clock.monotonicMs();
      await oldest.done;
      this.#context.counters.stageMs.read += clock.monotonicMs() - askedMs;
      for (const [index, mask] of oldest.masks.entries()) {
        const bytes = oldest.memory.subarray(index * blockSize, (index + 1) * blockSize);
        await this.#take(oldest.first + index, mask, bytes);
      }
      await this.#checkpointSometimes(oldest);
      spare.push(oldest.memory);
      hashedSinceTurn += oldest.masks.length * blockSize;
      // Hashing is synchronous: let writers of the protected machine in between.
      if (hashedSinceTurn >= pieceBytes) {
        hashedSinceTurn = 0;
        await clock.turn();
      }
    };
    try {
      for (const piece of piecesOf(blocks, blocksMax)) {
        const bytes = piece.masks.length * blockSize;
        if (!underCut) await pace(bytes);
        if (session.isOver) throw await session.ended;
        const memory = spare.pop() ?? Buffer.allocUnsafeSlow(blocksMax * blockSize);
        const done = disk.capture.readBlocks(piece.first, memory.subarray(0, bytes));
        done.catch(() => undefined);
        ahead.push({ ...piece, memory, done });
        if (ahead.length >= readAhead) await finishOldest();
      }
      while (ahead.length > 0) await finishOldest();
      await this.#flush();
      await Promise.all(this.#sends);
      if (this.#failure !== null) throw this.#failure;
    } finally {
      await Promise.all(this.#sends);
      if (this.#builder) this.#context.builders.give(this.#builder);
      this.#builder = null;
      // Reads still under way write into buffers nobody uses any more; they end by themselves.
      await Promise.allSettled(ahead.map((read) => read.done));
    }
  }

  async #take(block: number, sent: number, bytes: Buffer): Promise<void> {
    const { disk, underCut, counters, clock } = this.#context;
    const { geometry } = disk.capture;
    const startedMs = clock.monotonicMs();
    const leaf = leafOf(disk.leafKey, bytes);
    counters.stageMs.hash += clock.monotonicMs() - startedMs;
    counters.blocksHashed += 1;
    const asked = disk.repair.has(block);
    const there = this.#ahead?.get(block);
    if (there === undefined) disk.progressed(pageCount(sent) * geometry.pageSize);
    if (!asked && Buffer.compare(leaf, there ?? disk.leaves.get(block)) === 0) {
      if (there !== undefined) disk.leaves.set(block, leaf);
      counters.blocksUnchanged += 1;
      return;
    }
    const zero = Buffer.compare(leaf, zeroLeaf) === 0;
    const mask = zero || asked ? fullMask : sent | (underCut ? 0 : disk.capture.currentMask(block));
    const length = zero ? 0 : pageCount(mask) * geometry.pageSize;
    if (this.#builder && !roomFor(this.#builder, length)) await this.#flush();
    this.#builder ??= await this.#context.builders.take();
    this.#builder.add(block, mask, leaf, length, (into, at) => gatherPages(bytes, mask, geometry.pageSize, into, at));
    this.#packed.push({ block, leaf, bytes: length, asked });
    this.#records += 1;
    this.#payloadBytes += length;
  }

  /** Invariant 4, after all blocks of a piece were taken. */
  async #checkpointSometimes({ first, masks }: Piece): Promise<void> {
    const { disk, underCut, clock } = this.#context;
    if (underCut || this.#ahead !== null || disk.knownPoint !== null) return;
    this.#unsavedBytes += masks.length * disk.capture.geometry.blockSize;
    const { checkpointBytes, checkpointMs } = limits.agent;
    const due = this.#unsavedBytes >= checkpointBytes || clock.monotonicMs() - this.#savedMs >= checkpointMs;
    if (!due) return;
    await this.#flush();
    await disk.checkpoint(first + masks.length);
    this.#unsavedBytes = 0;
    this.#savedMs = clock.monotonicMs();
  }

  /** Before the first batch, so a layer without batches never exists. */
  async #begin(): Promise<number> {
    const { session, index, disk } = this.#context;
    const seq = await session.beginLayer(index, { kind: disk.kind, base: disk.committedPoint });
    disk.layers = withLayer(disk.layers, seq);
    return seq;
  }

  /** Hands the batch over to be sent; resolves when the next one may be built. */
  async #flush(): Promise<void> {
    const builder = this.#builder;
    if (!builder || builder.count === 0) return;
    if (this.#failure !== null) throw this.#failure;
    const { disk, index, flight } = this.#context;
    this.#seq ??= await this.#begin();
    const seq = this.#seq;
    const frame = builder.finish(index, seq, this.#batch);
    for (const { block, leaf, bytes, asked } of this.#packed) {
      disk.leaves.set(block, leaf);
      // One that was asked for since is not in here whole.
      if (asked) disk.repair.delete(block);
      flight.sending(index, block, bytes);
    }
    const { payloadBytes } = builder;
    const { blockCount } = disk.capture.geometry;
    const blocks = Uint32Array.from(this.#packed, ({ block }) => block);
    flight.sent({ disk: index, blockCount, seq, batch: this.#batch, blocks, payloadBytes });
    this.#packed = [];
    this.#batch += 1;
    this.#builder = null;
    const sending = this.#sendBatch(builder, frame, payloadBytes).finally(() => this.#sends.delete(sending));
    this.#sends.add(sending);
  }

  /** Never rejects: a failure ends the layer at its next step. Credit is first come, first served, so batches keep their order. */
  async #sendBatch(builder: BatchBuilder, frame: Uint8Array, payloadBytes: number): Promise<void> {
    const { session, counters, builders, clock } = this.#context;
    const startedMs = clock.monotonicMs();
    try {
      await session.sendBatch(frame);
      counters.stageMs.send += clock.monotonicMs() - startedMs;
      counters.batchesSent += 1;
      counters.payloadBytesSent += payloadBytes;
      counters.frameBytesSent += frame.byteLength;
    } catch (error) {
      this.#failure ??= error instanceof Error ? error : new Error(String(error));
    } finally {
      builders.give(builder);
    }
  }
}

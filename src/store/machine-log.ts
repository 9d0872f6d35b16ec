/**
 * The log of one machine and its index as one: what is appended is indexed once it is durable, in the order of the log.
 *
 * Invariants:
 *  1. The index never names bytes that are not durable; its position only moves over durable entries. So after a crash the replay
 *     from that position completes it, and nothing it says has to be taken back.
 *  2. A layer or batch of another epoch than the newest is refused in the step that would append it (C9): whoever else looked before, this is the
 *     one door into the log.
 *  3. What is appended and not yet applied is bounded by the credit the caller granted for it (C5); the index has a bound of its own.
 */
import { Serial } from '../kit/serial.ts';
import type { SealedRow } from '../wire/sealed.ts';
import type { LeafPair } from '../wire/leaves.ts';
import { epochOf } from '../wire/seq.ts';
import { limits } from '../limits.ts';
import type { NodeHash } from './index-nodes.ts';
import { movedPlaces } from './index-moved.ts';
import type { IndexChange } from './index-pages.ts';
import type { IndexReader } from './index-reader.ts';
import type { RecordIndex } from './record-index.ts';
import { encodeLayerBody, entryHeaderBytes, type Position } from './segment-format.ts';
import type { MovedBody } from './segment-moved.ts';
import type { SegmentLog } from './segment-log.ts';

export interface NewLayer {
  readonly seq: number;
  readonly kind: 'initial' | 'delta' | 'resync';
  readonly base: number | null;
  readonly salt: Uint8Array;
  readonly keyVersion: number;
  /** The session's epoch; the layer's must be the same. */
  readonly epoch: number;
}

export interface NewBatch {
  readonly seq: number;
  readonly batch: number;
  readonly rows: readonly SealedRow[];
}

export class MachineLog {
  readonly segments: SegmentLog;
  readonly index: RecordIndex;
  #highestSeq: number;
  readonly #refuseStale: (epoch: number) => void;
  readonly #inOrder = new Serial();

  /** @param options.refuseStale throws unless the epoch is the machine's newest. */
  constructor(options: {
    segments: SegmentLog;
    index: RecordIndex;
    highestSeq: number;
    refuseStale: (epoch: number) => void;
  }) {
    this.segments = options.segments;
    this.index = options.index;
    this.#highestSeq = options.highestSeq;
    this.#refuseStale = options.refuseStale;
  }

  /** The highest seq any layer of the machine ever had here. */
  get highestSeq(): number {
    return this.#highestSeq;
  }

  /** Resolves when the layer's entry is durable and indexed. @throws StaleEpoch. */
  appendLayer(diskNo: number, layer: NewLayer): Promise<void> {
    this.#refuseStale(epochOf(layer.seq));
    this.#highestSeq = Math.max(this.#highestSeq, layer.seq);
    const appended = this.segments.append({ type: 'layer', diskNo, layer });
    return this.#inOrder.run(async () => {
      await appended.durable;
      await this.index.room();
      this.index.applyLayer(diskNo, layer.seq, encodeLayerBody(layer), appended.end);
    });
  }

  /** What the index says once all that was appended before was applied or has failed; `settled` waits for it, too. */
  inTurn<T>(look: (index: IndexReader) => T): Promise<T> {
    return this.#inOrder.run(async () => look(await this.index.reader()));
  }

  /** The disk's newest layer takes batches again from this number on: those before are durable. @throws StaleEpoch. */
  takeUpLayer(diskNo: number, seq: number, next: number): void {
    this.#refuseStale(epochOf(seq));
    this.segments.takeUpLayer(diskNo, seq, next);
  }

  /** Resolves when the batch is durable and indexed. The body must not change until then. @throws StaleEpoch. */
  appendBatch(diskNo: number, batch: NewBatch, body: Uint8Array): Promise<void> {
    this.#refuseStale(epochOf(batch.seq));
    const appended = this.segments.append({ type: 'batch', diskNo, body });
    return this.#inOrder.run(async () => {
      await appended.durable;
      await this.index.room();
      this.index.applyBatch(diskNo, batch.seq, batch.batch, appliedBatch(appended.position, batch.rows), appended.end);
    });
  }

  /** The layer will never be listed; its records leave the index. */
  appendDrop(diskNo: number, seq: number): Promise<void> {
    const appended = this.segments.append({ type: 'drop', diskNo, seq });
    return this.#inOrder.run(async () => {
      await appended.durable;
      await this.index.room();
      await this.index.dropLayer(diskNo, seq, appended.end);
    });
  }

  /** Appends records that lie elsewhere, and lets the index find them here. `body`: of `encodeMoved`, and `moved` what it says. Answers the segment. */
  appendMoved(diskNo: number, moved: MovedBody, body: Uint8Array): Promise<number> {
    const appended = this.segments.append({ type: 'moved', diskNo, body });
    return this.#inOrder.run(async () => {
      await appended.durable;
      await this.index.room();
      // Committed, else a change of these records that is under way would be undone.
      const index = await this.index.reader();
      this.index.rewrite(movedPlaces(index, diskNo, moved, appended.position), appended.end);
      return appended.position.segment;
    });
  }

  /** Changes of the index that say nothing about the log, in turn with what is appended. */
  async rewrite(changes: readonly IndexChange[]): Promise<void> {
    if (changes.length === 0) return;
    await this.#inOrder.run(async () => {
      await this.index.room();
      this.index.rewrite(changes);
    });
  }

  /** The same, made from what the index says when it is their turn. */
  async rewriteAsIs(make: (index: IndexReader) => readonly IndexChange[]): Promise<void> {
    await this.#inOrder.run(async () => {
      await this.index.room();
      this.index.rewrite(make(await this.index.reader()));
    });
  }

  /** Puts Merkle nodes that the point changes into the index; resolves when it has taken them. */
  noteNodes(diskNo: number, point: number, changed: readonly NodeHash[]): Promise<void> {
    return this.#inOrder.run(async () => {
      for (let from = 0; from < changed.length; from += limits.store.indexStepEntries) {
        await this.index.room();
        this.index.applyNodes(diskNo, point, changed.slice(from, from + limits.store.indexStepEntries));
      }
    });
  }

  /** Resolves when everything appended so far was applied or has failed. */
  settled(): Promise<void> {
    return this.#inOrder.idle();
  }

  /** (block, leaf) of every record of the disk with a seq above `maxSeq`, in order of the log. */
  async *leavesSince(diskNo: number, maxSeq: number): AsyncGenerator<LeafPair> {
    yield* leavesOfLayers(await this.index.reader(), diskNo, maxSeq);
  }

  async close(): Promise<void> {
    await this.settled();
    await this.segments.close();
    await this.index.close(true);
  }
}

/** Where the index finds a batch whose entry stands at `position`. Rows come from `decodeSealedRows`. */
export function appliedBatch(
  position: Position,
  rows: readonly SealedRow[],
): { segment: number; entryOffset: number; payloadOffset: number; rows: readonly SealedRow[] } {
  const payloadOffset = position.offset + entryHeaderBytes + (rows[0]?.payloadOffset ?? 0);
  return { segment: position.segment, entryOffset: position.offset, payloadOffset, rows };
}

function* leavesOfLayers(reader: IndexReader, diskNo: number, maxSeq: number): Generator<LeafPair> {
  for (const { seq, blocks } of reader.batchesOf(diskNo, maxSeq + 1, Number.MAX_SAFE_INTEGER)) {
    for (const block of blocks) {
      const entry = reader.get(diskNo, block, seq);
      if (entry) yield [block, entry.leaf];
    }
  }
}

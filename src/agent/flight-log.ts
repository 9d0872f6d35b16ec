/**
 * Batches sent and not known to be durable. The process server gives credit back for what it spooled, so they are bounded by its spool and not by a
 * window; of each only a few numbers are kept, and of the newest ones their blocks, so that what is sent again after a lost session can be counted.
 *
 * Invariants:
 *  1. Block numbers of at most `flightBlocksMax` blocks are kept: what is sent again of older batches is not counted as such. It is counted only.
 *  2. DURABLE is cumulative in its layer, and layers rise over the session: what it costs does not depend on how much is in flight.
 */
import { ChangeSet } from '../disk/change-set.ts';
import { fullMask } from '../disk/page-mask.ts';
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { Durable } from '../wire/durable.ts';
import type { AgentCounters } from './counters.ts';

export interface BatchInFlight {
  readonly disk: number;
  /** Of the disk: how many blocks it has. */
  readonly blockCount: number;
  readonly seq: number;
  /** 0, 1, 2, … within the layer. */
  readonly batch: number;
  readonly blocks: Uint32Array;
  readonly payloadBytes: number;
}

interface Layer {
  readonly disk: number;
  readonly blockCount: number;
  /** Number of the batch the lists begin with. */
  readonly first: number;
  /** Places in the lists: of the first batch that is not durable, and of the first one that may have its blocks. */
  durable: number;
  kept: number;
  readonly payloads: number[];
  readonly blocks: (Uint32Array | null)[];
}

export class FlightLog {
  readonly #counters: AgentCounters;
  readonly #clock: Clock;
  /** By seq, rising. */
  readonly #layers = new Map<number, Layer>();
  #keptBlocks = 0;
  readonly #lost = new Map<number, ChangeSet>();
  #payloadBytes = 0;
  #durableBytes = 0;
  #busyMs = 0;
  /** Monotonic; since when the time with something in flight is not counted yet. */
  #countedMs = 0;

  constructor(counters: AgentCounters, clock: Clock) {
    this.#counters = counters;
    this.#clock = clock;
  }

  get payloadBytes(): number {
    return this.#payloadBytes;
  }

  /** Payload that was said to be durable, summed. */
  get durableBytes(): number {
    return this.#durableBytes;
  }

  /** Time in which something was in flight, summed, milliseconds. */
  get busyMs(): number {
    this.#countTime();
    return this.#busyMs;
  }

  /** The oldest layer that is not durable as far as it was sent; null: all are. */
  get oldestSeq(): number | null {
    const [oldest] = this.#layers.keys();
    return oldest ?? null;
  }

  sending(disk: number, block: number, payloadBytes: number): void {
    const lost = this.#lost.get(disk);
    if (lost === undefined || lost.get(block) === 0) return;
    this.#counters.payloadBytesResent += payloadBytes;
    lost.clearRange(block, block + 1);
    if (lost.size === 0) this.#lost.delete(disk);
  }

  sent({ disk, blockCount, seq, batch, blocks, payloadBytes }: BatchInFlight): void {
    if (this.#layers.size === 0) this.#countedMs = this.#clock.monotonicMs();
    const layer = this.#layers.get(seq) ?? {
      ...{ disk, blockCount, first: batch, durable: 0, kept: 0, payloads: [], blocks: [] },
    };
    this.#layers.set(seq, layer);
    layer.payloads.push(payloadBytes);
    layer.blocks.push(blocks);
    this.#payloadBytes += payloadBytes;
    this.#keptBlocks += blocks.length;
    if (this.#keptBlocks > limits.agent.flightBlocksMax) this.#keepFewer();
  }

  durable({ seq, batches }: Durable): void {
    const layer = this.#layers.get(seq);
    if (!layer) return;
    this.#countTime();
    const end = Math.min(batches - layer.first, layer.payloads.length);
    for (; layer.durable < end; layer.durable += 1) {
      const payloadBytes = layer.payloads[layer.durable] ?? 0;
      this.#payloadBytes -= payloadBytes;
      this.#durableBytes += payloadBytes;
      this.#counters.batchesDurable += 1;
      this.#drop(layer, layer.durable);
    }
    if (layer.durable === layer.payloads.length) this.#layers.delete(seq);
  }

  sessionEnded(): void {
    this.#countTime();
    for (const { disk, blockCount, blocks } of this.#layers.values()) {
      const before = this.#lost.get(disk);
      const lost = before?.blockCount === blockCount ? before : new ChangeSet(blockCount);
      for (const each of blocks) each?.forEach((block) => lost.add(block, fullMask));
      this.#lost.set(disk, lost);
    }
    this.#layers.clear();
    [this.#keptBlocks, this.#payloadBytes] = [0, 0];
  }

  #drop(layer: Layer, at: number): void {
    this.#keptBlocks -= layer.blocks[at]?.length ?? 0;
    layer.blocks[at] = null;
  }

  /** Of the newer half only. */
  #keepFewer(): void {
    for (const layer of this.#layers.values())
      for (; layer.kept < layer.blocks.length; layer.kept += 1) {
        if (this.#keptBlocks <= limits.agent.flightBlocksMax / 2) return;
        this.#drop(layer, layer.kept);
      }
  }

  #countTime(): void {
    const nowMs = this.#clock.monotonicMs();
    if (this.#layers.size > 0) this.#busyMs += nowMs - this.#countedMs;
    this.#countedMs = nowMs;
  }
}

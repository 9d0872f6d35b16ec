/**
 * Who reads in order, and how far ahead of them it is worth reading. Pure. Several readers are told apart, because one client copies a disk over
 * several connections, and each connection has many requests on their way that need not come in order.
 *
 * A reader that goes on where a stream ended, give or take a run, is that stream. The first step shows nothing; from the second on its window
 * grows from one run to the most, doubling with every step. A reader anywhere else begins a stream in the place of the one that was idle longest.
 */
export interface StreamLimits {
  /** How far from its end, either way, a request still belongs to a stream; also the first window. Blocks. */
  readonly runBlocks: number;
  readonly windowBlocksMax: number;
  readonly streamsMax: number;
  /** Of the disk; no window goes past it. */
  readonly blockCount: number;
}

interface Stream {
  /** The block behind the last one that was asked for. */
  next: number;
  /** Steps forward so far. */
  steps: number;
}

/** Windows stop doubling here; shifting by more would overflow. */
const stepsMax = 16;

export class ReadStreams {
  readonly #limits: StreamLimits;
  /** Idle longest first. */
  readonly #streams: Stream[] = [];

  constructor(limits: StreamLimits) {
    this.#limits = limits;
  }

  /** Notes a request for [first, end). Answers up to which block to read ahead; `end` when it is not worth it. */
  note(first: number, end: number): number {
    const { runBlocks, windowBlocksMax, streamsMax, blockCount } = this.#limits;
    const index = this.#streams.findIndex(({ next }) => Math.abs(first - next) <= runBlocks);
    const known = index >= 0 ? this.#streams.splice(index, 1)[0] : undefined;
    const stream = known ?? { next: end, steps: 0 };
    if (known && end > known.next) {
      known.next = end;
      known.steps = Math.min(known.steps + 1, stepsMax);
    }
    this.#streams.push(stream);
    if (this.#streams.length > streamsMax) this.#streams.shift();
    if (stream.steps < 2) return end;
    const window = Math.min(runBlocks * 2 ** (stream.steps - 2), windowBlocksMax);
    // Whole runs: else each step would begin one of a single block at the far end.
    const ahead = Math.ceil((stream.next + window) / runBlocks) * runBlocks;
    return Math.max(end, Math.min(ahead, blockCount));
  }
}

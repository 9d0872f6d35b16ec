/**
 * The layer of a disk that takes batches now: which one is due, and which it had when it was taken up again (PROTOCOL.md, *A layer goes on*). Pure.
 *
 * Batches of a layer are numbered 0, 1, 2, … and its blocks ascend strictly, across sessions too.
 */
import { Problem } from '../kit/problem.ts';
import { protocolError } from '../wire/codes.ts';
import type { SealedHeader, SealedRow } from '../wire/sealed.ts';

/** What is durable of a layer. */
export interface LayerTail {
  readonly batches: number;
  /** Of the last batch; −1: it has none. */
  readonly lastBlock: number;
}

/** How a layer came to be open. */
export type Opened =
  /** By a session that takes up no layers. */
  | 'once'
  /** By one that may know of batches which are not there any more. */
  | 'anew'
  | 'again'
  /** A newer layer of the disk was begun: it is passed over, and nothing is added. */
  | 'closed';

export class OpenLayer {
  readonly seq: number;
  /** Batches that are passed over when they come again. */
  readonly had: number;
  readonly #how: Opened;
  #next: number;
  #lastBlock: number;
  #ended = false;

  constructor(seq: number, how: Opened, tail: LayerTail = { batches: 0, lastBlock: -1 }) {
    this.seq = seq;
    this.had = tail.batches;
    this.#how = how;
    this.#next = tail.batches;
    this.#lastBlock = tail.lastBlock;
  }

  /** Whether it has the batch already; if not, it is the one that is due. @throws Problem `protocol-error`, `layer-unknown`. */
  has({ seq, batch }: SealedHeader): boolean {
    if (this.seq !== seq || this.#ended) throw protocolError(`a batch of layer ${seq}, which is not open`);
    if (batch < this.had) return true;
    const has = `layer ${seq} has ${this.#next} batches`;
    if (this.#how === 'closed') throw layerUnknown(`${has}, and a newer one was begun`);
    if (batch > this.#next && this.#how !== 'once') throw layerUnknown(`${has}, not ${batch}`);
    if (batch !== this.#next) throw protocolError(`batch ${batch} of layer ${seq}, expected ${this.#next}`);
    return false;
  }

  /** @throws Problem `protocol-error` when the blocks of the batch that is due do not follow those before. */
  refuseOrder([first]: readonly SealedRow[]): void {
    if (first && first.block <= this.#lastBlock)
      throw protocolError(`block ${first.block} after block ${this.#lastBlock} of the same layer`);
  }

  /** The batch that was due is on its way into the log. */
  took(rows: readonly SealedRow[]): void {
    this.#next += 1;
    this.#lastBlock = rows.at(-1)?.block ?? this.#lastBlock;
  }

  /** Takes nothing more: an append failed. */
  end(): void {
    this.#ended = true;
  }
}

/** A layer of an earlier session can not go on here; the source has not forgotten what it held. */
export function layerUnknown(message: string): Problem {
  return new Problem('layer-unknown', message, {
    retryable: true,
    remedy: 'nothing: what was spooled is given up, and the source sends it again as a new layer',
  });
}

/**
 * Entry of a worker thread: one task is one batch (`seal-batch.ts`). Loads only kernels, disk, wire and kit. Memory comes in and goes
 * out by transfer, never as a view.
 */
import { move, transferableSymbol, valueSymbol } from 'piscina';
import { systemClock } from '../kit/clock.ts';
import { sealBatch, sealedFrameBytesMax, type SealOutcome, type SealTask } from './seal-batch.ts';

const scratch = new Uint8Array(sealedFrameBytesMax);

/** Wrapped so that the outcome's buffer is transferred back. */
class Transferred {
  readonly #outcome: SealOutcome;

  constructor(outcome: SealOutcome) {
    this.#outcome = outcome;
  }

  get [transferableSymbol](): ArrayBuffer[] {
    return [this.#outcome.buffer];
  }

  get [valueSymbol](): SealOutcome {
    return this.#outcome;
  }
}

/**
 * Native outputs that were released are freed when the event loop turns, and piscina may hand over the next task without a turn: then every
 * output is fresh memory, and page faults cost more than the kernels (measured: LZ4 at 172 MB/s, with a turn per batch 439).
 */
export default async function seal(task: SealTask): Promise<unknown> {
  await systemClock.turn();
  return move(new Transferred(sealBatch(task, scratch, systemClock)));
}

/** Memory of the frames that arrive: large ones lie in slabs, and give them back once what they say is durable. */
import { SlabPool } from '../kit/slab-pool.ts';
import { KiB, limits } from '../limits.ts';

/** Frames below this share memory: they are not worth a slab. */
const smallBytes = 8 * KiB;

export class FrameMemory {
  readonly #pool = new SlabPool(limits.wire.idleSlabBytesMax);
  readonly #taken = new WeakSet<ArrayBuffer>();

  /** For one frame of `bytes` bytes (`TakeMemory`). */
  readonly take = (bytes: number): Buffer => {
    if (bytes < smallBytes) return Buffer.allocUnsafe(bytes);
    const slab = this.#pool.take(bytes);
    this.#taken.add(slab);
    return Buffer.from(slab, 0, bytes);
  };

  /** Gives the memory of a frame back, if it was taken here; nothing of it must be used any more. */
  free({ buffer }: Uint8Array): void {
    if (buffer instanceof ArrayBuffer && this.#taken.delete(buffer)) this.#pool.give(buffer);
  }
}

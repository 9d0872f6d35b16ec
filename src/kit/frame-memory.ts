/**
 * Memory of the frames that arrive: large ones lie in slabs, each at the end of its own. Who has read one gives its memory back, or takes the slab over;
 * of what came in other memory nothing happens, so nobody need know where a frame lies.
 */
import type { SlabPool } from './slab-pool.ts';

/** Frames below this share memory: most are control frames, not worth a slab. */
const smallBytes = 8192;

export class FrameMemory {
  readonly #pool: SlabPool;
  /** Slabs with a frame that nobody has given back or taken over. */
  readonly #taken = new WeakSet<ArrayBuffer>();

  constructor(pool: SlabPool) {
    this.#pool = pool;
  }

  /** For one frame of `bytes` bytes, with at least `room` bytes before it in its slab. */
  readonly take = (bytes: number, room = 0): Buffer => {
    if (bytes < smallBytes) return Buffer.allocUnsafe(bytes);
    const slab = this.#pool.take(room + bytes);
    this.#taken.add(slab);
    return Buffer.from(slab, slab.byteLength - bytes, bytes);
  };

  /** The slab in which a frame lies, or a part of it, which is the caller's from then on; null when it was not taken here. */
  claim({ buffer }: Uint8Array): ArrayBuffer | null {
    return buffer instanceof ArrayBuffer && this.#taken.delete(buffer) ? buffer : null;
  }

  /** Gives the memory of a frame back, if it was taken here; nothing of it must be used any more. */
  free(frame: Uint8Array): void {
    const slab = this.claim(frame);
    if (slab) this.#pool.give(slab);
  }
}

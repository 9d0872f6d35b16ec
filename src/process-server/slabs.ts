/**
 * Memory of batches on their way through. A batch lies in one slab from the moment its frame begins to arrive until its sealed frame is
 * sent, or, where it may have to be sent again, until it is durable or spooled: connection → lane → worker → backlog → here again. So what is in
 * slabs is at most twice what the windows allow.
 *
 *   ┌ room of the connection ┬ room sealing needs ┬ frame as it came … ┐      sealing writes from the left, in place (`seal-batch.ts`)
 *
 * A slab that went to a worker comes back as another ArrayBuffer of the same memory.
 */
import { FrameMemory } from '../kit/frame-memory.ts';
import { SlabPool } from '../kit/slab-pool.ts';
import { limits } from '../limits.ts';
import { sealingRoom } from './seal-batch.ts';

/** Of a frame of so many bytes one may be that of a record: batches of pages have that many, batches of blocks fewer, those of zeros more. */
const bytesPerRecord = limits.disk.blockBytesMin;

export class Slabs {
  readonly #pool = new SlabPool(limits.wire.idleSlabBytesMax);
  readonly #frames = new FrameMemory(this.#pool);

  /** For a frame of `bytes` bytes that arrives, of which nobody knows yet what it is (`TakeMemory`). */
  readonly takeFrame = (bytes: number): Buffer =>
    this.#frames.take(bytes, sealingRoom(Math.ceil(bytes / bytesPerRecord)));

  /**
   * The memory in which `body`, the end of a frame, is sealed: where it lies, when it was taken here and has at least `room` bytes before it, else
   * memory it is copied to. The body lies at the end.
   */
  hold(body: Uint8Array, room: number): ArrayBuffer {
    const { byteOffset, byteLength } = body;
    const own = byteOffset >= room ? this.#frames.claim(body) : null;
    if (own) return own;
    const slab = this.#pool.take(room + byteLength);
    new Uint8Array(slab, slab.byteLength - byteLength).set(body);
    this.free(body);
    return slab;
  }

  /** Gives back the memory of a frame whose body is not needed any more, if it was taken here. */
  free(body: Uint8Array): void {
    this.#frames.free(body);
  }

  /** At least `bytes` bytes, content undefined, until `give`. */
  take(bytes: number): ArrayBuffer {
    return this.#pool.take(bytes);
  }

  /** Takes a slab back. The caller must not use it any more. */
  give(slab: ArrayBuffer): void {
    this.#pool.give(slab);
  }
}

/**
 * Memory of batches on their way through. A batch lies in one ArrayBuffer from the moment its frame begins to arrive until its sealed
 * frame is sent: connection → lane → worker → egress → here again. Fresh memory would cost page faults for every megabyte, and the
 * collector a walk over the whole heap for every few dozen.
 *
 *   ┌ room of the connection ┬ room sealing needs ┬ frame as it came … ┐      sealing writes from the left, in place (`seal-batch.ts`)
 *
 *  1. A slab has one owner: the connection that fills it, then the batch. Whoever has no more use for it gives it back, or forgets it.
 *  2. Idle slabs are at most `idleBytesMax`, whatever their sizes.
 */
import { KiB, limits, MiB } from '../limits.ts';
import { sealedFrameBytesMax, sealingRoom } from './seal-batch.ts';

/** Slabs come in few sizes, so that one that comes back is of use. */
const sizes = [16 * KiB, 48 * KiB, 144 * KiB, 288 * KiB, 544 * KiB, 1088 * KiB];
const idleBytesMax = 40 * MiB;
/** Frames below this are copied: most are control frames. */
const smallBytes = 8 * KiB;
/** Of a frame of so many bytes one may be that of a record: batches of pages have that many, batches of blocks fewer, those of zeros more. */
const bytesPerRecord = limits.disk.blockBytesMin;

export class Slabs {
  readonly #idle = new Map<number, ArrayBuffer[]>();
  readonly #taken = new WeakSet<ArrayBuffer>();
  #idleBytes = 0;

  /** For a frame of `bytes` bytes that arrives, of which nobody knows yet what it is (`TakeMemory`). */
  readonly takeFrame = (bytes: number): Buffer => {
    if (bytes < smallBytes) return Buffer.allocUnsafe(bytes);
    const room = sealingRoom(Math.ceil(bytes / bytesPerRecord));
    const slab = this.#take(room + bytes);
    this.#taken.add(slab);
    return Buffer.from(slab, slab.byteLength - bytes, bytes);
  };

  /**
   * The memory in which `body`, the end of a frame, is sealed: where it lies, when it was taken here and has at least `room` bytes before it, else
   * memory it is copied to. The body lies at the end.
   */
  hold(body: Uint8Array, room: number): ArrayBuffer {
    const { buffer, byteOffset, byteLength } = body;
    const whole = byteOffset + byteLength === buffer.byteLength;
    if (buffer instanceof ArrayBuffer && this.#taken.delete(buffer) && whole && byteOffset >= room) return buffer;
    const slab = this.#take(room + byteLength);
    new Uint8Array(slab, slab.byteLength - byteLength).set(body);
    return slab;
  }

  /** Gives back the memory of a frame whose body is not needed any more, if it was taken here. */
  free(body: Uint8Array): void {
    const { buffer } = body;
    if (buffer instanceof ArrayBuffer && this.#taken.delete(buffer)) this.give(buffer);
  }

  /** Takes a slab back. The caller must not use it any more. */
  give(slab: ArrayBuffer): void {
    const { byteLength } = slab;
    if (!sizes.includes(byteLength) || this.#idleBytes + byteLength > idleBytesMax) return;
    const idle = this.#idle.get(byteLength);
    if (idle) idle.push(slab);
    else this.#idle.set(byteLength, [slab]);
    this.#idleBytes += byteLength;
  }

  #take(bytes: number): ArrayBuffer {
    const size = sizes.find((each) => bytes <= each) ?? Math.max(bytes, sealedFrameBytesMax);
    const idle = this.#idle.get(size)?.pop();
    if (!idle) return new ArrayBuffer(size);
    this.#idleBytes -= size;
    return idle;
  }
}

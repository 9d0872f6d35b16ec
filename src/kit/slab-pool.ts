/**
 * Memory for large frames, used again: fresh memory costs page faults for every megabyte, and the collector a walk over the whole heap
 * for every few dozen megabytes that come and go.
 *
 *  1. A slab has one owner: whoever took it. Who has no more use for it gives it back, or forgets it.
 *  2. Slabs come in few sizes, so that one that comes back is of use; larger and much smaller ones are made to measure and not kept.
 *  3. A slab is at most twice what was asked for: who bounds the frames that may arrive has bounded their memory (C5).
 *  4. Idle slabs are at most `idleBytesMax`, whatever their sizes.
 */
const KiB = 1024;
/** The last but one fits what agents send (`limits.agent.batchPayloadBytes`), the last what they may send (`limits.wire.batchPayloadBytesMax`), with rows. */
const sizes = [16, 32, 48, 80, 144, 288, 544, 1088].map((size) => size * KiB);

export class SlabPool {
  readonly #idleBytesMax: number;
  readonly #idle = new Map<number, ArrayBuffer[]>();
  #idleBytes = 0;

  constructor(idleBytesMax: number) {
    this.#idleBytesMax = idleBytesMax;
  }

  /** At least `bytes` bytes, content undefined. */
  take(bytes: number): ArrayBuffer {
    const size = sizes.find((each) => bytes <= each && each <= 2 * bytes) ?? bytes;
    const idle = this.#idle.get(size)?.pop();
    if (!idle) return new ArrayBuffer(size);
    this.#idleBytes -= size;
    return idle;
  }

  /** Takes a slab back, once; the caller must not use it any more. */
  give(slab: ArrayBuffer): void {
    const { byteLength } = slab;
    if (!sizes.includes(byteLength) || this.#idleBytes + byteLength > this.#idleBytesMax) return;
    const idle = this.#idle.get(byteLength);
    if (idle) idle.push(slab);
    else this.#idle.set(byteLength, [slab]);
    this.#idleBytes += byteLength;
  }
}

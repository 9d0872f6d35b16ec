/**
 * Room for the data of requests, used again and again: fresh memory costs a page fault per 4 KiB, more than the copy into it.
 *
 * Invariants:
 *  1. A buffer has one owner: the pool, or whoever took it until `give`. Giving it back ends every use of it.
 *  2. At most `bytesMax` bytes lie free here; what comes back beyond that is left to the garbage collector.
 * Sizes are powers of two from `classBytesMin`, so a buffer is at most twice as large as what it is used for.
 */
const classBytesMin = 4096;

export class BufferPool {
  readonly #free = new Map<number, ArrayBuffer[]>();
  readonly #bytesMax: number;
  #freeBytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** `length` bytes of undefined content. */
  take(length: number): Buffer {
    const size = classOf(length);
    const memory = this.#free.get(size)?.pop();
    if (memory) this.#freeBytes -= size;
    return Buffer.from(memory ?? new ArrayBuffer(size), 0, length);
  }

  /** Takes back what `take` gave. */
  give(bytes: Buffer): void {
    const memory = bytes.buffer;
    if (!(memory instanceof ArrayBuffer) || this.#freeBytes + memory.byteLength > this.#bytesMax) return;
    this.#freeBytes += memory.byteLength;
    const list = this.#free.get(memory.byteLength);
    if (list) list.push(memory);
    else this.#free.set(memory.byteLength, [memory]);
  }
}

function classOf(length: number): number {
  return length <= classBytesMin ? classBytesMin : 2 ** Math.ceil(Math.log2(length));
}

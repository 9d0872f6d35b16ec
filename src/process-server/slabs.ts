/**
 * Memory of batches on their way through. A batch lies in one ArrayBuffer from the moment it is copied off the connection until its
 * sealed frame is sent: lane → worker → egress → here again. Fresh memory would cost page faults for every megabyte.
 */
import { sealedFrameBytesMax } from './seal-batch.ts';

const pageBytes = 4096;
const slabBytes = Math.ceil(sealedFrameBytesMax / pageBytes) * pageBytes;
/** Idle slabs kept: about 40 MiB. */
const idleMax = 32;

export class Slabs {
  readonly #idle: ArrayBuffer[] = [];

  /** At least `bytes` bytes (≤ `sealedFrameBytesMax`), content undefined. Small ones are made to measure. */
  take(bytes: number): ArrayBuffer {
    if (bytes * 2 <= slabBytes) return new ArrayBuffer(bytes);
    return this.#idle.pop() ?? new ArrayBuffer(slabBytes);
  }

  /** Takes a buffer back. The caller must not use it any more. */
  give(buffer: ArrayBuffer): void {
    if (buffer.byteLength === slabBytes && this.#idle.length < idleMax) this.#idle.push(buffer);
  }
}

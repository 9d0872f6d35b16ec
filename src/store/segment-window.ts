/**
 * A moving window over a segment file, for reading it from front to back with few system calls. One buffer, reused: what `bytes`
 * returned is valid until the next call.
 */
import type { File } from '../posix/files.ts';

export class SegmentWindow {
  readonly #file: File;
  #buffer: Buffer;
  /** File offset of the buffer's first byte, and how many bytes of it are filled. */
  #start = 0;
  #filled = 0;
  readonly size: number;
  readonly readBytes: number;

  /** @param readBytes how much is read at a time; more when one request is larger. */
  constructor(file: File, readBytes: number) {
    this.#file = file;
    this.readBytes = readBytes;
    this.#buffer = Buffer.allocUnsafeSlow(readBytes);
    this.size = file.facts().size;
  }

  /** `length` bytes from `offset`, fewer only at the end of the file. */
  async bytes(offset: number, length: number): Promise<Uint8Array> {
    if (offset < this.#start || offset + length > this.#start + this.#filled) await this.#fill(offset, length);
    const from = offset - this.#start;
    return this.#buffer.subarray(from, Math.min(from + length, this.#filled));
  }

  async #fill(offset: number, length: number): Promise<void> {
    const wanted = Math.max(length, this.readBytes);
    if (this.#buffer.byteLength < wanted) this.#buffer = Buffer.allocUnsafeSlow(wanted);
    this.#start = offset;
    this.#filled = 0;
    this.#filled = await this.#file.read(this.#buffer.subarray(0, wanted), offset);
  }
}

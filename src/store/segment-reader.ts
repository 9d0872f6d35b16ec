/** Random reads from a machine's segments: opens files as they are asked for, keeps a few open, never writes. */
import * as path from 'node:path';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { File, Files } from '../posix/files.ts';
import { segmentName } from './segment-format.ts';

export class SegmentReader {
  readonly #files: Files;
  readonly #directory: string;
  /** By segment, least recently used first. */
  readonly #open = new Map<number, Promise<File>>();
  readonly #reading = new Map<number, number>();

  constructor(files: Files, directory: string) {
    this.#files = files;
    this.#directory = directory;
  }

  /** Fills `into` from `offset`. @throws Problem `damaged` when that many bytes are not there. */
  async readAt(segment: number, into: Uint8Array, offset: number): Promise<void> {
    const got = await this.readSome(segment, into, offset);
    if (got < into.byteLength)
      throw new Problem('damaged', `${segmentName(segment)} ends ${into.byteLength - got} bytes too early`);
  }

  /** Fills `into` from `offset`, as far as the file reaches; answers how far. */
  async readSome(segment: number, into: Uint8Array, offset: number): Promise<number> {
    this.#reading.set(segment, (this.#reading.get(segment) ?? 0) + 1);
    try {
      const file = await this.#file(segment);
      // Most of what is read was written a moment ago: then no other thread is woken for it.
      return file.readCachedSync(into, offset) ? into.byteLength : await file.read(into, offset);
    } finally {
      const left = (this.#reading.get(segment) ?? 1) - 1;
      if (left === 0) this.#reading.delete(segment);
      else this.#reading.set(segment, left);
    }
  }

  async close(): Promise<void> {
    for (const opening of [...this.#open.values()]) await (await opening.catch(() => null))?.close();
    this.#open.clear();
  }

  #file(segment: number): Promise<File> {
    const known = this.#open.get(segment);
    if (known) {
      this.#open.delete(segment);
      this.#open.set(segment, known);
      return known;
    }
    const opening = this.#files.open(path.join(this.#directory, segmentName(segment)), 'read');
    this.#open.set(segment, opening);
    opening.catch(() => this.#open.delete(segment));
    void this.#closeOldest();
    return opening;
  }

  /** Closes one file nobody reads from, when too many are open. */
  async #closeOldest(): Promise<void> {
    if (this.#open.size <= limits.store.segmentsOpenMax) return;
    for (const [segment, opening] of this.#open) {
      if (this.#reading.has(segment)) continue;
      this.#open.delete(segment);
      await (await opening.catch(() => null))?.close();
      return;
    }
  }
}

/**
 * The writer of the quickstart: an NBD client that keeps writing, one write after another, never pausing, and notes each write in a
 * numbered log before it is issued. The content of a write follows from its number alone, so log and image together replay to the exact
 * bytes at any mark: after the first n writes.
 */

export interface LoggedWrite {
  readonly offset: number;
  readonly length: number;
}

export interface NbdWriter {
  write(data: Uint8Array, offset: number): Promise<void>;
}

/** Content of write `number`: half counter text, half bytes of a small generator, so that it compresses about as real data does. */
export function contentOf(number: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  const text = Buffer.from(`write ${number} of the quickstart, `);
  const half = Math.floor(length / 2);
  for (let at = 0; at < half; at += text.length) text.copy(bytes, at, 0, Math.min(text.length, half - at));
  let state = (number * 2654435761 + 12345) >>> 0;
  for (let at = half; at < length; at += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}

/** Offset and length of write `number`: 512 bytes to 64 KiB, anywhere in [from, size), not aligned to pages. */
export function placeOf(number: number, from: number, size: number): LoggedWrite {
  let state = (number * 40503 + 977) >>> 0;
  const next = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
  const sectors = Math.floor((size - from) / 512);
  const length = Math.min(sectors, 1 + next(128)) * 512;
  const offset = from + next(Math.floor((size - from - length) / 512) + 1) * 512;
  return { offset, length };
}

export class Writer {
  readonly log: LoggedWrite[] = [];
  /** Longest time from one acknowledgement to the next, milliseconds. */
  longestGapMs = 0;
  #stopping = false;
  #done: Promise<void> = Promise.resolve();

  /** Writes until `stop`; `pauseMs` paces it between acknowledgement and next write. */
  start(disk: NbdWriter, from: number, size: number, pauseMs: number): void {
    this.#done = this.#run(disk, from, size, pauseMs);
    // A failed write is reported by `stop`, which everyone calls.
    this.#done.catch(() => undefined);
  }

  async #run(disk: NbdWriter, from: number, size: number, pauseMs: number): Promise<void> {
    let last = performance.now();
    while (!this.#stopping) {
      const number = this.log.length;
      const place = placeOf(number, from, size);
      this.log.push(place);
      await disk.write(contentOf(number, place.length), place.offset);
      const now = performance.now();
      this.longestGapMs = Math.max(this.longestGapMs, now - last);
      last = now;
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }

  /** Ends after the write under way. Rejects when a write failed. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }
}

/** Applies writes [fromWrite, toWrite) of the log to an image. */
export async function replay(
  log: readonly LoggedWrite[],
  fromWrite: number,
  toWrite: number,
  put: (data: Buffer, offset: number) => Promise<unknown>,
): Promise<void> {
  for (let number = fromWrite; number < toWrite; number += 1) {
    const place = log[number];
    if (!place) throw new Error(`the cut notes ${toWrite} writes, the log has ${log.length}`);
    await put(contentOf(number, place.length), place.offset);
  }
}

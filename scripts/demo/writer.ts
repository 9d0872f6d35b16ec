/**
 * The writer of the quickstart and of whole-product tests: an NBD client that keeps writing, never pausing for anybody, and notes each
 * write in a numbered log before it is issued. The content of a write follows from its number alone, so log and image together replay to
 * the exact bytes at any mark: after the first n writes.
 *
 * Several lanes keep several writes in flight. Each lane has its own part of the disk, so the order in which writes of different
 * lanes reach the disk makes no difference, and the log's order is the order in which they were put on the connection.
 */

export interface LoggedWrite {
  /** Unique over all writers of a run; decides content and place. */
  readonly number: number;
  readonly offset: number;
  readonly length: number;
}

export interface NbdWriter {
  write(data: Uint8Array, offset: number): Promise<void>;
}

/** Where and how to write: [from, size) of the disk, at most `sectorsMax` sectors at a time. */
export interface WriterPlan {
  readonly from: number;
  readonly size: number;
  /** Milliseconds between an acknowledgement and the lane's next write. */
  readonly pauseMs: number;
  /** Default 1. */
  readonly lanes?: number;
  /** Default 128, which is 64 KiB. */
  readonly sectorsMax?: number;
}

const sectorBytes = 512;

/** Content of write `number`: half counter text, half bytes of a small generator, so that it compresses about as real data does. */
function contentOf(number: number, length: number): Buffer {
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

/** Place of write `number`: whole sectors, anywhere in [from, size), not aligned to pages. */
function placeOf(number: number, from: number, size: number, sectorsMax = 128): LoggedWrite {
  let state = (number * 40503 + 977) >>> 0;
  const next = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
  const sectors = Math.floor((size - from) / sectorBytes);
  const length = Math.min(sectors, 1 + next(sectorsMax)) * sectorBytes;
  const offset = from + next(Math.floor((size - from - length) / sectorBytes) + 1) * sectorBytes;
  return { number, offset, length };
}

export class Writer {
  readonly log: LoggedWrite[] = [];
  /** Longest time from one acknowledgement to the next, milliseconds. */
  longestGapMs = 0;
  readonly #firstNumber: number;
  readonly #unanswered = new Set<LoggedWrite>();
  #stopping = false;
  #done: Promise<unknown> = Promise.resolve();

  /** `firstNumber`: where this writer goes on counting, when another one wrote to the disk before. */
  constructor(firstNumber = 0) {
    this.#firstNumber = firstNumber;
  }

  /** Number of the next write. */
  get nextNumber(): number {
    return this.#firstNumber + this.log.length;
  }

  /** Writes that were issued and not answered; after a failed connection nobody knows whether they happened. */
  get unanswered(): readonly LoggedWrite[] {
    return [...this.#unanswered];
  }

  /** Writes until `stop`, or until the connection fails. */
  start(disk: NbdWriter, plan: WriterPlan): void {
    const lanes = plan.lanes ?? 1;
    const span = Math.floor((plan.size - plan.from) / lanes / sectorBytes) * sectorBytes;
    this.#done = Promise.all(
      Array.from({ length: lanes }, (_, lane) => {
        const from = plan.from + lane * span;
        return this.#run(disk, { ...plan, from, size: lane === lanes - 1 ? plan.size : from + span });
      }),
    );
    // A failed write is reported by `stop`, which everyone calls.
    this.#done.catch(() => undefined);
  }

  async #run(disk: NbdWriter, plan: WriterPlan): Promise<void> {
    let last = performance.now();
    while (!this.#stopping) {
      const place = placeOf(this.nextNumber, plan.from, plan.size, plan.sectorsMax);
      this.log.push(place);
      this.#unanswered.add(place);
      await disk.write(contentOf(place.number, place.length), place.offset);
      this.#unanswered.delete(place);
      const now = performance.now();
      this.longestGapMs = Math.max(this.longestGapMs, now - last);
      last = now;
      await new Promise((resolve) => setTimeout(resolve, plan.pauseMs));
    }
  }

  /** Ends after the writes under way. Rejects when a write failed. */
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
  put: (data: Buffer, offset: number) => unknown,
): Promise<void> {
  for (let index = fromWrite; index < toWrite; index += 1) {
    const place = log[index];
    if (!place) throw new Error(`the cut notes ${toWrite} writes, the log has ${log.length}`);
    await put(contentOf(place.number, place.length), place.offset);
  }
}

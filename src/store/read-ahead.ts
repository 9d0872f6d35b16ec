/**
 * Reads of segments that mostly follow one another, as those of a proof do: what was written together is read together, with few system
 * calls.
 *
 *  1. Only a read that begins where the last one ended, or a little later, reads ahead: reads here and there cost what they cost.
 *  2. Whatever reading ahead meets, an error or the end of the file, is not told: the read itself is tried alone then.
 *  3. Nothing is kept that was not durable before it was read: what stands there may be written meanwhile, and compaction moves even records of old
 *     points there while they are read.
 */
import { KiB } from '../kit/sizes.ts';
import { limits } from '../limits.ts';
import type { ReadSegment } from './point-reader.ts';
import type { Position } from './segment-format.ts';

/** What is read at a time: a read that is not in the page cache wakes a thread of the pool, which costs more than the bytes do. */
const windowBytes = limits.store.replayReadBytes;
/** Between payloads that follow one another stands at most the table of the next batch, and a few others' blocks. */
const gapBytesMax = 256 * KiB;

/** Where reads go to (`SegmentReader`). */
export interface SegmentSource {
  readAt(segment: number, into: Uint8Array, offset: number): Promise<void>;
  /** Fills `into` from `offset` of `segment`, as far as the file reaches, and answers how far. */
  readSome(segment: number, into: Uint8Array, offset: number): Promise<number>;
}

export class ReadAhead {
  readonly #source: SegmentSource;
  readonly #durableEnd: () => Position;
  #window: Uint8Array | null = null;
  #segment = -1;
  /** What of the segment the window holds. */
  #from = 0;
  #to = 0;
  /** Where the last read ended. */
  #end = -1;

  /** @param durableEnd every byte of the log before this place is durable. */
  constructor(source: SegmentSource, durableEnd: () => Position) {
    this.#source = source;
    this.#durableEnd = durableEnd;
  }

  /** One at a time. */
  readonly read: ReadSegment = async (segment, into, offset) => {
    const end = offset + into.byteLength;
    const follows = segment === this.#segment && offset >= this.#end && offset - this.#end <= gapBytesMax;
    if (segment !== this.#segment) this.#to = this.#from;
    if (follows && end > this.#to) await this.#fill(segment, offset, end);
    [this.#segment, this.#end] = [segment, end];
    const { byteLength } = into;
    if (this.#window && offset >= this.#from && end <= this.#to) {
      into.set(this.#window.subarray(offset - this.#from, offset - this.#from + byteLength));
    } else {
      await this.#source.readAt(segment, into, offset);
    }
  };

  async #fill(segment: number, offset: number, end: number): Promise<void> {
    this.#window ??= Buffer.allocUnsafeSlow(windowBytes);
    this.#to = this.#from;
    if (end - offset > windowBytes) return;
    const durable = this.#durableEnd();
    const durableTo = segment < durable.segment ? Infinity : segment === durable.segment ? durable.offset : 0; // 3
    if (end > durableTo) return;
    try {
      const filled = await this.#source.readSome(segment, this.#window, offset);
      [this.#from, this.#to] = [offset, Math.min(offset + filled, durableTo)];
    } catch {
      this.#to = this.#from; // 2
    }
  }
}

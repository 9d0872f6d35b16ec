/**
 * How a total that only rises grew lately: a ring of buckets of time. Pure: the caller brings time and total whenever it likes; what was added
 * between two notes counts as added evenly. So it needs no timer, and a look costs one pass over the ring at most.
 */
import { invariant } from './invariant.ts';

export interface Growth {
  readonly amount: number;
  /** The time it is about, milliseconds: less than was asked for until so much has been seen. 0: nothing is known. */
  readonly ms: number;
}

export class Recent {
  readonly #bucketMs: number;
  readonly #buckets: Float64Array;
  #firstMs: number | null = null;
  #notedMs = 0;
  #total = 0;

  /** Looks back at least `spanMs`. */
  constructor({ bucketMs, spanMs }: { readonly bucketMs: number; readonly spanMs: number }) {
    this.#bucketMs = bucketMs;
    // The newest bucket is not full yet, and of the oldest only a part counts.
    this.#buckets = new Float64Array(Math.ceil(spanMs / bucketMs) + 2);
  }

  /** @param nowMs never falls. @param total the total now. */
  note(nowMs: number, total: number): void {
    if (this.#firstMs === null) {
      [this.#firstMs, this.#notedMs, this.#total] = [nowMs, nowMs, total];
      return;
    }
    invariant(nowMs >= this.#notedMs, 'time rises');
    const [added, sinceMs] = [total - this.#total, this.#notedMs];
    this.#total = total;
    if (nowMs === sinceMs) {
      this.#add(this.#bucketOf(nowMs), added);
      return;
    }
    const newest = this.#bucketOf(nowMs);
    const from = Math.max(this.#bucketOf(sinceMs), newest - this.#buckets.length + 1);
    for (let bucket = from; bucket <= newest; bucket += 1) {
      const startMs = Math.max(sinceMs, bucket * this.#bucketMs);
      const endMs = Math.min(nowMs, (bucket + 1) * this.#bucketMs);
      if (bucket > this.#bucketOf(sinceMs)) this.#buckets[bucket % this.#buckets.length] = 0;
      this.#add(bucket, (added * (endMs - startMs)) / (nowMs - sinceMs));
    }
    this.#notedMs = nowMs;
  }

  /** In the `spanMs` before the last note. */
  over(spanMs: number): Growth {
    if (this.#firstMs === null) return { amount: 0, ms: 0 };
    const nowMs = this.#notedMs;
    const fromMs = Math.max(nowMs - spanMs, this.#firstMs);
    const newest = this.#bucketOf(nowMs);
    let amount = 0;
    for (let bucket = this.#bucketOf(fromMs); bucket <= newest; bucket += 1) {
      const startMs = Math.max(bucket * this.#bucketMs, this.#firstMs);
      const endMs = Math.min((bucket + 1) * this.#bucketMs, nowMs);
      const share = endMs === startMs ? 1 : (endMs - Math.max(startMs, fromMs)) / (endMs - startMs);
      amount += (this.#buckets[bucket % this.#buckets.length] ?? 0) * share;
    }
    return { amount, ms: nowMs - fromMs };
  }

  #bucketOf(ms: number): number {
    return Math.floor(ms / this.#bucketMs);
  }

  #add(bucket: number, amount: number): void {
    const at = bucket % this.#buckets.length;
    this.#buckets[at] = (this.#buckets[at] ?? 0) + amount;
  }
}

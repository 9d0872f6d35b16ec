/**
 * Which segments compaction takes next. Pure.
 *
 * Those without anything live cost nothing and go first. One under half live gives more than it takes. Beyond that the emptiest go until what is dead in
 * all of them together is at most `deadPercentMax` of what is live: a bound for the whole (space ≤ 1.2 × live, and what a segment's frame takes), for
 * the price of moving, in the worst case, about five bytes for each one given back. One that is nearly full is left alone.
 */
import { limits } from '../limits.ts';

export interface SegmentUse {
  readonly segment: number;
  /** Of the file. */
  readonly bytes: number;
  /** Of live records. */
  readonly live: number;
}

/** Above this share of live bytes nothing is gained by moving them: their frame takes as much. */
const fullShare = 0.9;

export function segmentsToCompact(segments: readonly SegmentUse[]): SegmentUse[] {
  const emptiest = [...segments].sort((a, b) => a.live / a.bytes - b.live / b.bytes || a.segment - b.segment);
  const live = segments.reduce((sum, each) => sum + each.live, 0);
  let dead = segments.reduce((sum, each) => sum + each.bytes, 0) - live;
  const chosen: SegmentUse[] = [];
  for (const each of emptiest) {
    const share = each.live / each.bytes;
    if (share > fullShare || (share >= 0.5 && dead * 100 <= live * limits.store.deadPercentMax)) break;
    chosen.push(each);
    dead -= each.bytes - each.live;
  }
  return chosen;
}

/**
 * Which points are kept, as `points.log` says: PIN, RETIRED and REMOVED (FORMAT.md). The records of retired points stay in the log, because what
 * later points list, took over and rely on is told from them.
 *
 * Invariants:
 *  1. The newest point is never retired, nor a pinned one; what is retired stays so.
 *  2. A segment that is removed lies wholly before what the newest point relies on, so the log's end is never among them.
 */
import { Problem } from '../kit/problem.ts';
import type { PinBody, PointBody, RemovedBody, RetiredBody } from './points-record.ts';
import type { Position } from './segment-format.ts';

export class KeptPoints {
  readonly retired = new Set<number>();
  readonly pinned = new Set<number>();
  readonly removed = new Set<number>();
  kept: PointBody[] = [];

  add(point: PointBody): void {
    this.kept.push(point);
  }

  objectionToPin({ point, pinned }: PinBody): string | null {
    if (point > this.#newest) return `there is no point ${point}`;
    return pinned && this.retired.has(point) ? `point ${point} is retired` : null;
  }

  pin({ point, pinned }: PinBody): void {
    if (pinned) this.pinned.add(point);
    else this.pinned.delete(point);
  }

  /** Invariant 1. */
  objectionToRetired({ points }: RetiredBody): string | null {
    let before = 0;
    for (const [first, last] of points) {
      if (first <= before || last < first) return `points ${first} to ${last} are retired after ${before}`;
      if (last >= this.#newest) return `point ${last} is retired and ${this.#newest} the newest`;
      for (let point = first; point <= last; point += 1) {
        if (this.retired.has(point)) return `point ${point} is retired already`;
        if (this.pinned.has(point)) return `point ${point} is pinned`;
      }
      before = last;
    }
    return null;
  }

  retire({ points }: RetiredBody): void {
    for (const [first, last] of points) for (let point = first; point <= last; point += 1) this.retired.add(point);
    this.kept = this.kept.filter(({ point }) => !this.retired.has(point));
  }

  /** Invariant 2. */
  objectionToRemoved({ segments }: RemovedBody, mark: Position | null): string | null {
    for (const segment of segments) {
      if (this.removed.has(segment)) return `segment ${segment} is removed already`;
      if (segment >= (mark?.segment ?? 0))
        return `segment ${segment} is removed and points rely on ${mark?.segment ?? 0}`;
    }
    return null;
  }

  remove({ segments }: RemovedBody): void {
    for (const segment of segments) this.removed.add(segment);
  }

  problem(machine: string, point: number): Problem {
    const [oldest] = this.kept;
    return new Problem('not-found', `point ${point} of machine ${machine} is no longer kept`, {
      remedy: `choose one that is: the oldest is ${oldest?.point ?? 'none'}; see tidemark points ${machine}`,
    });
  }

  get #newest(): number {
    return this.kept.at(-1)?.point ?? 0;
  }
}

/** The longest time between the cuts of two points that are kept one after the other, milliseconds; undefined when there are not two. */
export function longestSpacingMs(kept: readonly Pick<PointBody, 'cutTimeMs'>[]): number | undefined {
  if (kept.length < 2) return undefined;
  return kept.reduce(
    (longest, { cutTimeMs }, at) => Math.max(longest, cutTimeMs - (kept[at - 1] ?? { cutTimeMs }).cutTimeMs),
    0,
  );
}

/**
 * How a target does: how long batches, commits and proofs took lately, how fast its space goes, and what of a machine waits to be proven or checked. Means
 * are about what was counted since the report before; the growth is about hours, because folding gives space back in steps.
 */
import type { ReplicaFlow, TargetFlow } from '../control/flow-schemas.ts';
import { limits } from '../limits.ts';
import type { MachineStore } from '../store/machine-store.ts';
import type { TargetCounters } from '../target/counters.ts';
import type { Scrubber } from '../target/scrubber.ts';

const { growthSampleMs, growthSpanMs, growthNeedsMs } = limits.control;
const { freeBytesStop, scrubEveryMs } = limits.target;
/** Passes of checks that may have to end before one is said to be overdue. */
const scrubsOverdue = 3;

interface Counted {
  readonly batches: number;
  readonly batchMs: number;
  readonly commits: number;
  readonly commitMs: number;
  readonly proven: number;
  readonly proofMs: number;
}

const mean = (ms: number, of: number): number | null => (of > 0 ? Math.max(0, ms) / of : null);

export class TargetFlowMeter {
  #before: Counted | null = null;
  /** Oldest first. */
  #free: { readonly atMs: number; readonly bytes: number }[] = [];

  /** @param nowMs wall clock. */
  measured(counters: Readonly<TargetCounters>, freeBytes: number, nowMs: number): TargetFlow {
    const { stageMs, batchesDurable: batches, pointsCommitted, pointsRejected, queuedBytes } = counters;
    const now: Counted = {
      batches,
      batchMs: stageMs.batch,
      commits: pointsCommitted + pointsRejected,
      commitMs: stageMs.commit,
      proven: counters.blocksProven,
      proofMs: stageMs.proof,
    };
    const before = this.#before ?? now;
    this.#before = now;
    const growthBytesPerSecond = this.#growth(freeBytes, nowMs);
    const left = Math.max(0, freeBytes - freeBytesStop);
    const proofSeconds = (now.proofMs - before.proofMs) / 1000;
    return {
      batchMs: mean(now.batchMs - before.batchMs, now.batches - before.batches),
      commitMs: mean(now.commitMs - before.commitMs, now.commits - before.commits),
      queuedBytes,
      provenBlocksPerSecond: proofSeconds > 0 ? (now.proven - before.proven) / proofSeconds : null,
      growthBytesPerSecond,
      fullAtMs:
        growthBytesPerSecond === null || growthBytesPerSecond <= 0
          ? null
          : Math.min(Number.MAX_SAFE_INTEGER, Math.round(nowMs + (1000 * left) / growthBytesPerSecond)),
    };
  }

  /** Bytes per second by which free space fell; null: it was not looked at for long enough. */
  #growth(bytes: number, atMs: number): number | null {
    // A clock that was set back: what was seen before says nothing any more.
    if ((this.#free.at(-1)?.atMs ?? 0) > atMs) this.#free = [];
    const newest = this.#free.at(-1);
    if (!newest || atMs - newest.atMs >= growthSampleMs) this.#free.push({ atMs, bytes });
    this.#free = this.#free.filter((sample) => atMs - sample.atMs <= growthSpanMs);
    const [oldest] = this.#free;
    if (!oldest || atMs - oldest.atMs < growthNeedsMs) return null;
    return (1000 * (oldest.bytes - bytes)) / (atMs - oldest.atMs);
  }
}

export function replicaFlow(store: MachineStore, scrubber: Scrubber | undefined): ReplicaFlow {
  const unproven = store.unprovenPoints();
  const oldest = unproven[0] === undefined ? undefined : store.points.point(unproven[0]);
  const checkedSinceMs = scrubber?.checkedSinceMs;
  const after = (passes: number): number | null =>
    checkedSinceMs === undefined ? null : Math.round(checkedSinceMs + passes * scrubEveryMs);
  return {
    unprovenPoints: unproven.length,
    oldestUnprovenMs: oldest ? Math.round(oldest.committedMs) : null,
    nextScrubMs: after(1),
    scrubOverdueMs: after(scrubsOverdue),
  };
}

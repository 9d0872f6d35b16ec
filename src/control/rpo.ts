/**
 * RPO target, interval and actual are three things (M36): what was promised, how often a cut is made, how old the newest committed cut is now. The
 * actual swings from one interval to the next even when all is well, up to the interval plus what a cycle takes; so a target nearer than
 * `rpoTightIntervals` is warned of, and where nobody set one it is `rpoDefaultIntervals` intervals, at least `rpoDefaultSecondsMin`.
 *
 * A target tells of its points every `reportEveryMs`. What was committed since is there, and nobody knows here yet: so the actual is the age that the newest
 * cut had when the target was heard, and grows when the next report is due and does not come. Counted on from the report, every site with a target of few
 * seconds would be breached between two reports. A breach is told nonetheless at the latest `reportEveryMs` after it happened: by the next report, or by time.
 */
import { limits } from '../limits.ts';
import type { Policy } from './schemas.ts';

const { rpoDefaultIntervals, rpoDefaultSecondsMin, reportEveryMs } = limits.control;

export function rpoTargetOf({ rpoTargetSeconds, intervalSeconds }: Policy): number {
  return rpoTargetSeconds ?? Math.max(rpoDefaultSecondsMin, rpoDefaultIntervals * intervalSeconds);
}

/** The actual, seconds. @param heardMs when the target said that the newest cut is the one of `cutMs`. */
export function rpoActual(nowMs: number, cutMs: number | null, heardMs: number | null): number | null {
  if (cutMs === null) return null;
  const untoldMs = heardMs === null ? 0 : Math.min(Math.max(0, nowMs - heardMs), reportEveryMs);
  return Math.max(0, nowMs - untoldMs - cutMs) / 1000;
}

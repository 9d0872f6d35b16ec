/**
 * RPO target, interval and actual are three things (M36): what was promised, how often a cut is made, how old the newest committed cut is now. The
 * actual swings from one interval to the next even when all is well, up to the interval plus what a cycle takes; so a target nearer than
 * `rpoTightIntervals` is warned of, and where nobody set one it is `rpoDefaultIntervals` intervals, at least `rpoDefaultSecondsMin`.
 */
import { limits } from '../limits.ts';
import type { Policy } from './schemas.ts';

const { rpoDefaultIntervals, rpoDefaultSecondsMin } = limits.control;

export function rpoTargetOf({ rpoTargetSeconds, intervalSeconds }: Policy): number {
  return rpoTargetSeconds ?? Math.max(rpoDefaultSecondsMin, rpoDefaultIntervals * intervalSeconds);
}

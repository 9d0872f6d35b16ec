/**
 * Whether the next step of a cycle is another pre-copy round or the cut. Pure. As live migration does it (DESIGN §3): rounds
 * without a cut send what is left or changed since; when a round has become small, has stopped shrinking, or there were too many, a
 * cut makes the last one.
 */
import { limits } from '../limits.ts';

export interface RoundFacts {
  /** Rounds done in this cycle. */
  readonly round: number;
  /** Bytes that changed since the last swap, all disks of the machine together. */
  readonly bytes: number;
  /** The same when the round before began; null before the first. */
  readonly previousBytes: number | null;
}

export function nextStep(facts: RoundFacts): 'round' | 'cut' {
  if (facts.bytes <= limits.agent.lastRoundBytes) return 'cut';
  if (facts.round >= limits.agent.roundsMax) return 'cut';
  // Less than a tenth smaller: the writer is as fast as the link, more rounds would not converge.
  if (facts.previousBytes !== null && facts.bytes > facts.previousBytes * 0.9) return 'cut';
  return 'round';
}

/**
 * How long to rest before the next cycle, milliseconds, so that cuts are `intervalMs` apart: none when the last cycle took longer, all of it when it
 * made no point (`cutMs`, of its cut on the wall clock, is undefined) or the wall clock was set back.
 */
export function restMs(intervalMs: number, cutMs: number | undefined, nowMs: number): number {
  if (cutMs === undefined || cutMs > nowMs) return intervalMs;
  return Math.max(0, intervalMs - (nowMs - cutMs));
}

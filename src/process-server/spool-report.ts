/** What a process server says of its spool (SPOOL.md, "Levels"). */
import { limits } from '../limits.ts';

export const spoolLevels = ['ok', 'warning-30', 'warning-25', 'throttling', 'full'] as const;
export type SpoolLevel = (typeof spoolLevels)[number];

export interface SpoolReport {
  /** On disk now, all machines together. */
  readonly usedBytes: number;
  /** What may be: configured, or used and free of the file system, whichever is less. 0: there is no spool. */
  readonly limitBytes: number;
  /** That of the machine that is worst off, which of a spool that only one machine fills is that of the spool. */
  readonly level: SpoolLevel;
  /** Those of which something is on disk, or whose target is away. */
  readonly machines: readonly MachineSpoolReport[];
}

export interface MachineSpoolReport {
  readonly machine: string;
  readonly bytes: number;
  /** POINTs without an answer, on disk or not. */
  readonly points: number;
  /** Age of the oldest of them, by its cut; null: there is none. */
  readonly oldestMs: number | null;
  /** Since when the target is connected, wall clock; null: it is not. */
  readonly targetSinceMs: number | null;
  /** Of this machine's share. */
  readonly level: SpoolLevel;
  /** No agent: what an earlier session left goes out. */
  readonly draining: boolean;
  /** Why the newest write failed, until one succeeds. */
  readonly failure: string | null;
}

const { spoolWarnFreeFirst, spoolWarnFreeSecond, spoolThrottleFree } = limits.processServer;

/** @param freeBytes of `limitBytes`. */
export function levelOf(freeBytes: number, limitBytes: number): SpoolLevel {
  if (freeBytes <= 0) return 'full';
  const free = freeBytes / limitBytes;
  if (free <= spoolThrottleFree) return 'throttling';
  if (free <= spoolWarnFreeSecond) return 'warning-25';
  return free <= spoolWarnFreeFirst ? 'warning-30' : 'ok';
}

export function worse(a: SpoolLevel, b: SpoolLevel): SpoolLevel {
  return spoolLevels.indexOf(a) >= spoolLevels.indexOf(b) ? a : b;
}

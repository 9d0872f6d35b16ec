/** What `tidemark status` shows and prints as JSON: the value of `GET /v1/status`, whatever else that carries. */

export type Health = 'ok' | 'warning' | 'critical';
export interface StatusReason {
  readonly severity: 'warning' | 'critical';
  readonly code: string;
  readonly message: string;
  readonly remedy: string;
}
interface Judged {
  readonly health: Health;
  readonly reasons: readonly StatusReason[];
}
/** Promised, how often a cut is made, and true now: kept apart. */
interface Recency {
  readonly rpoTargetSeconds: number | null;
  readonly rpoIntervalSeconds: number | null;
  readonly rpoActualSeconds: number | null;
  readonly newestCommittedMs: number | null;
  readonly newestProvenMs: number | null;
  readonly lagBytes: number | null;
  /** What binds; null: nothing, or nobody knows. */
  readonly stage: { readonly name: string; readonly why: string } | null;
  /** Null: not known. */
  readonly forecast: {
    readonly breachInSeconds: number | null;
    readonly caughtUpInSeconds: number | null;
    readonly needsBytesPerSecond: number;
    readonly hasBytesPerSecond: number;
  } | null;
}
export interface DiskStatus extends Judged, Recency {
  readonly name: string;
  readonly size: number | null;
  readonly phase: string | null;
  /** A comparison of every block with the replica, from the moment it is asked for or due. */
  readonly resync: {
    readonly reason: string;
    readonly phase: string;
    readonly percent: number;
    readonly doneBytes: number;
    readonly totalBytes: number;
    readonly opensAtMs: number | null;
    readonly timeZone: string | null;
  } | null;
}
export interface MachineStatus extends Judged, Recency {
  readonly name: string;
  readonly policy: string;
  /** Scheduled, soonest first. */
  readonly next: readonly { readonly what: string; readonly atMs: number; readonly disk: string | null }[];
  /** What waits on the disk of its process server. */
  readonly spooled: { readonly bytes: number; readonly points: number; readonly oldestMs: number | null } | null;
  /** What its points can claim without hooks. */
  readonly consistency: 'crash' | 'none' | null;
  /** The newest point that was started and answered, and after how long; null: none was. */
  readonly booted: { readonly point: number; readonly atMs: number; readonly seconds: number } | null;
  /** As its target told last. */
  readonly replica: {
    readonly points: number;
    readonly oldestCutMs: number | null;
    /** Between two points that are kept one after the other. */
    readonly longestSpacingMs: number | null;
    readonly pinned: number;
    readonly storedBytes: number | null;
    readonly liveBytes: number | null;
    readonly backlogBytes: number | null;
    /** 0 to 1. */
    readonly checkedRatio: number | null;
    readonly checkedSinceMs: number | null;
    readonly failovers: readonly string[];
  } | null;
  /** Points that were due and not made since the agent started. */
  readonly gaps: readonly { readonly reason: string; readonly points: number }[];
  readonly disks: readonly DiskStatus[];
}
export interface StatusReport extends Judged {
  readonly atMs: number;
  readonly spools: readonly {
    readonly processServer: string;
    readonly level: string;
    readonly usedBytes: number;
    readonly limitBytes: number;
  }[];
  readonly machines: readonly MachineStatus[];
}

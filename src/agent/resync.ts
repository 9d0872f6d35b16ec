/**
 * Why a disk is compared with its replica by checksum, and how far that is: words shared by agent, metrics and reports.
 */

/**
 * Closed list. `log-*`, `changed-behind`, `grown`: the change log can not vouch for what changed (`capture/contract.ts`), or names so much that
 * it waits for the resync window (`log-over-limit`). `leaves-lost`: the leaf file, or what is known of it, is gone or damaged.
 * `root-mismatch`: the target's root of a point was another one. `base-mismatch`: the target is not at the point this agent was told of, or it is another replica. `requested`: by an operator.
 */
export const resyncReasons = [
  'log-new',
  'log-lost',
  'log-damaged',
  'log-foreign',
  'changed-behind',
  'grown',
  'log-over-limit',
  'leaves-lost',
  'root-mismatch',
  'base-mismatch',
  'requested',
] as const;
export type ResyncReason = (typeof resyncReasons)[number];

/** waiting: for its window, or for the session. hashing: the source is read (survey), and what differs travels with it. comparing: checksums travel. sending: blocks that differ travel. */
export const resyncPhases = ['waiting', 'hashing', 'comparing', 'sending'] as const;
export type ResyncPhase = (typeof resyncPhases)[number];

export interface ResyncReport {
  readonly reason: ResyncReason;
  readonly phase: ResyncPhase;
  /** Of the disk, in the present phase; 0 of 0 while it waits. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** When the window opens, milliseconds since the Unix epoch, while the resync waits for it. */
  readonly opensAtMs: number | null;
}

/** Whether a resync may read and send now. */
export type ResyncWindow = { readonly open: true } | { readonly open: false; readonly opensAtMs: number };

export interface ResyncRequest {
  /** Names; all disks if left out. */
  readonly disks?: readonly string[] | undefined;
  /** Do not wait for the window. */
  readonly now: boolean;
}

/** What the process that keeps the shards and its shards say to each other. Both are this program, of one start. */
import type { ProcessServerConfig } from '../config.ts';
import type { ProcessServerReport, ReportReply } from '../control/report-schemas.ts';

/** On the command line of a shard. */
export interface ShardPlan {
  /** From 1. */
  readonly index: number;
  readonly of: number;
  readonly config: ProcessServerConfig;
}

export type FromShard =
  | { readonly kind: 'ready'; readonly reachable: readonly { readonly what: string; readonly where: string }[] }
  | { readonly kind: 'failed'; readonly code: string; readonly message: string; readonly remedy: string }
  /** A machine's agent connected here. */
  | { readonly kind: 'came'; readonly machine: string }
  | { readonly kind: 'report'; readonly report: ProcessServerReport };

export type ToShard =
  /** A machine's agent connected to another one. */
  | { readonly kind: 'elsewhere'; readonly machine: string }
  | { readonly kind: 'answer'; readonly answer: ReportReply }
  | { readonly kind: 'close' };

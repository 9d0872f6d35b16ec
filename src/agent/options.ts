/** What an agent is made of. Functions are asked again whenever it matters, because policies change while it runs. */
import type { Clock } from '../kit/clock.ts';
import type { Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import type { Logger } from '../observe/logger.ts';
import type { Connection } from '../transport/connection.ts';
import type { OpenDisk } from '../wire/open-disk.ts';
import type { AppConsistency } from './app-consistency.ts';
import type { CycleContext } from './cycle.ts';
import type { BlockHasher } from './hash-blocks.ts';
import type { ResyncWindow } from './resync.ts';

export interface AgentOptions extends Pick<CycleContext, 'disks' | 'cutAll' | 'definition'> {
  readonly machine: string;
  readonly version: string;
  readonly connect: (signal: AbortSignal) => Promise<Connection>;
  /** Told why each session, or attempt at one, is over. */
  readonly onEnded?: (reason: Problem) => void;
  /** From one cut to the next, milliseconds: a cycle that took longer is followed at once. After one without a point, all of it is waited. */
  readonly intervalMs: () => number;
  readonly compression: () => OpenDisk['compression'];
  /** What freezes and thaws around the cut of an app-consistent point; default: nothing does, and none is made. */
  readonly app?: AppConsistency;
  /** From one app-consistent point to the next, milliseconds; default and null: only when asked for. */
  readonly appEveryMs?: () => number | null;
  /** When a resync may read the disk and send; default: always. */
  readonly resyncWindow?: () => ResyncWindow;
  /** Share of a disk (0 to 1) above which the changes of a cycle wait for the resync window; default 0.5, Infinity: never. */
  readonly resyncAtDirtyRatio?: () => number;
  /** Why no points are to be made now, or null (the default); what changes is captured all the same. Looked at again every second. */
  readonly hold?: () => string | null;
  /** Called between pieces of hashing and sending with their bytes; resolves when the next may begin. Default: at once. */
  readonly pace?: (bytes: number) => Promise<void>;
  /** Pauses between tries behind the quick ones, the last one again and again; default `limits.agent.retryMinutesDefault`. */
  readonly retryMinutes?: readonly number[];
  /** Hashes what has to be compared; default: on this thread. */
  readonly hasher?: BlockHasher;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

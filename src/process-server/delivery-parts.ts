/** What a delivery (`delivery.ts`) is made of, and whom it tells. */
import type { Clock } from '../kit/clock.ts';
import type { Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import type { Logger } from '../observe/logger.ts';
import type { Frame } from '../wire/frame.ts';
import type { Kept } from './kept.ts';
import type { Slabs } from './slabs.ts';
import type { Spool } from './spool.ts';
import type { Admission, ConnectTarget } from './target-link.ts';
import type { Throttle } from './throttle.ts';

/** What all deliveries of a process server share. */
export interface DeliveryParts {
  readonly connectTarget: ConnectTarget;
  readonly admission: Admission;
  readonly throttle: Throttle;
  readonly spool: Spool | null;
  readonly slabs: Slabs;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** Of this program. */
  readonly version: string;
  /** 16 random bytes in hex, made when the process started. */
  readonly instance: string;
  readonly onTarget: (failure: Problem | null) => void;
}

/** Who hears of it. */
export interface DeliveryOwner {
  /** The target answered for the first time. */
  welcomed(): void;
  /** What is for the agent: OPENED, LEAVES, REPAIR, CHECKSUMS, DURABLE, COMMITTED, REJECTED. Its memory is the listener's. */
  heard(frame: Frame): void;
  /** A batch takes nothing of the window any more. Told before `heard` of a DURABLE. */
  freed(entry: Kept, by: 'target' | 'spool'): void;
  /** What waits fell below its mark again. */
  room(): void;
  /** Every half second, where there is a spool. */
  tick(): void;
  /** All disks are open, and nothing is being compared. */
  resumable(): boolean;
  /** It may send nothing more before something of its window comes back. */
  isOutOfCredit(): boolean;
  /** It can not go on. */
  failed(error: unknown): void;
}

/** What of the spool becomes of the end: it stays for the next start, or is of no use. */
export type Remains = 'kept' | 'dropped';

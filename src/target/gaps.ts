/**
 * Gaps of one machine on their way into `points.log`: points that were due and not made, with the reason.
 *
 * Nobody waits for them and nobody answers them, so they must not cost anything: not a session when the disk is full, and not a log that grows as fast
 * as a peer can talk. What a crash of the target takes along is at most what came within `gapsEveryMs`.
 *
 * Invariants:
 *  1. Gaps of one reason that wait are one: the first time, the sum of the points, the newest detail. So as many wait as there are reasons.
 *  2. They are written at once when nothing was written for `gapsEveryMs`, else when that time is over or with the next point, whichever comes first: a
 *     gap is never merged across a point.
 *  3. What could not be written for want of space waits on. A log that failed for good ends the process by itself (C4).
 */
import type { Clock, Timer } from '../kit/clock.ts';
import { messageOf } from '../kit/problem.ts';
import { Serial } from '../kit/serial.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { MachineStore } from '../store/machine-store.ts';
import type { Gap } from '../wire/gap.ts';

export interface GapsOptions {
  readonly store: Pick<MachineStore, 'machine' | 'recordGap'>;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** As one: the older's time, the newer's detail. */
function merged(older: Gap, newer: Gap): Gap {
  const points = Math.min(Number.MAX_SAFE_INTEGER, older.points + newer.points);
  return { ...newer, atMs: Math.min(older.atMs, newer.atMs), points };
}

export class Gaps {
  readonly #options: GapsOptions;
  readonly #waiting = new Map<Gap['reason'], Gap>();
  readonly #inOrder = new Serial();
  /** While it runs, gaps wait. */
  #pause: Timer | null = null;

  constructor(options: GapsOptions) {
    this.#options = options;
  }

  add(gap: Gap): void {
    const older = this.#waiting.get(gap.reason);
    this.#waiting.set(gap.reason, older ? merged(older, gap) : gap);
    if (this.#pause === null) void this.flush();
  }

  /** Writes what waits. Resolves when that was tried; never rejects. */
  flush(): Promise<void> {
    return this.#inOrder.run(() => this.#write());
  }

  /** The last flush; nothing is added after it. */
  async stop(): Promise<void> {
    await this.flush();
    this.#pause?.cancel();
  }

  async #write(): Promise<void> {
    const { store, clock, logger } = this.#options;
    const gaps = [...this.#waiting.values()];
    if (gaps.length === 0) return;
    this.#waiting.clear();
    this.#pause?.cancel();
    this.#pause = clock.after(limits.target.gapsEveryMs, () => {
      this.#pause = null;
      void this.flush();
    });
    for (const gap of gaps) {
      try {
        await store.recordGap(gap);
      } catch (error) {
        logger.warn({ machine: store.machine, gap, error: messageOf(error) }, 'a gap could not be noted yet');
        const newer = this.#waiting.get(gap.reason);
        this.#waiting.set(gap.reason, newer ? merged(gap, newer) : gap);
      }
    }
  }
}

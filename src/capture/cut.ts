/**
 * A cut across disks: wait for an instant at which no write waits for a change log, hold new writes on all, drain, swap on all in one synchronous
 * step, release. Captures that can be cut this way implement `Cuttable` beside `CaptureDisk`.
 *
 * Writers are held from hold to release. What is in there is the writes to the image that were under way: no sync of a log, and no sync of the image
 * that a write asked for, unless the calm instant did not come.
 */
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import type { CaptureDisk, CutAll, CutReport } from './contract.ts';

export interface Cuttable {
  /**
   * `undefined`: no write waits for anything but the disk itself. Else resolves when it may be worth asking again. A cut is also right at another
   * instant; it only holds writers for longer.
   */
  writesCalm(): Promise<void> | undefined;
  /** From now on new writes wait. */
  holdWrites(): void;
  /** Resolves when no write is in flight. */
  writesDrained(): Promise<void>;
  /** Swaps under a cut; only between `holdWrites` and `releaseWrites`, drained. Returns the write requests included. */
  swapInCut(): number;
  releaseWrites(): void;
  /** Whether a cut may begin: open, nothing in sending. */
  readonly canCut: boolean;
}

function cuttable(captured: CaptureDisk): CaptureDisk & Cuttable {
  invariant('swapInCut' in captured, `disk ${captured.name} is of a capture that makes cuts itself`);
  return captured as CaptureDisk & Cuttable;
}

export function makeCutAll(clock: Clock): CutAll {
  return async (captured, drainMs): Promise<CutReport | null> => {
    const disks = captured.map(cuttable);
    for (const disk of disks) invariant(disk.canCut, `disk ${disk.name} is open and sends nothing when a cut begins`);
    if (waitingForLog(disks)) await calmOrLate(disks, clock);
    const startMs = clock.monotonicMs();
    const held: (CaptureDisk & Cuttable)[] = [];
    try {
      for (const disk of disks) {
        disk.holdWrites();
        held.push(disk);
      }
      if (!(await drainedInTime(disks, drainMs, clock))) return null;
      // A disk may have been closed, or swapped by someone else, while others drained or were not calm.
      for (const disk of disks) if (!disk.canCut) return null;
      const cutTimeMs = clock.wallMs();
      const writes = disks.map((disk) => disk.swapInCut());
      return { cutTimeMs, heldMs: clock.monotonicMs() - startMs, writes };
    } finally {
      for (const disk of held) disk.releaseWrites();
    }
  };
}

function waitingForLog(disks: readonly Cuttable[]): Promise<void> | undefined {
  for (const disk of disks) {
    const waiting = disk.writesCalm();
    if (waiting) return waiting;
  }
  return undefined;
}

/**
 * Waits for an instant at which no write on any disk waits for its change log, so that the hold lasts as long as writes to the page cache and not
 * as long as syncs of the log; but not for ever.
 */
async function calmOrLate(disks: readonly Cuttable[], clock: Clock): Promise<void> {
  let end = (): void => undefined;
  const deadline = new Promise<'late'>((resolve) => {
    end = () => resolve('late');
  });
  const timer = clock.after(limits.capture.cutCalmMs, () => end());
  for (let waiting = waitingForLog(disks); waiting; waiting = waitingForLog(disks))
    if ((await Promise.race([waiting, deadline])) === 'late') return;
  timer.cancel();
}

/** Whether all disks drained before the deadline. */
async function drainedInTime(disks: readonly Cuttable[], drainMs: number, clock: Clock): Promise<boolean> {
  let late = false;
  return new Promise<boolean>((resolve, reject) => {
    const timer = clock.after(drainMs, () => {
      late = true;
      resolve(false);
    });
    Promise.all(disks.map((disk) => disk.writesDrained())).then(() => {
      timer.cancel();
      resolve(!late);
    }, reject);
  });
}

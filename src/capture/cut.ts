/**
 * A cut across disks: hold new writes on all, drain, swap on all in one synchronous step, release. Captures that can be cut this way
 * implement `Cuttable` beside `CaptureDisk`.
 */
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import type { CaptureDisk, CutAll, CutReport } from './contract.ts';

export interface Cuttable {
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
    const startMs = clock.monotonicMs();
    const held: (CaptureDisk & Cuttable)[] = [];
    try {
      for (const disk of disks) {
        disk.holdWrites();
        held.push(disk);
      }
      if (!(await drainedInTime(disks, drainMs, clock))) return null;
      // A disk may have been closed, or swapped by someone else, while others drained.
      for (const disk of disks) if (!disk.canCut) return null;
      const cutTimeMs = clock.wallMs();
      const writes = disks.map((disk) => disk.swapInCut());
      return { cutTimeMs, heldMs: clock.monotonicMs() - startMs, writes };
    } finally {
      for (const disk of held) disk.releaseWrites();
    }
  };
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

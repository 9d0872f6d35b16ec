/**
 * Opening the disks of a session again at a target that was away (SPOOL.md, "When"). `knownPoint: null`, so that no leaves travel: the agent has its own.
 *
 *  1. Every disk must be what it was: its id, the epoch, and the point it stands at, which may also be one of those that wait for an answer. Where the
 *     target stands nowhere new, that is all; where it does, everything up to that point is committed.
 *  2. What is not of the opening (CREDIT, REPAIR, …) is not taken.
 *  3. A target that says nothing of it for `reopenMs` is as good as away, though it answers PINGs: nothing else would end the wait.
 */
import { geometryOf } from '../disk/geometry.ts';
import type { Clock, Timer } from '../kit/clock.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Connection } from '../transport/connection.ts';
import type { Committed } from '../wire/committed.ts';
import { frameType, type Frame } from '../wire/frame.ts';
import { decodeLeaves } from '../wire/leaves.ts';
import { encodeOpenDisk } from '../wire/open-disk.ts';
import { decodeOpened, type Opened } from '../wire/opened.ts';
import type { SpooledDisk } from './spool-format.ts';
import { rootsOf, type WaitingPoints } from './waiting-points.ts';

const { reopenMs } = limits.processServer;

export interface ReopeningOptions {
  readonly connection: Connection;
  readonly disks: readonly SpooledDisk[];
  readonly epoch: number;
  readonly points: WaitingPoints;
  /** What is known of the newest point may be older than what was committed: it was read from a file. */
  readonly mayLag: boolean;
  /** All are open. @param committed of which of those that waited an answer was lost on the way; null: of none. */
  readonly done: (committed: Committed | null) => void;
  /** 3. */
  readonly late: (reason: Problem) => void;
  readonly clock: Clock;
}

function changed(what: string): Problem {
  return new Problem('layer-unknown', `the target is not where it was: ${what}`, { retryable: true });
}

export class Reopening {
  readonly #options: ReopeningOptions;
  readonly #opened = new Map<number, Opened>();
  readonly #waiting: Set<number>;
  #deadline: Timer;

  constructor(options: ReopeningOptions) {
    this.#options = options;
    this.#waiting = new Set(options.disks.map(({ open }) => open.disk));
    for (const { open } of options.disks) {
      // A refused send means the target is gone, which its `closed` tells.
      options.connection.send(encodeOpenDisk({ ...open, knownPoint: null })).catch(() => undefined);
    }
    this.#deadline = this.#wait();
  }

  /** Nobody waits for it any more. Idempotent. */
  end(): void {
    this.#deadline.cancel();
  }

  #wait(): Timer {
    const { clock, late } = this.#options;
    return clock.after(reopenMs, () =>
      late(new Problem('timeout', `the target did not open its disks within ${reopenMs} ms`, { retryable: true })),
    );
  }

  /** True: the frame was of the opening. @throws Problem: a disk is not what it was. */
  take(frame: Frame): boolean {
    if (frame.type !== frameType.opened && frame.type !== frameType.leaves) return false;
    this.#deadline.cancel();
    this.#deadline = this.#wait();
    if (frame.type === frameType.opened) {
      this.#check(decodeOpened(frame.body));
      return true;
    }
    const disk = this.#options.disks.find(({ open }) => open.disk === frame.disk);
    if (!disk) throw changed(`disk ${frame.disk} was not opened`);
    const { blockCount } = geometryOf(disk.open.size, disk.open.blockSize);
    if (decodeLeaves(frame.body, blockCount).last) this.#waiting.delete(frame.disk);
    if (this.#waiting.size > 0) return true;
    this.end();
    this.#options.done(this.#committed());
    return true;
  }

  #check(opened: Opened): void {
    const { disks, epoch } = this.#options;
    const disk = disks.find(({ open }) => open.disk === opened.disk);
    if (!disk) throw changed(`disk ${opened.disk} was not opened`);
    const { name } = disk.open;
    if (opened.epoch !== epoch) {
      throw new Problem('stale-epoch', `epoch ${opened.epoch} rules, this session had ${epoch}`, { retryable: true });
    }
    if (opened.diskId !== disk.diskId) throw changed(`${name} is another replica`);
    this.#opened.set(opened.disk, opened);
  }

  #committed(): Committed | null {
    const { disks, points, mayLag } = this.#options;
    const all = disks.map(({ open, committed }) => ({
      open,
      known: committed,
      now: this.#opened.get(open.disk)?.committed ?? null,
    }));
    if (all.every(({ known, now }) => known?.point === now?.point && known?.root === now?.root)) return null;
    const [first] = all;
    const at = first?.now;
    if (!at || all.some(({ now }) => now?.cutTimeMs !== at.cutTimeMs))
      throw changed('its disks stand at different points');
    const roots = all.map(({ open, now }) => ({ disk: open.disk, root: now?.root ?? '' }));
    const point = points.at(at.cutTimeMs);
    if (point) {
      if (point.roots !== rootsOf(roots)) throw changed(`point ${at.point} has other roots`);
      return { point: at.point, cutTimeMs: at.cutTimeMs, disks: roots };
    }
    // By time, since what waits has no number yet: a clock of the agent that fell back makes it wrong, and what was spooled is sent again.
    const isOlder = points.oldest === null || at.cutTimeMs < points.oldest.cutTimeMs;
    if (mayLag && isOlder && at.point >= (first.known?.point ?? 0)) return null;
    throw changed(`it stands at point ${at.point}, which is none of this session`);
  }
}

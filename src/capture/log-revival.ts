/**
 * The end of a change log that can not be written, and the making of a new one behind writers that go on (FORMAT.md, "When the log fails").
 *
 * A new log must say of every region at least what may differ after a power failure: what the sets hold, and what was written since the image was
 * last synced, even if it was forgotten meanwhile. So: record which regions are written, sync the image, write all chunks. What was recorded on
 * the way is done again; each round is shorter, because there is less to sync. When few regions are left they become the hot ones of the new log,
 * and from that instant on writes wait for it as ever.
 */
import * as path from 'node:path';
import { Problem } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import type { LogWriter } from './log-writer.ts';
import type { LoosePins } from './loose-pins.ts';

/** After so many rounds writers are faster than the disk: another time. */
const roundsMax = 8;

export interface RevivalOptions {
  readonly pins: LoosePins;
  readonly syncImage: () => Promise<void>;
  /** Makes a whole new log under its temporary name. */
  readonly build: () => Promise<LogWriter>;
  /** So many regions may be hot from the start. */
  readonly regionsMax: number;
  /** Takes the log over, with the regions that must be hot in it, at once. */
  readonly join: (writer: LogWriter, hot: readonly number[]) => void;
}

/** @throws what failed, with nothing taken over; Problem `busy`. */
export async function reviveLog({ pins, syncImage, build, regionsMax, join }: RevivalOptions): Promise<void> {
  pins.recordAnew();
  await syncImage();
  const writer = await build();
  try {
    for (let round = 0; pins.recorded > regionsMax; round += 1) {
      if (round === roundsMax) throw new Problem('busy', 'too many regions are written to while one sync lasts');
      const regions = pins.recordAnew();
      await syncImage();
      await writer.writeChunks(regions);
      await writer.sync();
    }
  } catch (error) {
    await writer.close().catch(() => undefined);
    throw error;
  }
  join(writer, pins.regionsRecorded());
}

/**
 * Makes sure that the next start does not believe the log; false when that is impossible. It is emptied and removed, and either is enough: an empty
 * log is a damaged one, and where the directory can not be written or synced the file may still be.
 */
export async function removeLog(files: Files, logPath: string): Promise<boolean> {
  const emptied = await succeeds(async () => {
    const file = await files.open(logPath, 'write');
    try {
      await file.truncate(0);
      await file.datasync();
    } finally {
      await file.close();
    }
  });
  const removed = await succeeds(async () => {
    await files.remove(logPath);
    await files.syncDirectory(path.dirname(logPath));
  });
  return emptied || removed;
}

async function succeeds(work: () => Promise<void>): Promise<boolean> {
  try {
    await work();
    return true;
  } catch {
    return false;
  }
}

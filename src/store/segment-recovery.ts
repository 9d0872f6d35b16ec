/**
 * Opens a machine's segments for writing: replays what is there, repairs the end, hands over a log that goes on behind it.
 *
 * Invariants:
 *  1. Only the last segment is ever changed, and only above everything committed points rely on (C10); a copy of what is cut
 *     off is kept beside it (`.torn`) and durable first.
 *  2. What was read back proves nothing about the disk (C4): a process may have died after a failed sync, and the page cache still
 *     shows what the disk never got. A group is at most `groupBytesMax`, and the one before it was synced before it began; so the
 *     last `groupBytesMax` bytes, checked in memory, are written again and synced before anything relies on them.
 *  3. Writing goes on in a new segment, whose header says where this one ends.
 */
import { endOfExtents, isBefore, latest, segmentName, type Extent, type Position } from './segment-format.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import type { File, Files } from '../posix/files.ts';
import { isZero } from '../kernels/hash.ts';
import { replayAll, type ReplayedEntry, type ReplayOutcome } from './replay.ts';
import { removeSpares } from './segment-file.ts';
import { tornCopyName } from './torn-copy.ts';
import { SegmentLog, segmentLimits, type SegmentLogOptions } from './segment-log.ts';

export interface OpenSegmentLogOptions extends SegmentLogOptions {
  /** The extents of all committed points. */
  readonly extents: readonly Extent[];
  /** Segments that were removed: whatever still lies there is nothing. */
  readonly removed: ReadonlySet<number>;
  /** Entries at or after this position are shown to `visit`; absent: all. */
  readonly from?: Position | undefined;
  /** How what committed points rely on is checked; what lies above always is. */
  readonly check: 'digests' | 'headers';
}

export interface OpenedSegmentLog {
  readonly log: SegmentLog;
  readonly outcome: ReplayOutcome;
  /** Where a torn tail was cut off and where the copy of it lies. */
  readonly repaired: { readonly at: Position; readonly copy: string } | null;
}

/**
 * One opener at a time: the caller holds the lock of the data directory.
 * @param visit is awaited for each entry; views are valid until it resolves.
 * @throws Problem `store-failed` when the end can not be made durable.
 */
export async function openSegmentLog(
  options: OpenSegmentLogOptions,
  visit: (entry: ReplayedEntry) => void | Promise<void>,
): Promise<OpenedSegmentLog> {
  const { files, directory, machineId, extents, removed, check, from } = options;
  await files.makeDirectory(directory);
  // From where the chain must be known again: the segment the last point ends in, or what the caller asks for if it lies before.
  const mark = endOfExtents(extents);
  const start = from && mark ? (isBefore(from, mark) ? from : mark) : undefined;
  const outcome = await replayAll(
    { files, directory, machineId, extents, removed, from: start, check },
    async (entry) => {
      if (!(from && isBefore(entry.position, from))) await visit(entry);
    },
  );
  await removeSpares(files, directory);
  try {
    const repaired = await settleEnd(options, outcome);
    const chained = outcome.segments.flatMap(({ extent }) => (extent ? [extent] : []));
    const end = latest(outcome.end, mark) ?? { segment: 0, offset: 0 };
    const log = new SegmentLog(options, { end, extents: chained });
    await log.checkSpace();
    return { log, outcome, repaired };
  } catch (error) {
    throw new Problem('store-failed', `${directory}: its end can not be made durable: ${messageOf(error)}`, {
      remedy: 'check the health of, and the space on, the disk under the store, then start again',
      retryable: true,
      cause: error,
    });
  }
}

async function settleEnd(
  options: OpenSegmentLogOptions,
  outcome: ReplayOutcome,
): Promise<OpenedSegmentLog['repaired']> {
  const { files, directory } = options;
  let repaired: OpenedSegmentLog['repaired'] = null;
  for (const segment of outcome.unborn) {
    const path = `${directory}/${segmentName(segment)}`;
    const copy = await keepTail(files, path, 0);
    await files.remove(path);
    if (copy !== null) repaired = { at: { segment, offset: 0 }, copy };
  }
  const last = outcome.segments.at(-1);
  if (last) {
    const path = `${directory}/${segmentName(last.segment)}`;
    if (last.torn) {
      const copy = await keepTail(files, path, last.length);
      if (copy !== null) repaired = { at: { segment: last.segment, offset: last.length }, copy };
    }
    const groupBytesMax = (options.limits ?? segmentLimits).groupBytesMax;
    if (await files.exists(path)) await writeEndAgain(files, path, last.length, groupBytesMax);
  }
  await files.syncDirectory(directory);
  return repaired;
}

/** Invariant 2, and whatever lies above `length` is cut off. */
async function writeEndAgain(files: Files, path: string, length: number, groupBytesMax: number): Promise<void> {
  const file = await files.open(path, 'write');
  try {
    const from = Math.max(0, length - groupBytesMax);
    const bytes = Buffer.allocUnsafeSlow(length - from);
    const got = await file.read(bytes, from);
    if (file.facts().size > length) await file.truncate(length);
    await file.write([bytes.subarray(0, got)], from);
    await file.datasync();
  } finally {
    await file.close();
  }
}

const copyBytes = 1 << 20;

/** Copies everything from `offset` beside the file; returns the copy's path, `null` when there was nothing but zeros. */
async function keepTail(files: Files, path: string, offset: number): Promise<string | null> {
  const file = await files.open(path, 'read');
  try {
    const end = await lastByte(file, offset);
    if (end <= offset) return null;
    const copy = await tornCopyName(files, path);
    const to = await files.open(copy, 'exclusive');
    try {
      const piece = Buffer.allocUnsafeSlow(copyBytes);
      for (let at = offset; at < end; at += copyBytes) {
        const got = await file.read(piece.subarray(0, Math.min(copyBytes, end - at)), at);
        await to.write([piece.subarray(0, got)], at - offset);
      }
      await to.datasync();
    } finally {
      await to.close();
    }
    await files.syncDirectory(path.slice(0, path.lastIndexOf('/')));
    return copy;
  } finally {
    await file.close();
  }
}

/** Where the last piece that is not all zeros ends; `offset` when all that follows is zeros. */
async function lastByte(file: File, offset: number): Promise<number> {
  const { size } = file.facts();
  const piece = Buffer.allocUnsafeSlow(copyBytes);
  let end = offset;
  for (let at = offset; at < size; at += copyBytes) {
    const got = await file.read(piece, at);
    if (!isZero(piece.subarray(0, got))) end = at + got;
  }
  return end;
}

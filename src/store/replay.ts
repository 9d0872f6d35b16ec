/**
 * The one replay loop: everything that reads a machine's segments from front to back reads them here (index rebuild, opening the
 * log for writing, verification, tests).
 *
 * Invariants:
 *  1. Entries come in the order they were written. What a given-up segment holds above its trusted end never comes.
 *  2. Nothing that does not check is yielded. What is missing below the known end of a segment is in `damage` (C10); `torn` is the
 *     place where the last segment stops making sense above it.
 *  3. Replay never writes. Repair is for who opens the log for writing (`segment-recovery.ts`).
 *
 * A layer's durable batches are those numbered 0, 1, 2, … without a gap; what comes after a gap belongs to an attempt that failed or
 * to damage, and the reader leaves it out.
 */
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import type { EntryContent } from './segment-entry-reader.ts';
import { isBefore, type Extent, type Position } from './segment-format.ts';
import { surveySegments } from './segment-survey.ts';
import { walkSegment, type Damage, type SegmentEnd, type WalkedEntry } from './segment-walk.ts';

export interface ReplayOptions {
  readonly files: Files;
  /** The machine's `segments` directory. */
  readonly directory: string;
  /** 16 bytes. */
  readonly machineId: Uint8Array;
  /** The extents of all committed points (`PointsView.extents`). */
  readonly extents: readonly Extent[];
  /** The segments that were removed (`PointsView.removed`). */
  readonly removed: ReadonlySet<number>;
  /** Yield entries at or after this position; absent: from the first segment. The chain is followed from the start of its segment. */
  readonly from?: Position | undefined;
  /**
   * `digests` reads every BATCH whole and checks all of it. `headers` believes the bodies of what committed points rely on and reads
   * only their headers and rows. What lies above is always checked whole.
   */
  readonly check: 'digests' | 'headers';
}

/**
 * Views inside an entry are valid until the next one is asked for. A row's payload lies at
 * `position.offset + entryHeaderBytes + row.payloadOffset`; a BATCH's whole body is there with `check: 'digests'`.
 */
export type ReplayedEntry = ReplayedPlace & Exclude<EntryContent, { type: 'footer' }>;

export interface ReplayedPlace {
  readonly position: Position;
  /** Where the next entry of the segment begins. */
  readonly end: Position;
  readonly diskNo: number;
}

export interface ReplayOutcome {
  /** Where the next entry would stand; `null` when there is no segment. */
  readonly end: Position | null;
  /** How far each segment reaches, ascending. */
  readonly segments: readonly SegmentEnd[];
  readonly torn: Position | null;
  readonly damage: readonly Damage[];
  /** Segment files that never got a durable header: nothing in them counts. */
  readonly unborn: readonly number[];
}

/** Yields entries in order; the return value of the generator is the outcome. @throws what `Files` throws. */
export async function* replay(options: ReplayOptions): AsyncGenerator<ReplayedEntry, ReplayOutcome, void> {
  const { files, directory, machineId, extents, removed, from, check } = options;
  const survey = await surveySegments({ files, directory, machineId, extents, removed, from: from?.segment ?? 0 });
  const walkOptions = {
    files,
    machineId,
    whole: check === 'digests',
    readBytes: limits.store.replayReadBytes,
    tailBytes: limits.target.groupBytesMax,
  };
  const segments: SegmentEnd[] = [];
  for (const surveyed of survey.segments) {
    for await (const walked of walkSegment(walkOptions, surveyed, (end) => segments.push(end))) {
      const entry = replayed(walked);
      if (entry && !(from && isBefore(entry.position, from))) yield entry;
    }
  }
  return outcomeOf(segments, survey.unborn);
}

function outcomeOf(segments: readonly SegmentEnd[], unborn: readonly number[]): ReplayOutcome {
  const last = segments.at(-1);
  const end = last ? { segment: last.segment, offset: last.length } : null;
  return {
    end,
    segments,
    torn: last?.torn === true ? end : null,
    damage: segments.flatMap((segment) => segment.damage),
    unborn,
  };
}

function replayed({ position, diskNo, bytes, content }: WalkedEntry): ReplayedEntry | null {
  if (content.type === 'footer') return null;
  const end = { segment: position.segment, offset: position.offset + bytes };
  return { position, end, diskNo, ...content };
}

/** Runs a replay to its end. @param visit is awaited for each entry. */
export async function replayAll(
  options: ReplayOptions,
  visit: (entry: ReplayedEntry) => void | Promise<void>,
): Promise<ReplayOutcome> {
  const entries = replay(options);
  for (let step = await entries.next(); ; step = await entries.next()) {
    if (step.done === true) return step.value;
    await visit(step.value);
  }
}

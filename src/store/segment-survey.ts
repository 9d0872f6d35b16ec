/**
 * What is there before anything is replayed: the segment files of a machine, their headers, and from those how far each must
 * reach (C10). The known end of a segment is the largest of
 *  - what committed points rely on (their extents), and
 *  - what the next segment's header says of it: that header was made durable after those bytes were. A next one that was removed lay below the newest
 *    point, and so did all of this one: its extents name its end.
 * What should be there up to the known end and is not, is damage; only above it can a tail be torn.
 */
import { systemCode } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import {
  decodeSegmentHeader,
  segmentHeaderBytes,
  segmentName,
  segmentNumberOf,
  type Extent,
  type SegmentHeader,
} from './segment-format.ts';

export interface SurveyedSegment {
  readonly segment: number;
  readonly path: string;
  /** False: points or the next segment name it, the file is gone. */
  readonly exists: boolean;
  readonly header: SegmentHeader | null;
  /** The first 64 bytes, as they are. */
  readonly headerBytes: Uint8Array;
  /** Ascending by length. */
  readonly extents: readonly Extent[];
  /** Every byte below is known to have been durable. */
  readonly knownEnd: number;
  /** The next segment's header is there, so nothing at or above `knownEnd` counts. */
  readonly closed: boolean;
  /** A later segment holds something, so this one was not being written when the writer ended. */
  readonly followed: boolean;
}

export interface Survey {
  /** Ascending. */
  readonly segments: readonly SurveyedSegment[];
  /** Files at the end that never got a durable header and that nothing relies on: ascending. */
  readonly unborn: readonly number[];
}

interface Found {
  readonly header: SegmentHeader | null;
  readonly headerBytes: Uint8Array;
  /** Of the file, bytes. */
  readonly size: number;
}

async function readHeader(files: Files, path: string, segment: number, machineId: Uint8Array): Promise<Found> {
  const file = await files.open(path, 'read');
  try {
    const bytes = new Uint8Array(segmentHeaderBytes);
    const got = await file.read(bytes, 0);
    const headerBytes = bytes.subarray(0, got);
    return { header: decodeSegmentHeader(headerBytes, segment, machineId), headerBytes, size: file.facts().size };
  } finally {
    await file.close();
  }
}

function extentsBySegment(extents: readonly Extent[]): Map<number, Extent[]> {
  const bySegment = new Map<number, Extent[]>();
  for (const extent of extents) {
    const list = bySegment.get(extent.segment);
    if (list) list.push(extent);
    else bySegment.set(extent.segment, [extent]);
  }
  for (const list of bySegment.values()) list.sort((a, b) => a.length - b.length);
  return bySegment;
}

/** Bytes that committed points rely on and that are not there. */
export interface LostRange {
  readonly segment: number;
  readonly offset: number;
  readonly length: number;
}

/**
 * Looks at every segment any point relies on, also those far below where a replay begins: is the file there, does it reach far enough, does
 * its header hold? Reads no content.
 */
export async function lostRanges(options: {
  readonly files: Files;
  readonly directory: string;
  readonly machineId: Uint8Array;
  readonly extents: readonly Extent[];
}): Promise<LostRange[]> {
  const { files, directory, machineId, extents } = options;
  const lost: LostRange[] = [];
  for (const [segment, relied] of extentsBySegment(extents)) {
    const length = relied.at(-1)?.length ?? 0;
    try {
      const { header, size } = await readHeader(files, `${directory}/${segmentName(segment)}`, segment, machineId);
      if (header === null) lost.push({ segment, offset: 0, length: segmentHeaderBytes });
      if (size < length) lost.push({ segment, offset: size, length: length - size });
    } catch (error) {
      // Not readable just now is told, not believed: the header alone holds no block.
      const gone = systemCode(error) === 'ENOENT';
      lost.push({ segment, offset: 0, length: gone ? length : segmentHeaderBytes });
    }
  }
  return lost.sort((a, b) => a.segment - b.segment);
}

/** Surveys the segments from number `from` on, up to `to` if the log goes on behind it. Reads names and headers only. */
export async function surveySegments(options: {
  readonly files: Files;
  readonly directory: string;
  readonly machineId: Uint8Array;
  readonly extents: readonly Extent[];
  /** Segments whose files may be gone (`PointsView.removed`): whatever still lies there is nothing. */
  readonly removed: ReadonlySet<number>;
  readonly from: number;
  /** The last one; default: all there are. */
  readonly to?: number | undefined;
}): Promise<Survey> {
  const { files, directory, machineId, removed, from, to = Infinity } = options;
  const isAsked = (segment: number): boolean => segment >= from && segment <= to && !removed.has(segment);
  const pathOf = (segment: number): string => `${directory}/${segmentName(segment)}`;
  const relied = extentsBySegment(options.extents.filter(({ segment }) => isAsked(segment)));
  const found = new Map<number, Found>();
  for (const name of await files.list(directory)) {
    const segment = segmentNumberOf(name);
    if (segment !== null && (isAsked(segment) || isAsked(segment - 1)) && !removed.has(segment))
      found.set(segment, await readHeader(files, pathOf(segment), segment, machineId));
  }
  const numbers = new Set([...[...found.keys()].filter(isAsked), ...relied.keys()]);
  for (const [segment, { header }] of found)
    if (header && header.previousEnd > 0 && isAsked(segment - 1)) numbers.add(segment - 1);

  const born: SurveyedSegment[] = [];
  const unborn: number[] = [];
  for (const segment of [...numbers].sort((a, b) => b - a)) {
    const here = found.get(segment);
    const next = found.get(segment + 1)?.header ?? null;
    const extents = relied.get(segment) ?? [];
    const knownEnd = Math.max(extents.at(-1)?.length ?? 0, next?.previousEnd ?? 0);
    if (!here?.header && knownEnd === 0 && born.length === 0) {
      unborn.unshift(segment);
      continue;
    }
    born.unshift({
      segment,
      path: pathOf(segment),
      exists: here !== undefined,
      header: here?.header ?? null,
      headerBytes: here?.headerBytes ?? new Uint8Array(0),
      extents,
      knownEnd,
      closed: next !== null || removed.has(segment + 1),
      followed: born.length > 0 || segment === to,
    });
  }
  return { segments: born, unborn };
}

/**
 * Walks one segment from its header to its end: yields the entries that check, keeps the chain, tells damage from a torn tail.
 *
 * Invariants:
 *  1. Below the segment's known end (`segment-survey.ts`) whatever does not check is damage, reported with its range, and the walk goes
 *     on at the next entry that checks. At or above it the first thing that does not check ends the segment.
 *  2. Above what points rely on every BATCH is read whole and its digest checked, whatever was asked for: those bytes decide
 *     where the segment ends.
 *  3. The chain is carried over intact headers only. Over damage it is unknown, until an extent of a committed point names it again.
 */
import { isZero } from '../kernels/hash.ts';
import type { Files } from '../posix/files.ts';
import { entryStandsAt, readEntry, type EntryContent, type Reading } from './segment-entry-reader.ts';
import {
  chainNext,
  chainStart,
  findMagic,
  sameBytes,
  segmentHeaderBytes,
  toHex,
  type EntryPlace,
  type Extent,
  type Position,
} from './segment-format.ts';
import type { SurveyedSegment } from './segment-survey.ts';
import { SegmentWindow } from './segment-window.ts';

/** A range of stored bytes that should be there and is not as it was written. */
export interface Damage {
  readonly segment: number;
  readonly offset: number;
  readonly length: number;
  /** Which batch it is, where the entry's header survived. */
  readonly batch: { readonly diskNo: number; readonly seq: number; readonly batch: number } | null;
}

export interface WalkedEntry {
  readonly position: Position;
  readonly diskNo: number;
  /** Bytes in the file, header and padding included. */
  readonly bytes: number;
  readonly content: EntryContent;
}

/** How far a segment reaches. */
export interface SegmentEnd {
  readonly segment: number;
  readonly length: number;
  readonly hasFooter: boolean;
  /** The longest prefix whose chain is known; `null` when not even the header is. */
  readonly extent: Extent | null;
  /** Bytes that do not check begin at `length` (torn tail). */
  readonly torn: boolean;
  readonly damage: readonly Damage[];
}

export interface WalkOptions {
  readonly files: Files;
  readonly machineId: Uint8Array;
  /** Read BATCH bodies whole and check them below the extents too. */
  readonly whole: boolean;
  /** Bytes read at a time. */
  readonly readBytes: number;
  /** Above the end of a segment that was being written, this many bytes may hold something. */
  readonly tailBytes: number;
}

/** The state of one walk: the one place where offset, chain and extents move. */
class Walk {
  readonly segment: SurveyedSegment;
  readonly damage: Damage[] = [];
  offset = 0;
  entries = 0;
  hasFooter = false;
  readonly #machineId: Uint8Array;
  #chain: Uint8Array | null = null;
  #extent: Extent | null = null;
  /** Extents not reached yet, and the length of the last one reached. */
  readonly #ahead: Extent[];
  #reached = 0;

  constructor(segment: SurveyedSegment, machineId: Uint8Array) {
    this.segment = segment;
    this.#machineId = machineId;
    this.#ahead = [...segment.extents];
  }

  placeAt(offset: number): EntryPlace {
    return { position: { segment: this.segment.segment, offset }, machineId: this.#machineId };
  }

  report(offset: number, length: number, batch: Damage['batch'] = null): void {
    this.damage.push({ segment: this.segment.segment, offset, length, batch });
  }

  passSegmentHeader(): void {
    if (this.segment.header) this.#moveTo(segmentHeaderBytes, chainStart(this.segment.headerBytes));
    else this.skipTo(segmentHeaderBytes);
  }

  /** Steps over an entry whose header holds. */
  pass(headerBytes: Uint8Array, bytes: number): void {
    this.entries += 1;
    this.#moveTo(this.offset + bytes, this.#chain && chainNext(this.#chain, headerBytes));
  }

  /** Steps over damage that is no entry (invariant 3). */
  skipTo(offset: number): void {
    this.report(this.offset, offset - this.offset);
    this.#moveTo(offset, null);
  }

  chainIs(expected: Uint8Array): boolean {
    return this.#chain === null || sameBytes(this.#chain, expected);
  }

  end(torn: boolean): SegmentEnd {
    const { segment } = this.segment;
    const { offset, hasFooter, damage } = this;
    return { segment, length: offset, hasFooter, extent: this.#extent, torn, damage };
  }

  /** An extent whose chain differs though every entry checks: something was exchanged as a whole. */
  #moveTo(offset: number, chain: Uint8Array | null): void {
    this.offset = offset;
    this.#chain = chain;
    for (let next = this.#ahead[0]; next && next.length <= offset; next = this.#ahead[0]) {
      this.#ahead.shift();
      const agrees = next.length === offset && this.#chain !== null && toHex(this.#chain) === next.chain;
      if (!agrees && chain !== null) this.report(this.#reached, next.length - this.#reached);
      if (!agrees && next.length === offset) this.#chain = Uint8Array.from(Buffer.from(next.chain, 'hex'));
      this.#reached = next.length;
    }
    if (this.#chain) this.#extent = { segment: this.segment.segment, length: offset, chain: toHex(this.#chain) };
  }
}

/** Yields the entries of one segment in order, FOOTER included, then tells `ended`. Views are valid until the next step. */
export async function* walkSegment(
  options: WalkOptions,
  segment: SurveyedSegment,
  ended: (end: SegmentEnd) => void,
): AsyncGenerator<WalkedEntry, void, void> {
  const walk = new Walk(segment, options.machineId);
  if (!segment.exists) {
    walk.skipTo(segment.knownEnd);
    ended(walk.end(false));
    return;
  }
  walk.passSegmentHeader();
  const file = await options.files.open(segment.path, 'read');
  try {
    ended(yield* walkEntries(options, walk, new SegmentWindow(file, options.readBytes)));
  } finally {
    await file.close();
  }
}

async function* walkEntries(
  options: WalkOptions,
  walk: Walk,
  window: SegmentWindow,
): AsyncGenerator<WalkedEntry, SegmentEnd, void> {
  const { segment } = walk;
  const reliedEnd = segment.extents.at(-1)?.length ?? 0;
  for (;;) {
    if (segment.closed && walk.offset >= segment.knownEnd) return walk.end(false);
    const whole = options.whole || walk.offset >= reliedEnd;
    const reading = await readEntry(window, walk.placeAt(walk.offset), whole);
    if (reading.kind === 'entry') {
      const { header, content, bytes } = reading;
      const position = { segment: segment.segment, offset: walk.offset };
      yield { position, diskNo: header.diskNo, bytes, content };
      if (content.type !== 'footer') {
        walk.pass(reading.headerBytes, bytes);
        continue;
      }
      const { entries, chain } = content.footer;
      if (walk.damage.length === 0 && (entries !== walk.entries || !walk.chainIs(chain)))
        walk.report(walk.offset, bytes);
      walk.hasFooter = true;
      walk.pass(reading.headerBytes, bytes);
      if (walk.offset < segment.knownEnd) walk.skipTo(segment.knownEnd);
      return walk.end(false);
    }
    const end = await stepOver(options, walk, window, reading);
    if (end) return end;
  }
}

/** Invariant 1: steps over damage, or says that the segment ends here. */
async function stepOver(
  options: WalkOptions,
  walk: Walk,
  window: SegmentWindow,
  reading: Exclude<Reading, { kind: 'entry' }>,
): Promise<SegmentEnd | null> {
  const { segment, offset } = walk;
  const below = offset < segment.knownEnd;
  if (!below && !segment.followed) {
    const torn = reading.kind !== 'blank' || (await holdsBytes(window, offset, options.tailBytes));
    return walk.end(torn);
  }
  if (reading.kind === 'bad-body') {
    const { batch, header } = reading;
    walk.report(offset, reading.bytes, batch && { diskNo: header.diskNo, seq: batch.seq, batch: batch.batch });
    walk.pass(reading.headerBytes, reading.bytes);
    return null;
  }
  const limit = below ? segment.knownEnd : window.size;
  const next = await findEntry(walk, window, offset + 8, limit);
  // A segment that was given up, whose successor's header is gone: what follows its last entry was never acknowledged.
  if (next === null && !below) return walk.end(false);
  walk.skipTo(next ?? limit);
  return null;
}

/** The first place in [from, limit), in steps of 8, where an entry stands; `null` if there is none. */
async function findEntry(walk: Walk, window: SegmentWindow, from: number, limit: number): Promise<number | null> {
  for (let at = from; at < limit;) {
    const piece = await window.bytes(at, Math.min(window.readBytes, limit - at));
    const step = findMagic(piece);
    if (piece.byteLength < 4) return null;
    if (step === null) {
      at += Math.ceil((piece.byteLength - 3) / 8) * 8;
      continue;
    }
    at += step;
    if (await entryStandsAt(window, walk.placeAt(at))) return at;
    at += 8;
  }
  return null;
}

/** Whether anything but zeros lies in [offset, offset + length). */
async function holdsBytes(window: SegmentWindow, offset: number, length: number): Promise<boolean> {
  for (let at = offset; at < Math.min(offset + length, window.size); at += window.readBytes)
    if (!isZero(await window.bytes(at, window.readBytes))) return true;
  return false;
}

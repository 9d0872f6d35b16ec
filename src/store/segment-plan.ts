/**
 * Where the next entry goes, decided when it is appended and before anything is written: segment, offset, header, chain. Pure.
 *
 * Invariants:
 *  1. What is placed in one segment is contiguous and in order; a FOOTER is placed before the next segment begins.
 *  2. A new segment's header names the end of the one before it: the end of its FOOTER, or, after `giveUp`, its last durable byte.
 *     So what a given-up file holds above can never be taken for acknowledged, whatever it looks like.
 *  3. After `giveUp` nothing that was placed and not durable is part of the plan any more; a number under which nothing
 *     became durable is used again.
 */
import { invariant } from '../kit/invariant.ts';
import {
  chainNext,
  chainStart,
  encodeEntryHeader,
  encodeFooterBody,
  encodeSegmentHeader,
  entryBytes,
  entryType,
  footerEntryBytes,
  segmentHeaderBytes,
  type EntryType,
  type Position,
} from './segment-format.ts';

/** A piece of a segment ready to be written: one entry, with the segment's header before it when it is the first. */
export interface PlacedEntry {
  /** Where the entry begins. */
  readonly position: Position;
  /** Where its bytes begin in the file (0 when the segment's header comes with it) and end. */
  readonly from: number;
  readonly end: number;
  /** The parts to write, in order. The body is the caller's own memory. */
  readonly parts: readonly Uint8Array[];
  /** The segment's chain after this entry. */
  readonly chain: Uint8Array;
  /** The segment ends with this entry. */
  readonly last: boolean;
}

interface OpenSegment {
  readonly segment: number;
  readonly header: Uint8Array;
  readonly offset: number;
  readonly entries: number;
  readonly chain: Uint8Array;
}

export class SegmentPlan {
  readonly #machineId: Uint8Array;
  readonly #bytesMax: number;
  #open: OpenSegment | null = null;
  /** The segment before the next new one, and how much of it counts. */
  #previous: Position;

  /** @param previous the end of the last segment there is; segment 0, offset 0 when there is none. */
  constructor(machineId: Uint8Array, segmentBytesMax: number, previous: Position) {
    this.#machineId = machineId;
    this.#bytesMax = segmentBytesMax;
    this.#previous = previous;
  }

  /** Places an entry, behind a FOOTER and in a new segment if it does not fit. Returns what is to be written, in order. */
  place(type: EntryType, diskNo: number, body: Uint8Array): readonly [...PlacedEntry[], PlacedEntry] {
    const bytes = entryBytes(body.byteLength);
    invariant(segmentHeaderBytes + bytes + footerEntryBytes <= this.#bytesMax, 'an entry fits into a segment');
    const footer = this.#open && this.#open.offset + bytes + footerEntryBytes > this.#bytesMax ? this.finish() : null;
    const entry = this.#put(this.#open ?? this.#begin(), type, diskNo, body);
    return footer ? [footer, entry] : [entry];
  }

  /** Places the FOOTER of the open segment; `null` when none is open. */
  finish(): PlacedEntry | null {
    const open = this.#open;
    if (!open) return null;
    const footer = encodeFooterBody({ entries: open.entries, chain: open.chain });
    const placed = this.#put(open, entryType.footer, null, footer);
    this.#previous = { segment: open.segment, offset: placed.end };
    this.#open = null;
    return placed;
  }

  /** Invariant 3. @param durable the last durable byte of the last segment that has one. */
  giveUp(durable: Position): void {
    this.#open = null;
    this.#previous = durable;
  }

  #begin(): OpenSegment {
    const { segment: before, offset: previousEnd } = this.#previous;
    const segment = before + 1;
    const header = encodeSegmentHeader({ segment, previousEnd }, this.#machineId);
    return { segment, header, offset: segmentHeaderBytes, entries: 0, chain: chainStart(header) };
  }

  #put(open: OpenSegment, type: EntryType, diskNo: number | null, body: Uint8Array): PlacedEntry {
    const position = { segment: open.segment, offset: open.offset };
    const header = encodeEntryHeader({ position, machineId: this.#machineId }, type, diskNo, body);
    const end = open.offset + entryBytes(body.byteLength);
    const chain = chainNext(open.chain, header);
    const padding = new Uint8Array(end - open.offset - header.byteLength - body.byteLength);
    this.#open = { ...open, offset: end, entries: open.entries + 1, chain };
    const first = open.entries === 0;
    return {
      position,
      from: first ? 0 : open.offset,
      end,
      parts: first ? [open.header, header, body, padding] : [header, body, padding],
      chain,
      last: type === entryType.footer,
    };
  }
}

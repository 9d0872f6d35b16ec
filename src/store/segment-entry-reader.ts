/**
 * Reads what stands at one place of a segment and says what it is. Decides nothing: whether a bad place is damage or a torn tail
 * is for the walk (`segment-walk.ts`).
 */
import { isZero } from '../kernels/hash.ts';
import { isProblem } from '../kit/problem.ts';
import { decodeSealedHeader, sealedHeaderBytes, sealedRowBytes, type SealedHeader } from '../wire/sealed.ts';
import {
  bodyDigestFits,
  checkedPrefixBytes,
  checkFits,
  decodeDropBody,
  decodeEntryHeader,
  decodeFooterBody,
  decodeLayerBody,
  entryBytes,
  entryHeaderBytes,
  entryType,
  type EntryHeader,
  type EntryPlace,
  type FooterBody,
  type LayerBody,
} from './segment-format.ts';
import { decodeMovedHeader, movedTableBytes } from './segment-moved.ts';
import type { SegmentWindow } from './segment-window.ts';

export type EntryContent =
  | { readonly type: 'layer'; readonly layer: LayerBody }
  | {
      readonly type: 'batch';
      readonly header: SealedHeader;
      /** Header and rows of the SEALED body; a view, valid until the reader goes on. */
      readonly rows: Uint8Array;
      readonly bodyLength: number;
      /** The whole body, a view; `null` where it was not read. */
      readonly body: Uint8Array | null;
    }
  | { readonly type: 'drop'; readonly seq: number }
  | {
      readonly type: 'moved';
      /** What stands before the payloads; a view, valid until the reader goes on. */
      readonly table: Uint8Array;
      readonly bodyLength: number;
      /** As of a batch. */
      readonly body: Uint8Array | null;
    }
  | { readonly type: 'footer'; readonly footer: FooterBody };

export type Reading =
  /** Nothing was ever written here. */
  | { readonly kind: 'blank' }
  /** No entry stands here. */
  | { readonly kind: 'not-an-entry' }
  /** The entry's header holds (so its length does), its body does not. */
  | {
      readonly kind: 'bad-body';
      readonly header: EntryHeader;
      readonly headerBytes: Uint8Array;
      readonly bytes: number;
      readonly batch: SealedHeader | null;
    }
  | {
      readonly kind: 'entry';
      readonly header: EntryHeader;
      readonly headerBytes: Uint8Array;
      readonly bytes: number;
      readonly content: EntryContent;
    };

/** @param whole read BATCH and MOVED bodies whole and check their digests. */
export async function readEntry(window: SegmentWindow, place: EntryPlace, whole: boolean): Promise<Reading> {
  const at = place.position.offset;
  const bytes = await window.bytes(at, entryHeaderBytes);
  if (isZero(bytes)) return { kind: 'blank' };
  const headerBytes = Uint8Array.from(bytes);
  const header = decodeEntryHeader(headerBytes, place);
  if (!header) return { kind: 'not-an-entry' };
  const prefix = await window.bytes(at + entryHeaderBytes, checkedPrefixBytes(header.type, header.bodyLength));
  if (!checkFits(headerBytes, prefix)) return { kind: 'not-an-entry' };
  const known = { header, headerBytes, bytes: entryBytes(header.bodyLength) };
  if (header.type === entryType.batch) return readBatch(window, at, known, whole);
  if (header.type === entryType.moved) return readMoved(window, at, known, whole);
  const content = contentOf(header, prefix);
  return content ? { kind: 'entry', ...known, content } : { kind: 'bad-body', ...known, batch: null };
}

/** Whether an entry header with a fitting check stands at `place`: what a scan for the next entry looks for. */
export async function entryStandsAt(window: SegmentWindow, place: EntryPlace): Promise<boolean> {
  const at = place.position.offset;
  const headerBytes = Uint8Array.from(await window.bytes(at, entryHeaderBytes));
  const header = decodeEntryHeader(headerBytes, place);
  if (!header) return false;
  const prefix = await window.bytes(at + entryHeaderBytes, checkedPrefixBytes(header.type, header.bodyLength));
  return checkFits(headerBytes, prefix);
}

function contentOf(header: EntryHeader, body: Uint8Array): EntryContent | null {
  if (header.type === entryType.layer) {
    const layer = decodeLayerBody(body);
    return layer && { type: 'layer', layer };
  }
  if (header.type === entryType.drop) {
    const seq = decodeDropBody(body);
    return seq === null ? null : { type: 'drop', seq };
  }
  const footer = decodeFooterBody(body);
  return footer && { type: 'footer', footer };
}

function sealedHeaderOf(prefix: Uint8Array): SealedHeader | null {
  try {
    const header = decodeSealedHeader(prefix);
    return { ...header, digest: Uint8Array.from(header.digest) };
  } catch (error) {
    if (isProblem(error)) return null;
    throw error;
  }
}

interface Known {
  readonly header: EntryHeader;
  readonly headerBytes: Uint8Array;
  readonly bytes: number;
}

async function readBatch(window: SegmentWindow, at: number, known: Known, whole: boolean): Promise<Reading> {
  const { bodyLength } = known.header;
  const batch = sealedHeaderOf(await window.bytes(at + entryHeaderBytes, sealedHeaderBytes));
  const rowsEnd = batch ? sealedHeaderBytes + batch.count * sealedRowBytes : Infinity;
  const read = batch && (await readDigested(window, at, known, rowsEnd, whole));
  if (!read) return { kind: 'bad-body', ...known, batch };
  return {
    kind: 'entry',
    ...known,
    content: { type: 'batch', header: batch, rows: read.table, bodyLength, body: read.body },
  };
}

async function readMoved(window: SegmentWindow, at: number, known: Known, whole: boolean): Promise<Reading> {
  const { bodyLength } = known.header;
  const moved = decodeMovedHeader(await window.bytes(at + entryHeaderBytes, sealedHeaderBytes));
  const read = moved && (await readDigested(window, at, known, movedTableBytes(moved), whole));
  if (!read) return { kind: 'bad-body', ...known, batch: null };
  return { kind: 'entry', ...known, content: { type: 'moved', bodyLength, ...read } };
}

/** A body whose first bytes carry the digest of its rest, up to `tableEnd` or whole; null when it is not what that says. */
async function readDigested(
  window: SegmentWindow,
  at: number,
  known: Known,
  tableEnd: number,
  whole: boolean,
): Promise<{ table: Uint8Array; body: Uint8Array | null } | null> {
  const { bodyLength } = known.header;
  const bodyAt = at + entryHeaderBytes;
  if (tableEnd > bodyLength) return null;
  if (!whole) {
    const table = await window.bytes(bodyAt, tableEnd);
    return table.byteLength < tableEnd ? null : { table, body: null };
  }
  // The padding is covered by neither check nor digest; it must be what was written, so that no byte goes unlooked at.
  const stored = await window.bytes(bodyAt, known.bytes - entryHeaderBytes);
  const body = stored.subarray(0, bodyLength);
  if (stored.byteLength < known.bytes - entryHeaderBytes) return null;
  if (!bodyDigestFits(body) || !isZero(stored.subarray(bodyLength))) return null;
  return { table: body.subarray(0, tableEnd), body };
}

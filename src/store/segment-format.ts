/**
 * The bytes of a segment (FORMAT.md, "Segment"): header, entries, chain. Pure: bytes in, value or `null` out; `null` always means
 * "these bytes are not that", and who asked decides whether it is a torn tail or damage.
 *
 * Invariants:
 *  1. An entry header is believed only if its check fits, and the check covers the header's fields and the body's prefix.
 *  2. An entry is believed only at the place it was written for: segment number, offset and machine are part of what is checked.
 *  3. No length is used before it was bounded by the type of the entry and the largest frame.
 */
import { digest } from '../kernels/hash.ts';
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import { sealedHeaderBytes } from '../wire/sealed.ts';
import { readU64, viewOf, writeU64 } from '../wire/frame.ts';

export const segmentHeaderBytes = 64;
export const entryHeaderBytes = 64;
const machineIdBytes = 16;
const hashBytes = 32;
const checkedBytes = 32;
const segmentMagic = 0x47534d54;
const segmentVersion = 1;
const entryMagic = 0x45534d54;
/** The disk number of an entry that is about no disk. */
const noDisk = 0xffff;
const noBase = 2n ** 64n - 1n;

export const entryType = { layer: 1, batch: 2, drop: 3, moved: 4, footer: 15 } as const;
export type EntryType = (typeof entryType)[keyof typeof entryType];

export const layerBodyBytes = 56;
const dropBodyBytes = 8;
const footerBodyBytes = 40;
export const footerEntryBytes = entryHeaderBytes + footerBodyBytes;

/** Where an entry begins. */
export interface Position {
  readonly segment: number;
  /** Bytes from the start of the file. */
  readonly offset: number;
}

/** How far something relies on a segment: every byte below `length` is named by the chain (C10). */
export interface Extent {
  readonly segment: number;
  readonly length: number;
  /** 64 hex digits. */
  readonly chain: string;
}

export function isBefore(a: Position, b: Position): boolean {
  return a.segment < b.segment || (a.segment === b.segment && a.offset < b.offset);
}

/** The place up to which committed points rely on the log; `null` when none does. */
export function endOfExtents(extents: readonly Extent[]): Position | null {
  let end: Position | null = null;
  for (const { segment, length } of extents) end = latest(end, { segment, offset: length });
  return end;
}

/** The later of two places; `null` is before all. */
export function latest(a: Position | null, b: Position | null): Position | null {
  if (!a || !b) return a ?? b;
  return isBefore(a, b) ? b : a;
}

export interface SegmentHeader {
  readonly segment: number;
  /** Bytes of the segment before this one that count; what lies above was never acknowledged. 0: there is none, or nothing of it counts. */
  readonly previousEnd: number;
}

const layerKinds = ['initial', 'delta', 'resync'] as const;
export type LayerKind = (typeof layerKinds)[number];

export interface LayerBody {
  readonly seq: number;
  readonly kind: LayerKind;
  readonly keyVersion: number;
  /** The point this layer's attempt stands on. */
  readonly base: number | null;
  /** 32 bytes. */
  readonly salt: Uint8Array;
}

export interface FooterBody {
  readonly entries: number;
  /** 32 bytes. */
  readonly chain: Uint8Array;
}

export interface EntryHeader {
  readonly type: EntryType;
  readonly diskNo: number;
  readonly bodyLength: number;
  /** 32 bytes, a view. */
  readonly check: Uint8Array;
}

export function segmentName(segment: number): string {
  return `${String(segment).padStart(6, '0')}.seg`;
}

/** The number in a segment's file name; `null` for any other name (`.torn`, `.spare`, …). */
export function segmentNumberOf(name: string): number | null {
  const match = /^(\d{6,9})\.seg$/.exec(name);
  return match ? Number(match[1]) : null;
}

export function encodeSegmentHeader(header: SegmentHeader, machineId: Uint8Array): Uint8Array {
  invariant(machineId.byteLength === machineIdBytes, 'a machine id has 16 bytes');
  const bytes = new Uint8Array(segmentHeaderBytes);
  const view = viewOf(bytes);
  view.setUint32(0, segmentMagic, true);
  view.setUint16(4, segmentVersion, true);
  view.setUint32(8, header.segment, true);
  view.setUint32(12, header.previousEnd, true);
  bytes.set(machineId, 16);
  bytes.set(digest(bytes.subarray(0, checkedBytes)), checkedBytes);
  return bytes;
}

export function decodeSegmentHeader(bytes: Uint8Array, segment: number, machineId: Uint8Array): SegmentHeader | null {
  if (bytes.byteLength < segmentHeaderBytes) return null;
  const view = viewOf(bytes);
  const previousEnd = view.getUint32(12, true);
  // Everything but `previousEnd` is known beforehand, so the check is one comparison with the header as it must be.
  const expected = encodeSegmentHeader({ segment, previousEnd }, machineId);
  return sameBytes(expected, bytes.subarray(0, segmentHeaderBytes)) ? { segment, previousEnd } : null;
}

/** h₀ of a segment. */
export function chainStart(segmentHeader: Uint8Array): Uint8Array {
  return digest(segmentHeader);
}

/** hₙ from hₙ₋₁ and the n-th entry's header. */
export function chainNext(chain: Uint8Array, entryHeader: Uint8Array): Uint8Array {
  return digest(chain, entryHeader);
}

/** Bytes an entry takes in the file, padding included. */
export function entryBytes(bodyLength: number): number {
  return entryHeaderBytes + Math.ceil(bodyLength / 8) * 8;
}

/** Entries whose body begins with the digest of its rest: large ones, of which a reader may want no more than the beginning. */
function hasDigest(type: EntryType): boolean {
  return type === entryType.batch || type === entryType.moved;
}

/** How many bytes of the body the check covers, and so how many a reader needs to believe a header. */
export function checkedPrefixBytes(type: EntryType, bodyLength: number): number {
  return hasDigest(type) ? Math.min(bodyLength, sealedHeaderBytes) : bodyLength;
}

/** Where and of which machine an entry is written. */
export interface EntryPlace {
  readonly position: Position;
  readonly machineId: Uint8Array;
}

export function encodeEntryHeader(
  place: EntryPlace,
  type: EntryType,
  diskNo: number | null,
  body: Uint8Array,
): Uint8Array {
  const bytes = new Uint8Array(entryHeaderBytes);
  const view = viewOf(bytes);
  view.setUint32(0, entryMagic, true);
  view.setUint8(4, type);
  view.setUint16(6, diskNo ?? noDisk, true);
  view.setUint32(8, body.byteLength, true);
  view.setUint32(12, place.position.segment, true);
  view.setUint32(16, place.position.offset, true);
  bytes.set(place.machineId.subarray(0, 8), 24);
  const prefix = body.subarray(0, checkedPrefixBytes(type, body.byteLength));
  bytes.set(digest(bytes.subarray(0, checkedBytes), prefix), checkedBytes);
  return bytes;
}

const entryTypes: ReadonlySet<number> = new Set(Object.values(entryType));

function isEntryType(value: number): value is EntryType {
  return entryTypes.has(value);
}

function lengthFits(type: EntryType, bodyLength: number): boolean {
  switch (type) {
    case entryType.layer:
      return bodyLength === layerBodyBytes;
    case entryType.batch:
    case entryType.moved:
      return bodyLength > sealedHeaderBytes && bodyLength <= limits.wire.frameBytesMax;
    case entryType.drop:
      return bodyLength === dropBodyBytes;
    case entryType.footer:
      return bodyLength === footerBodyBytes;
  }
}

/** The fields of an entry header that stands at its own place; its check is not verified yet (`checkFits`). */
export function decodeEntryHeader(bytes: Uint8Array, place: EntryPlace): EntryHeader | null {
  if (bytes.byteLength < entryHeaderBytes) return null;
  const view = viewOf(bytes);
  if (view.getUint32(0, true) !== entryMagic) return null;
  const type = view.getUint8(4);
  const bodyLength = view.getUint32(8, true);
  if (!isEntryType(type) || !lengthFits(type, bodyLength)) return null;
  if (view.getUint32(12, true) !== place.position.segment || view.getUint32(16, true) !== place.position.offset)
    return null;
  if (!sameBytes(bytes.subarray(24, 32), place.machineId.subarray(0, 8))) return null;
  return { type, diskNo: view.getUint16(6, true), bodyLength, check: bytes.subarray(checkedBytes, entryHeaderBytes) };
}

/** Invariant 1: whether the header's check fits its own bytes and the body's prefix. */
export function checkFits(headerBytes: Uint8Array, prefix: Uint8Array): boolean {
  const expected = digest(headerBytes.subarray(0, checkedBytes), prefix);
  return sameBytes(expected, headerBytes.subarray(checkedBytes, entryHeaderBytes));
}

/** The first offset, in steps of 8, where an entry's magic stands; `null` if there is none. */
export function findMagic(bytes: Uint8Array): number | null {
  const view = viewOf(bytes);
  for (let at = 0; at + 4 <= bytes.byteLength; at += 8) if (view.getUint32(at, true) === entryMagic) return at;
  return null;
}

export function encodeLayerBody(layer: LayerBody): Uint8Array {
  invariant(layer.salt.byteLength === 32, 'a salt has 32 bytes');
  const bytes = new Uint8Array(layerBodyBytes);
  const view = viewOf(bytes);
  writeU64(view, 0, layer.seq);
  view.setUint8(8, layerKinds.indexOf(layer.kind));
  view.setUint16(10, layer.keyVersion, true);
  view.setBigUint64(16, layer.base === null ? noBase : BigInt(layer.base), true);
  bytes.set(layer.salt, 24);
  return bytes;
}

export function decodeLayerBody(bytes: Uint8Array): LayerBody | null {
  if (bytes.byteLength !== layerBodyBytes) return null;
  const view = viewOf(bytes);
  const seq = view.getBigUint64(0, true);
  const kind = layerKinds[view.getUint8(8)];
  const base = view.getBigUint64(16, true);
  const largest = BigInt(Number.MAX_SAFE_INTEGER);
  if (kind === undefined || seq > largest || (base !== noBase && base > largest)) return null;
  return {
    seq: Number(seq),
    kind,
    keyVersion: view.getUint16(10, true),
    base: base === noBase ? null : Number(base),
    salt: bytes.slice(24, 24 + hashBytes),
  };
}

export function encodeDropBody(seq: number): Uint8Array {
  const bytes = new Uint8Array(dropBodyBytes);
  writeU64(viewOf(bytes), 0, seq);
  return bytes;
}

export function decodeDropBody(bytes: Uint8Array): number | null {
  if (bytes.byteLength !== dropBodyBytes) return null;
  const seq = viewOf(bytes).getBigUint64(0, true);
  return seq > BigInt(Number.MAX_SAFE_INTEGER) ? null : Number(seq);
}

export function encodeFooterBody(footer: FooterBody): Uint8Array {
  const bytes = new Uint8Array(footerBodyBytes);
  writeU64(viewOf(bytes), 0, footer.entries);
  bytes.set(footer.chain, 8);
  return bytes;
}

export function decodeFooterBody(bytes: Uint8Array): FooterBody | null {
  if (bytes.byteLength !== footerBodyBytes) return null;
  return { entries: readU64(viewOf(bytes), 0), chain: bytes.slice(8, 8 + hashBytes) };
}

/** Whether a whole BATCH or MOVED body carries the digest its prefix promises. */
export function bodyDigestFits(body: Uint8Array): boolean {
  return sameBytes(digest(body.subarray(sealedHeaderBytes)), body.subarray(24, 24 + hashBytes));
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}

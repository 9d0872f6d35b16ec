/**
 * The bytes of a spool's files (SPOOL.md, "Files"). Pure: bytes in, value or null out.
 *
 *  1. Lengths are bounded before anything is read for them (C7).
 *  2. A header or an entry that decodes continues the chain it was held against: torn, foreign and reordered ones do not.
 */
import { z } from 'zod';
import { digest } from '../kernels/hash.ts';
import { isProblem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { hex, machineName, safeInteger } from '../wire/control-body.ts';
import { decodeCycle, type Cycle } from '../wire/cycle.ts';
import { readU64, viewOf, writeU64 } from '../wire/frame.ts';
import { decodeOpenDisk, type OpenDisk } from '../wire/open-disk.ts';

/** Of a point that a disk stands at. */
const committedSchema = z.object({ point: safeInteger.min(1), cutTimeMs: z.number(), root: hex(32) });
export type CommittedPoint = z.infer<typeof committedSchema>;

const schema = z.object({
  spool: hex(16),
  machine: machineName,
  instance: hex(16),
  epoch: safeInteger.min(1),
  disks: z
    .array(z.object({ open: z.unknown(), diskId: hex(16), committed: committedSchema.nullable() }))
    .min(1)
    .max(limits.disk.perMachineMax),
  cycles: z.array(z.unknown()).max(limits.disk.perMachineMax),
});

/** A disk of a session as it was opened, and as the target had it. */
export interface SpooledDisk {
  readonly open: OpenDisk;
  readonly diskId: string;
  readonly committed: CommittedPoint | null;
}

/** Whose frames these are. */
export interface SpoolOwner {
  readonly machine: string;
  /** Of the process that has the epoch. */
  readonly instance: string;
  readonly epoch: number;
  readonly disks: readonly SpooledDisk[];
}

export interface FileHeader extends SpoolOwner {
  readonly spool: string;
  /** Layers that go on from the file before, at most one of a disk. */
  readonly cycles: readonly Cycle[];
  /** Index of the first entry. */
  readonly first: number;
  /** Chain of the entry before the first. */
  readonly before: Uint8Array;
}

export interface EntryHeader {
  readonly frameBytes: number;
  readonly plainBytes: number;
  /** Of the frame. */
  readonly digest: Uint8Array;
  readonly chain: Uint8Array;
}

const magic = Buffer.from('TMSPOOL1');
const entryMagic = 0x59524e45;
const hashBytes = 32;
/** A file header up to its JSON. */
export const fileHeaderStartBytes = 56;
export const entryHeaderBytes = 88;
const chainAt = 56;
export const noChain: Uint8Array = new Uint8Array(hashBytes);

const isEqual = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

export function encodeFileHeader(header: FileHeader): Uint8Array {
  const { first, before, ...json } = header;
  const text = Buffer.from(JSON.stringify(json));
  const bytes = new Uint8Array(fileHeaderStartBytes + text.byteLength + hashBytes);
  const view = viewOf(bytes);
  bytes.set(magic);
  view.setUint32(8, text.byteLength, true);
  writeU64(view, 16, first);
  bytes.set(before, 24);
  bytes.set(text, fileHeaderStartBytes);
  const end = fileHeaderStartBytes + text.byteLength;
  bytes.set(digest(bytes.subarray(0, end)), end);
  return bytes;
}

/** How long the whole header is of which `start` is the beginning; null: it is none. */
export function fileHeaderBytes(start: Uint8Array): number | null {
  if (start.byteLength < fileHeaderStartBytes || !isEqual(start.subarray(0, magic.byteLength), magic)) return null;
  const text = viewOf(start).getUint32(8, true);
  return text > limits.wire.controlBytesMax ? null : fileHeaderStartBytes + text + hashBytes;
}

export function decodeFileHeader(bytes: Uint8Array): FileHeader | null {
  if (fileHeaderBytes(bytes) !== bytes.byteLength) return null;
  const end = bytes.byteLength - hashBytes;
  if (!isEqual(digest(bytes.subarray(0, end)), bytes.subarray(end))) return null;
  try {
    const json: unknown = JSON.parse(Buffer.from(bytes.subarray(fileHeaderStartBytes, end)).toString('utf8'));
    const { disks, cycles, ...rest } = schema.parse(json);
    const bodyOf = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
    return {
      ...rest,
      disks: disks.map(({ open, ...facts }) => ({ ...facts, open: decodeOpenDisk(bodyOf(open)) })),
      cycles: cycles.map((cycle) => decodeCycle(bodyOf(cycle))),
      first: readU64(viewOf(bytes), 16),
      before: bytes.slice(24, 24 + hashBytes),
    };
  } catch (error) {
    if (isProblem(error) || error instanceof z.ZodError || error instanceof SyntaxError) return null;
    throw error;
  }
}

/** @param before chain of the entry before. */
export function encodeEntryHeader(entry: {
  readonly frame: Uint8Array;
  readonly index: number;
  readonly plainBytes: number;
  readonly before: Uint8Array;
}): { readonly bytes: Uint8Array; readonly chain: Uint8Array } {
  const bytes = new Uint8Array(entryHeaderBytes);
  const view = viewOf(bytes);
  view.setUint32(0, entryMagic, true);
  view.setUint32(4, entry.frame.byteLength, true);
  writeU64(view, 8, entry.index);
  view.setUint32(16, entry.plainBytes, true);
  bytes.set(digest(entry.frame), 24);
  const chain = digest(entry.before, bytes.subarray(0, chainAt));
  bytes.set(chain, chainAt);
  return { bytes, chain };
}

/** Null: it is not entry `index` behind the one with chain `before`. */
export function decodeEntryHeader(bytes: Uint8Array, index: number, before: Uint8Array): EntryHeader | null {
  if (bytes.byteLength < entryHeaderBytes) return null;
  const view = viewOf(bytes);
  const frameBytes = view.getUint32(4, true);
  if (view.getUint32(0, true) !== entryMagic || frameBytes > limits.wire.frameBytesMax) return null;
  const chain = bytes.slice(chainAt, entryHeaderBytes);
  // The index first: what is no safe integer is no index.
  if (view.getBigUint64(8, true) !== BigInt(index)) return null;
  if (!isEqual(digest(before, bytes.subarray(0, chainAt)), chain)) return null;
  return { frameBytes, plainBytes: view.getUint32(16, true), digest: bytes.slice(24, chainAt), chain };
}

export function isFrameOf(header: EntryHeader, frame: Uint8Array): boolean {
  return isEqual(digest(frame), header.digest);
}

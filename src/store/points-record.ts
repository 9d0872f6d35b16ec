/**
 * The records of `points.log` (FORMAT.md): bytes and bodies. Pure.
 *
 * `"TMPL", u16 type, u16 version = 2, u32 body length, u32 record number, 32 bytes previous hash, body (JSON), 32 bytes hash`
 */
import { z } from 'zod';
import { digest } from '../kernels/hash.ts';
import type { LayerRun } from '../kernels/layer-run.ts';
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import { hex, safeInteger } from '../wire/control-body.ts';
import { viewOf } from '../wire/frame.ts';
import { gapReasons } from '../wire/gap.ts';
import { fitsItsEnds, layerRunField } from '../wire/layer-run.ts';
import { definitionSchema } from '../wire/definition.ts';
import { consistencies } from '../wire/point.ts';
import { isHex32, isInteger, isList, isOneOf, isPlain, isText, isTime, optional } from './plain-body.ts';
import { sameBytes, type Extent } from './segment-format.ts';

const recordHeaderBytes = 48;
const hashBytes = 32;
const magic = 0x4c504d54;
const version = 2;

const time = z.number().min(0);
const point = safeInteger.min(1);
const seqField = safeInteger.min(1);
const diskNoMax = 0xfffe;
const diskNo = z.number().int().min(0).max(diskNoMax);
const block = z.number().int().min(0).max(limits.disk.blockCountMax);
const segmentMax = 0xffffffff;
const segmentField = z.number().int().min(1).max(segmentMax);

const kinds = ['initial', 'delta', 'resync'] as const;
const disksMax = limits.disk.perMachineMax;
const evidenceCharsMax = 1024;

const epochBody = z.object({
  epoch: safeInteger,
  instance: z.string().max(256),
  atMs: time,
  /** The name in the process server's certificate. */
  server: z.string().max(64).optional(),
  /** It came with a lease: nobody without one follows. */
  lease: z.literal(true).optional(),
});
/** In place of an instance: an operator took the machine from whoever had it. */
export const releasedInstance = 'released';
const releaseBody = z.strictObject({
  epoch: safeInteger.min(1),
  instance: z.literal(releasedInstance),
  atMs: time,
});
const extentsField = z.array(z.object({ segment: segmentField, length: segmentField, chain: hex(32) }));

const pointBody = z.object({
  point,
  cutTimeMs: time,
  committedMs: time,
  consistency: z.enum(consistencies),
  evidence: z.string().max(evidenceCharsMax).optional(),
  epoch: safeInteger,
  disks: z
    .array(
      z.object({
        no: diskNo,
        size: safeInteger.min(limits.disk.sectorBytes),
        blockSize: safeInteger.min(limits.disk.blockBytesMin).max(limits.disk.blockBytesMax),
        root: hex(32),
        layers: layerRunField,
        kind: z.enum(kinds),
        records: safeInteger,
        payloadBytes: safeInteger,
        writes: safeInteger.optional(),
      }),
    )
    .min(1)
    .max(disksMax),
  extents: extentsField,
});
const provenBody = z.object({ point, atMs: time, blocks: safeInteger });
const damagedBody = z.object({
  point,
  atMs: time,
  disk: diskNo,
  blocks: z.array(block).max(limits.store.damagedBlocksMax),
});
const gapBody = z.object({
  atMs: time,
  points: safeInteger.min(1),
  reason: z.enum(gapReasons),
  detail: z.string().max(1024),
});
const machineBody = z.object({ atMs: time, definition: definitionSchema });
const failoverBody = z.object({
  id: z.string().regex(/^[a-z]+-[1-9][0-9]{0,8}$/),
  step: z.enum(['begun', 'cancelled', 'committed']),
  generation: safeInteger.min(1),
  point,
  atMs: time,
});
const bootedBody = z.object({
  point,
  atMs: time,
  /** Which failover it was started by. */
  failover: z.string().max(64),
  seconds: z.number().min(0),
  probe: z.enum(['serial', 'agent', 'tcp']),
  /** What answered. */
  detail: z.string().max(1024),
});
const pinBody = z.object({ point, pinned: z.boolean(), atMs: time });
const retiredBody = z.object({
  /** First and last of each run, ascending. */
  points: z.array(z.tuple([point, point])).min(1),
  atMs: time,
});
const removedBody = z.object({ segments: z.array(segmentField.min(1)).min(1), extents: extentsField, atMs: time });

const repairedBody = z.object({
  disk: diskNo,
  atMs: time,
  /**
   * Block; the damaged version's seq; the seq of the block's next version; the seq of a whole record with the same content. Points that read as of a seq
   * from the second to below the third read the fourth.
   */
  versions: z
    .array(z.tuple([block, seqField, seqField, seqField]))
    .min(1)
    .max(limits.store.damagedBlocksMax),
});

export type EpochBody = z.infer<typeof epochBody>;
export type PointBody = z.infer<typeof pointBody>;
export type ProvenBody = z.infer<typeof provenBody>;
export type DamagedBody = z.infer<typeof damagedBody>;
export type GapBody = z.infer<typeof gapBody>;
export type MachineBody = z.infer<typeof machineBody>;
export type FailoverBody = z.infer<typeof failoverBody>;
export type BootedBody = z.infer<typeof bootedBody>;
export type PinBody = z.infer<typeof pinBody>;
export type RetiredBody = z.infer<typeof retiredBody>;
export type RemovedBody = z.infer<typeof removedBody>;
export type RepairedBody = z.infer<typeof repairedBody>;

export type PointsEntry =
  | { readonly type: 'epoch'; readonly body: EpochBody }
  | { readonly type: 'point'; readonly body: PointBody }
  | { readonly type: 'proven'; readonly body: ProvenBody }
  | { readonly type: 'damaged'; readonly body: DamagedBody }
  | { readonly type: 'gap'; readonly body: GapBody }
  | { readonly type: 'machine'; readonly body: MachineBody }
  | { readonly type: 'failover'; readonly body: FailoverBody }
  | { readonly type: 'booted'; readonly body: BootedBody }
  | { readonly type: 'pin'; readonly body: PinBody }
  | { readonly type: 'retired'; readonly body: RetiredBody }
  | { readonly type: 'removed'; readonly body: RemovedBody }
  | { readonly type: 'repaired'; readonly body: RepairedBody };

const typeNumbers = {
  epoch: 1,
  point: 2,
  proven: 3,
  damaged: 4,
  gap: 5,
  machine: 6,
  failover: 7,
  booted: 8,
  pin: 9,
  retired: 10,
  removed: 11,
  repaired: 12,
} as const;

const typeNames = new Map<number, string>(Object.entries(typeNumbers).map(([name, number]) => [number, name]));

const entrySchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('epoch'), body: epochBody }),
  z.object({ type: z.literal('point'), body: pointBody }),
  z.object({ type: z.literal('proven'), body: provenBody }),
  z.object({ type: z.literal('damaged'), body: damagedBody }),
  z.object({ type: z.literal('gap'), body: gapBody }),
  z.object({ type: z.literal('machine'), body: machineBody }),
  z.object({ type: z.literal('failover'), body: failoverBody }),
  z.object({ type: z.literal('booted'), body: bootedBody }),
  z.object({ type: z.literal('pin'), body: pinBody }),
  z.object({ type: z.literal('retired'), body: retiredBody }),
  z.object({ type: z.literal('removed'), body: removedBody }),
  z.object({ type: z.literal('repaired'), body: repairedBody }),
]);

const isRun = isPlain<LayerRun>({
  first: isInteger(1),
  last: isInteger(1),
  count: isInteger(1),
  chain: isHex32,
});

/** Nearly all records of a long log are of these two kinds (`plain-body.ts`). */
export const isPlainPoint = isPlain<PointBody>({
  point: isInteger(1),
  cutTimeMs: isTime,
  committedMs: isTime,
  consistency: isOneOf(...consistencies),
  evidence: optional(isText(evidenceCharsMax)),
  epoch: isInteger(0),
  disks: isList(
    isPlain<PointBody['disks'][number]>({
      no: isInteger(0, diskNoMax),
      size: isInteger(limits.disk.sectorBytes),
      blockSize: isInteger(limits.disk.blockBytesMin, limits.disk.blockBytesMax),
      root: isHex32,
      layers: (value) => value === null || (isRun(value) && fitsItsEnds(value)),
      kind: isOneOf(...kinds),
      records: isInteger(0),
      payloadBytes: isInteger(0),
      writes: optional(isInteger(0)),
    }),
    1,
    disksMax,
  ),
  extents: isList(
    isPlain<Extent>({
      segment: isInteger(1, segmentMax),
      length: isInteger(1, segmentMax),
      chain: isHex32,
    }),
  ),
});

export const isPlainProven = isPlain<ProvenBody>({ point: isInteger(1), atMs: isTime, blocks: isInteger(0) });

/** What others than the target may have it write down: nothing of it decides what a point is made of. */
export const asideSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('failover'), body: failoverBody }),
  z.object({ type: z.literal('booted'), body: bootedBody }),
  z.object({ type: z.literal('pin'), body: pinBody }),
  z.object({ type: z.literal('epoch'), body: releaseBody }),
]);
export type Aside = z.infer<typeof asideSchema>;

/** The hash the first record names as its predecessor's. */
export function firstPreviousHash(machineId: Uint8Array): Uint8Array {
  return digest(machineId);
}

export interface RecordPlace {
  /** Counts from 0. */
  readonly number: number;
  /** 32 bytes. */
  readonly previousHash: Uint8Array;
}

/** A record whose own hash fits. */
export interface StoredRecord {
  readonly number: number;
  readonly previousHash: Uint8Array;
  readonly hash: Uint8Array;
  readonly bytes: number;
  /** `null`: the hash fits, but this program does not know what it says. */
  readonly entry: PointsEntry | null;
}

/** Checks the body and drops fields no schema knows. @throws invariant: bodies are made by this program. */
export function encodeRecord(entry: PointsEntry, place: RecordPlace): Uint8Array {
  const checked = entrySchema.safeParse(entry);
  invariant(checked.success, `a ${entry.type} record fits its schema: ${checked.error?.message ?? ''}`);
  const body = Buffer.from(JSON.stringify(checked.data.body));
  invariant(body.byteLength <= limits.store.pointsRecordBytesMax, `a ${entry.type} record of ${body.byteLength} bytes`);
  const bytes = new Uint8Array(recordHeaderBytes + body.byteLength + hashBytes);
  const view = viewOf(bytes);
  view.setUint32(0, magic, true);
  view.setUint16(4, typeNumbers[entry.type], true);
  view.setUint16(6, version, true);
  view.setUint32(8, body.byteLength, true);
  view.setUint32(12, place.number, true);
  bytes.set(place.previousHash, 16);
  bytes.set(body, recordHeaderBytes);
  const hashAt = recordHeaderBytes + body.byteLength;
  bytes.set(digest(bytes.subarray(0, hashAt)), hashAt);
  return bytes;
}

/** The record at `offset`, if one stands there whole; nothing is said about whether it belongs there. Its hashes are views. */
export function decodeRecord(bytes: Buffer, offset: number): StoredRecord | null {
  if (bytes.byteLength - offset < recordHeaderBytes + hashBytes || bytes.readUInt32LE(offset) !== magic) return null;
  const bodyLength = bytes.readUInt32LE(offset + 8);
  const hashAt = offset + recordHeaderBytes + bodyLength;
  if (bodyLength > limits.store.pointsRecordBytesMax || bytes.byteLength < hashAt + hashBytes) return null;
  const hash = bytes.subarray(hashAt, hashAt + hashBytes);
  if (!sameBytes(digest(bytes.subarray(offset, hashAt)), hash)) return null;
  const known = bytes.readUInt16LE(offset + 6) === version;
  return {
    number: bytes.readUInt32LE(offset + 12),
    previousHash: bytes.subarray(offset + 16, offset + recordHeaderBytes),
    hash,
    bytes: hashAt + hashBytes - offset,
    entry: known
      ? entryOf(bytes.readUInt16LE(offset + 4), bytes.toString('utf8', offset + recordHeaderBytes, hashAt))
      : null,
  };
}

/** Whether some whole record stands anywhere at or after `offset`. */
export function recordFollows(bytes: Buffer, offset: number): boolean {
  for (let at = bytes.indexOf('TMPL', offset, 'latin1'); at !== -1; at = bytes.indexOf('TMPL', at + 1, 'latin1'))
    if (decodeRecord(bytes, at)) return true;
  return false;
}

function entryOf(typeNumber: number, text: string): PointsEntry | null {
  const type = typeNames.get(typeNumber);
  if (type === undefined) return null;
  try {
    const body: unknown = JSON.parse(text);
    if (type === 'point' && isPlainPoint(body)) return { type, body };
    if (type === 'proven' && isPlainProven(body)) return { type, body };
    const parsed = entrySchema.safeParse({ type, body });
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

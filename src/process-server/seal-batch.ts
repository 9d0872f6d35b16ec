/**
 * One BATCH in, one SEALED frame out: what a worker does (DESIGN §5). Synchronous, no I/O, no state but a scratch for rows.
 *
 * Invariants:
 *  1. Every whole-block record is checked against its leaf before it is sealed, zero records too: a bit flipped between the agent
 *     and here never reaches the target. Partial records can only be checked at the target, from the whole block.
 *  2. Record i of the batch is sealed with nonce `firstNonce + i`; the lane gives each batch of a layer its own range (C6).
 *  3. The frame is built in the memory of the BATCH, from `frameAt` on: a sealed record is never longer than the plain one, and begins at
 *     most where that began, for `sealingRoom` lies before the body. Rows grow, so the plain ones are read from a copy. A batch costs no
 *     fresh memory on either side, and no copy.
 *  4. The body was accepted by `decodeBatch` on the sending thread; nothing here believes more than that.
 */
import { zeroLeaf } from '../disk/merkle.ts';
import { fullMask } from '../disk/page-mask.ts';
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { codecs, type Compression } from '../kernels/compress.ts';
import { digest, leafOf } from '../kernels/hash.ts';
import { layerKeyOf } from '../kernels/keys.ts';
import { sealRecord } from '../kernels/seal.ts';
import { limits } from '../limits.ts';
import { batchHeaderBytes, batchRecordBytes, batchRecords } from '../wire/batch.ts';
import { frameHeaderBytes, frameRoomBytes, frameType, writeFrameHeader } from '../wire/frame.ts';
import { sealedHeaderBytes, sealedRowBytes, writeSealedHeader, writeSealedRow } from '../wire/sealed.ts';

/** What goes to a worker. All byte arrays own their ArrayBuffer: posting a view would clone (and leak) all that is behind it. */
export interface SealTask {
  /** The BATCH body lies at its end, with at least `sealingRoom` bytes before. Transferred. */
  readonly buffer: ArrayBuffer;
  readonly bodyBytes: number;
  /** Index of the disk in the session, for the frame header. */
  readonly disk: number;
  readonly seq: number;
  readonly batch: number;
  readonly count: number;
  readonly firstNonce: number;
  readonly layerKey: Uint8Array;
  readonly leafKey: Uint8Array;
  readonly diskId: Uint8Array;
  readonly compression: Compression;
  /** Records in a row that compression did not help, before this batch. */
  readonly rawStreak: number;
}

export interface SealStats {
  /** Raw bytes of the pages sealed. */
  readonly plainBytes: number;
  /** Sealed bytes of payload. */
  readonly storedBytes: number;
  readonly records: number;
  readonly zeroRecords: number;
  readonly leafCheckedRecords: number;
  readonly rawStreak: number;
  readonly kernelMs: { readonly check: number; readonly seal: number; readonly digest: number };
}

export type SealOutcome =
  | {
      readonly outcome: 'sealed';
      /** The frame lies in it from `frameAt` on. Transferred back. */
      readonly buffer: ArrayBuffer;
      readonly frameBytes: number;
      readonly stats: SealStats;
    }
  | { readonly outcome: 'leaf-mismatch'; readonly block: number; readonly buffer: ArrayBuffer };

/** After so many records in a row that did not shrink, compression is only probed … */
const rawStreakBeforeProbing = 8;
/** … on every so-manyth record, until one shrinks. */
const probeEvery = 16;

/** Whether to try to compress the record with this nonce. @param rawStreak records in a row before it that did not shrink. */
export function triesToCompress(rawStreak: number, nonce: number): boolean {
  return rawStreak < rawStreakBeforeProbing || nonce % probeEvery === 0;
}

/** Where a sealed frame begins in its memory: a connection may write before it. */
export const frameAt = frameRoomBytes;

/** Bytes before the body of a BATCH of `count` records, at least (invariant 3). */
export function sealingRoom(count: number): number {
  const sealed = frameAt + frameHeaderBytes + sealedHeaderBytes + count * sealedRowBytes;
  return sealed - batchHeaderBytes - count * batchRecordBytes;
}

/** Header and rows of the batch being sealed (invariant 3). */
const plainTable = new Uint8Array(batchHeaderBytes + limits.wire.batchRecordsMax * batchRecordBytes);

const nothing = new Uint8Array(0);

export function sealBatch(task: SealTask, clock: Clock): SealOutcome {
  const { buffer, seq, batch, count, diskId } = task;
  const memory = new Uint8Array(buffer);
  const body = memory.subarray(memory.byteLength - task.bodyBytes);
  invariant(body.byteOffset >= sealingRoom(count), 'a batch has room to be sealed in place');
  const tableBytes = batchHeaderBytes + count * batchRecordBytes;
  plainTable.set(body.subarray(0, tableBytes));
  const layerKey = layerKeyOf(task.layerKey);
  const rowsAt = frameAt + frameHeaderBytes + sealedHeaderBytes;
  let rowAt = rowsAt;
  let at = rowsAt + count * sealedRowBytes;
  const payloadsAt = at;
  let { rawStreak } = task;
  let [plainBytes, zeroRecords, leafCheckedRecords, index] = [0, 0, 0, 0];
  const kernelMs = { check: 0, seal: 0, digest: 0 };
  let mark = clock.monotonicMs();
  const lap = (stage: keyof typeof kernelMs): void => {
    const now = clock.monotonicMs();
    kernelMs[stage] += now - mark;
    mark = now;
  };
  for (const record of batchRecords(body, plainTable)) {
    let pages = record.payload;
    if (record.pageMask === fullMask) {
      const leaf = leafOf(task.leafKey, pages);
      if (Buffer.compare(leaf, record.leaf) !== 0) return { outcome: 'leaf-mismatch', block: record.block, buffer };
      leafCheckedRecords += 1;
      if (leaf === zeroLeaf) {
        pages = nothing;
        zeroRecords += 1;
      }
    }
    lap('check');
    const { block, pageMask, leaf } = record;
    const nonce = task.firstNonce + index;
    const compression = triesToCompress(rawStreak, nonce) ? task.compression : 'off';
    const sealed = sealRecord({ layerKey, diskId, seq, block, pageMask, nonce, leaf, pages, compression }, memory, at);
    if (sealed.codec === codecs.raw) rawStreak += 1;
    else if (sealed.codec !== codecs.zero) rawStreak = 0;
    writeSealedRow(memory, rowAt, { block, pageMask, nonce, leaf, ...sealed });
    rowAt += sealedRowBytes;
    at += sealed.storedLength;
    plainBytes += sealed.rawLength;
    index += 1;
    lap('seal');
  }
  invariant(index === count && at <= memory.byteLength, 'a sealed batch fits where its plain one lay');
  const bodyDigest = digest(memory.subarray(rowsAt, at));
  writeSealedHeader(memory, frameAt + frameHeaderBytes, { seq, batch, count, plainBytes, digest: bodyDigest });
  const frame = memory.subarray(frameAt, at);
  writeFrameHeader(frame, frameType.sealed, task.disk);
  lap('digest');
  const storedBytes = at - payloadsAt;
  const stats = { plainBytes, storedBytes, records: count, zeroRecords, leafCheckedRecords, rawStreak, kernelMs };
  return { outcome: 'sealed', buffer, frameBytes: frame.byteLength, stats };
}

/**
 * One BATCH in, one SEALED frame out: what a worker does (DESIGN §5). Synchronous, no I/O, no state but a scratch slab.
 *
 * Invariants:
 *  1. Every whole-block record is checked against its leaf before it is sealed, zero records too: a bit flipped between the agent
 *     and here never reaches the target. Partial records can only be checked at the target, from the whole block.
 *  2. Record i of the batch is sealed with nonce `firstNonce + i`; the lane gives each batch of a layer its own range (C6).
 *  3. The frame is built in the scratch, which stays warm, then copied over the BATCH in the buffer that came: the one that was
 *     transferred in goes back, so a batch costs no fresh memory on either side.
 *  4. The body was accepted by `decodeBatch` on the sending thread; nothing here believes more than that.
 */
import { zeroLeaf } from '../disk/merkle.ts';
import { fullMask } from '../disk/page-mask.ts';
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { codecs, type Compression } from '../kernels/compress.ts';
import { digest, isZero, leafOf } from '../kernels/hash.ts';
import { layerKeyOf } from '../kernels/keys.ts';
import { sealRecord } from '../kernels/seal.ts';
import { limits } from '../limits.ts';
import { batchRecords, type BatchRecord } from '../wire/batch.ts';
import { frameHeaderBytes, frameType, writeFrameHeader } from '../wire/frame.ts';
import { sealedHeaderBytes, sealedRowBytes, writeSealedHeader, writeSealedRow } from '../wire/sealed.ts';

/** What goes to a worker. All byte arrays own their ArrayBuffer: posting a view would clone (and leak) all that is behind it. */
export interface SealTask {
  /** The BATCH body lies at its start; has room for `sealedFrameBytes`. Transferred. */
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
      /** The frame lies at its start. Transferred back. */
      readonly buffer: ArrayBuffer;
      readonly frameBytes: number;
      readonly stats: SealStats;
    }
  | { readonly outcome: 'leaf-mismatch'; readonly block: number; readonly buffer: ArrayBuffer };

/** After so many records in a row that did not shrink, compression is only probed … */
const rawStreakBeforeProbing = 8;
/** … on every so-manyth record, until one shrinks. */
const probeEvery = 16;

/** Bytes of the frame for `count` records with `payloadBytes` of payload, at most. */
export function sealedFrameBytes(count: number, payloadBytes: number): number {
  return frameHeaderBytes + sealedHeaderBytes + count * sealedRowBytes + payloadBytes;
}

export const sealedFrameBytesMax = sealedFrameBytes(limits.wire.batchRecordsMax, limits.wire.batchPayloadBytesMax);

/** Whether a whole-block record has the leaf it says, and whether it is all zero. */
function checkWhole(record: BatchRecord, leafKey: Uint8Array): { readonly fits: boolean; readonly zero: boolean } {
  const zero = isZero(record.payload);
  const expected = zero ? zeroLeaf : leafOf(leafKey, record.payload);
  return { fits: Buffer.compare(expected, record.leaf) === 0, zero };
}

const nothing = new Uint8Array(0);

/** @param scratch `sealedFrameBytesMax` bytes, reused from call to call. */
export function sealBatch(task: SealTask, scratch: Uint8Array, clock: Clock): SealOutcome {
  const { buffer, seq, batch, count, diskId } = task;
  const body = new Uint8Array(buffer, 0, task.bodyBytes);
  const layerKey = layerKeyOf(task.layerKey);
  const rowsAt = frameHeaderBytes + sealedHeaderBytes;
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
  for (const record of batchRecords(body)) {
    let pages = record.payload;
    if (record.pageMask === fullMask) {
      const { fits, zero } = checkWhole(record, task.leafKey);
      if (!fits) return { outcome: 'leaf-mismatch', block: record.block, buffer };
      leafCheckedRecords += 1;
      if (zero) {
        pages = nothing;
        zeroRecords += 1;
      }
    }
    lap('check');
    const { block, pageMask, leaf } = record;
    const nonce = task.firstNonce + index;
    const tries = rawStreak < rawStreakBeforeProbing || nonce % probeEvery === 0;
    const compression = tries ? task.compression : 'off';
    const sealed = sealRecord({ layerKey, diskId, seq, block, pageMask, nonce, leaf, pages, compression }, scratch, at);
    if (sealed.codec === codecs.raw) rawStreak += 1;
    else if (sealed.codec !== codecs.zero) rawStreak = 0;
    writeSealedRow(scratch, rowAt, { block, pageMask, nonce, leaf, ...sealed });
    rowAt += sealedRowBytes;
    at += sealed.storedLength;
    plainBytes += sealed.rawLength;
    index += 1;
    lap('seal');
  }
  invariant(index === count && at <= buffer.byteLength, 'a sealed batch fits where its plain one lay');
  const bodyDigest = digest(scratch.subarray(rowsAt, at));
  writeSealedHeader(scratch, frameHeaderBytes, { seq, batch, count, plainBytes, digest: bodyDigest });
  const frame = scratch.subarray(0, at);
  writeFrameHeader(frame, frameType.sealed, task.disk);
  new Uint8Array(buffer).set(frame); // 3
  lap('digest');
  const storedBytes = at - payloadsAt;
  const stats = { plainBytes, storedBytes, records: count, zeroRecords, leafCheckedRecords, rawStreak, kernelMs };
  return { outcome: 'sealed', buffer, frameBytes: at, stats };
}

/** What the tests of segments share: small sealed bodies, a clock that stands still, logs on a simulated disk. */
import { digest } from '../../src/kernels/hash.ts';
import { invariant } from '../../src/kit/invariant.ts';
import { systemClock } from '../../src/kit/clock.ts';
import type { ReplayedEntry, ReplayOutcome } from '../../src/store/replay.ts';
import { replayAll } from '../../src/store/replay.ts';
import type { Extent, LayerBody } from '../../src/store/segment-format.ts';
import { segmentLimits, type SegmentLimits, type SegmentLog } from '../../src/store/segment-log.ts';
import { openSegmentLog, type OpenedSegmentLog } from '../../src/store/segment-recovery.ts';
import { sealedHeaderBytes, sealedRowBytes, writeSealedHeader, writeSealedRow } from '../../src/wire/sealed.ts';
import type { Files } from '../../src/posix/files.ts';
import { SparseBytes } from '../simulated-bytes.ts';
import { SimulatedFiles } from '../simulated-files.ts';

export const directory = '/data/machines/m/segments';
export const machineId = Uint8Array.from({ length: 16 }, (_, index) => index + 1);
export const smallLimits: SegmentLimits = { ...segmentLimits, segmentBytesMax: 2048, groupBytesMax: 1024 };

/** A disk on which a machine may have segments. */
export function emptyDisk(): SimulatedFiles {
  return new SimulatedFiles([directory]);
}

/** One with this file on it. */
export function diskWith(filePath: string, bytes: Uint8Array): SimulatedFiles {
  const disk = emptyDisk();
  disk.plant(filePath, SparseBytes.of(bytes));
  return disk;
}

/** A valid SEALED body of one record whose payload is `payloadBytes` bytes that depend on (seq, batch). */
export function sealedBody(seq: number, batch: number, payloadBytes = 100): Uint8Array {
  const body = new Uint8Array(sealedHeaderBytes + sealedRowBytes + payloadBytes);
  writeSealedRow(body, sealedHeaderBytes, {
    block: batch,
    pageMask: 1,
    codec: 1,
    storedLength: payloadBytes,
    rawLength: 4096,
    nonce: batch,
    leaf: new Uint8Array(32).fill(seq & 0xff),
    tag: new Uint8Array(16).fill(batch & 0xff),
  });
  for (let at = 0; at < payloadBytes; at += 1)
    body[sealedHeaderBytes + sealedRowBytes + at] = (seq * 31 + batch * 7 + at) | 1;
  const rest = digest(body.subarray(sealedHeaderBytes));
  writeSealedHeader(body, 0, { seq, batch, count: 1, plainBytes: 4096, digest: rest });
  return body;
}

export function layerOf(seq: number): LayerBody {
  return {
    seq,
    kind: 'delta',
    keyVersion: 1,
    base: seq > 1 ? seq - 1 : null,
    salt: new Uint8Array(32).fill(seq & 0xff),
  };
}

export function openLog(
  files: Files,
  extents: readonly Extent[] = [],
  limits: SegmentLimits = smallLimits,
  removed: ReadonlySet<number> = new Set(),
): Promise<OpenedSegmentLog & { seen: string[] }> {
  const seen: string[] = [];
  const options = {
    files,
    clock: systemClock,
    directory,
    machineId,
    limits,
    extents,
    removed,
    check: 'digests' as const,
  };
  return openSegmentLog(options, (entry) => void seen.push(nameOf(entry))).then((opened) => ({ ...opened, seen }));
}

/** An entry in one word; a batch with its whole body, so that equal words mean equal bytes. */
export function nameOf(entry: ReplayedEntry): string {
  const at = `${entry.position.segment}:${entry.position.offset} ${entry.diskNo}`;
  if (entry.type === 'layer') return `${at} layer ${entry.layer.seq}`;
  if (entry.type === 'drop') return `${at} drop ${entry.seq}`;
  if (entry.type === 'moved') return `${at} moved ${entry.bodyLength}`;
  invariant(entry.body, 'the body was read');
  return `${at} batch ${entry.header.seq}/${entry.header.batch} ${Buffer.from(digest(entry.body)).toString('hex').slice(0, 8)}`;
}

export function nameOfBatch(position: { segment: number; offset: number }, diskNo: number, body: Uint8Array): string {
  const view = new DataView(body.buffer, body.byteOffset);
  const id = `${view.getUint32(0, true)}/${view.getUint32(8, true)}`;
  return `${position.segment}:${position.offset} ${diskNo} batch ${id} ${Buffer.from(digest(body)).toString('hex').slice(0, 8)}`;
}

export async function readAll(
  files: Files,
  extents: readonly Extent[] = [],
): Promise<{ seen: string[]; outcome: ReplayOutcome }> {
  const seen: string[] = [];
  const outcome = await replayAll(
    { files, directory, machineId, extents, removed: new Set<number>(), check: 'digests' },
    (entry) => void seen.push(nameOf(entry)),
  );
  return { seen, outcome };
}

/** Appends a layer and `count` batches, waits until they are durable; returns their names. */
export async function appendLayer(
  log: SegmentLog,
  diskNo: number,
  seq: number,
  count: number,
  payloadBytes = 100,
): Promise<string[]> {
  const begun = log.append({ type: 'layer', diskNo, layer: layerOf(seq) });
  const names = [`${begun.position.segment}:${begun.position.offset} ${diskNo} layer ${seq}`];
  const durable = [begun.durable];
  for (let batch = 0; batch < count; batch += 1) {
    const body = sealedBody(seq, batch, payloadBytes);
    const appended = log.append({ type: 'batch', diskNo, body });
    names.push(nameOfBatch(appended.position, diskNo, body));
    durable.push(appended.durable);
  }
  await Promise.all(durable);
  return names;
}

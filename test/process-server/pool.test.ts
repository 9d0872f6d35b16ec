import { randomBytes } from 'node:crypto';
import { afterAll, describe, expect, it } from 'vitest';
import { geometryOf } from '../../src/disk/geometry.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { digest, leafOf } from '../../src/kernels/hash.ts';
import { layerKeyOf } from '../../src/kernels/keys.ts';
import { unsealRecord } from '../../src/kernels/unseal.ts';
import { SealPool } from '../../src/process-server/pool.ts';
import { frameAt, sealBatch, sealingRoom, type SealTask } from '../../src/process-server/seal-batch.ts';
import { BatchBuilder, batchHeaderBytes, batchRecordBytes, decodeBatch } from '../../src/wire/batch.ts';
import { decodeFrame, frameType } from '../../src/wire/frame.ts';
import { codec, decodeSealedHeader, decodeSealedRows, sealedHeaderBytes } from '../../src/wire/sealed.ts';
import { batchOf } from './fakes.ts';

const geometry = geometryOf(1024 * 65_536, 65_536);
const layerKey = new Uint8Array(randomBytes(32));
const leafKey = new Uint8Array(randomBytes(32));
const diskId = new Uint8Array(randomBytes(16));
const text = (seed: number): Uint8Array =>
  Uint8Array.from({ length: 65_536 }, (_, index) => (index * seed + (index >> 6)) % 50);

function taskOf(frame: Uint8Array, change: Partial<SealTask> = {}): SealTask {
  const body = frame.subarray(8);
  const { seq, batch, count } = decodeBatch(body, geometry);
  const room = sealingRoom(count);
  const buffer = new ArrayBuffer(room + body.byteLength);
  new Uint8Array(buffer).set(body, room);
  const given = {
    buffer,
    bodyBytes: body.byteLength,
    disk: 3,
    seq,
    batch,
    count,
    firstNonce: 100,
    layerKey,
    leafKey,
    diskId,
  };
  return { ...given, compression: 'lz4', rawStreak: 0, ...change };
}

const blocks = [
  [1, text(3)],
  [2, new Uint8Array(65_536)],
  [7, new Uint8Array(randomBytes(65_536))],
  [9, text(5)],
] as const;
const frame = batchOf({ disk: 3, seq: 2 ** 32 + 1, batch: 4, leafKey, blocks });

describe('the pool', () => {
  const pool = new SealPool({ threads: 2 });
  afterAll(() => pool.close());

  it('turns a BATCH into a SEALED frame whose records unseal to what went in, and gives the same memory back', async () => {
    const task = taskOf(frame);
    const { byteLength } = task.buffer;
    const sealed = await pool.seal(task);
    expect(task.buffer.detached).toBe(true);
    if (sealed.outcome !== 'sealed') throw new Error(sealed.outcome);
    expect(sealed.buffer.byteLength).toBe(byteLength);
    const { type, disk, body } = decodeFrame(new Uint8Array(sealed.buffer, frameAt, sealed.frameBytes));
    expect({ type, disk }).toEqual({ type: frameType.sealed, disk: 3 });
    const header = decodeSealedHeader(body);
    expect(header).toMatchObject({ seq: 2 ** 32 + 1, batch: 4, count: 4, plainBytes: 3 * 65_536 });
    expect(Buffer.from(header.digest)).toEqual(Buffer.from(digest(body.subarray(sealedHeaderBytes))));
    const rows = decodeSealedRows(body, geometry);
    expect(rows.map((row) => [row.block, row.codec, row.nonce])).toEqual([
      [1, codec.lz4, 100],
      [2, codec.zero, 101],
      [7, codec.raw, 102],
      [9, codec.lz4, 103],
    ]);
    rows.forEach((row, index) => {
      const payload = body.subarray(row.payloadOffset, row.payloadOffset + row.storedLength);
      const pages = unsealRecord({
        ...row,
        layerKey: layerKeyOf(layerKey),
        diskId,
        seq: header.seq,
        payload,
        pageSize: 4096,
      });
      expect(Buffer.compare(pages, blocks[index]?.[1] ?? new Uint8Array(0))).toBe(0);
    });
    expect(sealed.stats).toMatchObject({ records: 4, zeroRecords: 1, leafCheckedRecords: 4, plainBytes: 3 * 65_536 });
    expect(sealed.stats.storedBytes).toBeLessThan(3 * 65_536);
    expect(sealed.stats.kernelMs.seal).toBeGreaterThan(0);
  });

  it('gives the same bytes as on this thread', async () => {
    const here = sealBatch(taskOf(frame), systemClock);
    const there = await pool.seal(taskOf(frame));
    if (here.outcome !== 'sealed' || there.outcome !== 'sealed') throw new Error('not sealed');
    expect(Buffer.compare(new Uint8Array(here.buffer), new Uint8Array(there.buffer))).toBe(0);
  });

  it('works through more tasks than its queue holds and stays small', async () => {
    const before = process.memoryUsage().rss;
    for (let round = 0; round < 4; round += 1) {
      const tasks = Array.from({ length: 300 }, () => pool.seal(taskOf(frame)));
      expect(pool.isCrowded).toBe(true);
      const outcomes = await Promise.all(tasks);
      expect(pool.isCrowded).toBe(false);
      expect(outcomes.every(({ outcome }) => outcome === 'sealed')).toBe(true);
    }
    expect(pool.pending).toBe(0);
    expect(process.memoryUsage().rss - before).toBeLessThan(400 * 1024 * 1024);
  });

  it('refuses tasks after it was closed', async () => {
    const closed = new SealPool({ threads: 1 });
    await closed.close();
    await closed.close();
    await expect(closed.seal(taskOf(frame))).rejects.toMatchObject({ code: 'shutting-down' });
  });
});

describe('sealBatch', () => {
  it('catches one flipped bit between agent and worker, in payload or leaf, of any whole-block record', () => {
    const recordAt = (index: number): number => 8 + batchHeaderBytes + index * batchRecordBytes;
    const payloadAt = recordAt(blocks.length);
    const flips = [
      [recordAt(0) + 16, 1],
      [recordAt(1) + 47, 2],
      [payloadAt, 1],
      [payloadAt + 65_536 + 12_345, 7],
      [payloadAt + 3 * 65_536 - 1, 9],
    ] as const;
    for (const [at, block] of flips) {
      const flipped = Uint8Array.from(frame);
      flipped[at] = (flipped[at] ?? 0) ^ 0x10;
      const outcome = sealBatch(taskOf(flipped), systemClock);
      expect(outcome).toMatchObject({ outcome: 'leaf-mismatch', block });
    }
  });

  it('does not claim to check partial records', () => {
    const builder = new BatchBuilder();
    const page = text(3).subarray(0, 4096);
    builder.add(5, 0b100, leafOf(leafKey, text(9)), 4096, (into, at) => {
      into.set(page, at);
      return 4096;
    });
    const outcome = sealBatch(taskOf(builder.finish(3, 1, 0)), systemClock);
    expect(outcome).toMatchObject({
      outcome: 'sealed',
      stats: { leafCheckedRecords: 0, records: 1, plainBytes: 4096 },
    });
  });

  it('sends a whole block of zeros without payload even if it came with one', () => {
    const builder = new BatchBuilder();
    builder.add(5, 0xffff, new Uint8Array(32), 65_536, () => 65_536);
    const outcome = sealBatch(taskOf(builder.finish(3, 1, 0)), systemClock);
    expect(outcome).toMatchObject({ outcome: 'sealed', stats: { zeroRecords: 1, storedBytes: 0, plainBytes: 0 } });
  });

  it('stops trying to compress what does not shrink, and starts again when it does', () => {
    const noise = Array.from({ length: 16 }, (_, index) => [index, new Uint8Array(randomBytes(65_536))] as const);
    const first = sealBatch(
      taskOf(batchOf({ disk: 0, seq: 1, batch: 0, leafKey, blocks: noise }), { firstNonce: 0 }),
      systemClock,
    );
    if (first.outcome !== 'sealed') throw new Error('not sealed');
    expect(first.stats.rawStreak).toBe(16);
    const texts = Array.from({ length: 16 }, (_, index) => [100 + index, text(3)] as const);
    const again = batchOf({ disk: 0, seq: 1, batch: 1, leafKey, blocks: texts });
    const codecsOf = (firstNonce: number): number[] => {
      const outcome = sealBatch(taskOf(again, { firstNonce, rawStreak: first.stats.rawStreak }), systemClock);
      if (outcome.outcome !== 'sealed') throw new Error('not sealed');
      return decodeSealedRows(new Uint8Array(outcome.buffer, frameAt + 8, outcome.frameBytes - 8), geometry).map(
        (row) => row.codec,
      );
    };
    // The probe is at every 16th nonce: here at the fifth record; from there on everything is compressed again.
    expect(codecsOf(12)).toEqual([
      ...Array.from({ length: 4 }, () => codec.raw),
      ...Array.from({ length: 12 }, () => codec.lz4),
    ]);
  });
});

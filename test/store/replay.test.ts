import { describe, expect, it } from 'vitest';
import { digest } from '../../src/kernels/hash.ts';
import { invariant } from '../../src/kit/invariant.ts';
import {
  encodeDropBody,
  encodeEntryHeader,
  encodeSegmentHeader,
  entryType,
  type Extent,
} from '../../src/store/segment-format.ts';
import { replay } from '../../src/store/replay.ts';
import type { Damage } from '../../src/store/segment-walk.ts';
import {
  appendLayer,
  directory,
  diskWith,
  emptyDisk,
  layerOf,
  machineId,
  openLog,
  readAll,
  sealedBody,
  smallLimits,
} from './segment-fixture.ts';
import { SparseBytes, worstDice } from '../simulated-bytes.ts';
import type { SimulatedFiles } from '../simulated-files.ts';

const first = `${directory}/000001.seg`;
const roomy = { ...smallLimits, segmentBytesMax: 1 << 16 };

/** One segment with a layer and `count` batches, and the extent a point would name now. */
async function written(
  count: number,
): Promise<{ disk: SimulatedFiles; names: string[]; extents: Extent[]; ends: number[]; bytes: Buffer }> {
  const disk = emptyDisk();
  const { log } = await openLog(disk, [], roomy);
  const begun = log.append({ type: 'layer', diskNo: 0, layer: layerOf(1) });
  await begun.durable;
  const ends = [begun.end.offset];
  for (let batch = 0; batch < count; batch += 1) {
    // Odd lengths, so that there is padding.
    const appended = log.append({ type: 'batch', diskNo: 0, body: sealedBody(1, batch, 21 + batch) });
    await appended.durable;
    ends.push(appended.end.offset);
  }
  const { seen } = await readAll(disk);
  const bytes = disk.content(first).bytes().subarray(0, ends.at(-1));
  return { disk, names: seen, extents: log.extentsSince(null), ends, bytes };
}

function covers(damage: readonly Damage[], offset: number): boolean {
  return damage.some((range) => range.offset <= offset && offset < range.offset + range.length);
}

describe('golden bytes', () => {
  it('of a segment header, an entry header and a whole segment', async () => {
    const header = encodeSegmentHeader({ segment: 2, previousEnd: 0x1234 }, machineId);
    expect(Buffer.from(header).toString('hex')).toBe(
      '544d534701000000' +
        '0200000034120000' +
        '0102030405060708090a0b0c0d0e0f10' +
        Buffer.from(digest(header.subarray(0, 32))).toString('hex'),
    );
    const body = encodeDropBody(0x0102030405);
    const entry = encodeEntryHeader({ position: { segment: 2, offset: 64 }, machineId }, entryType.drop, 7, body);
    expect(Buffer.from(entry).toString('hex')).toBe(
      '544d534503000700' +
        '0800000002000000' +
        '4000000000000000' +
        '0102030405060708' +
        Buffer.from(digest(entry.subarray(0, 32), body)).toString('hex'),
    );
    const { bytes, extents } = await written(2);
    expect(bytes.byteLength).toBe(64 + 64 + 56 + 64 + 160 + 64 + 160);
    expect(Buffer.from(digest(bytes)).toString('hex')).toBe(goldenSegment);
    expect(extents).toEqual([{ segment: 1, length: bytes.byteLength, chain: goldenChain }]);
  });
});

const goldenSegment = '64f663bed4f5de24095e5711b068dee1de3d761c5d4c0da5965dead5a5c50e0c';
const goldenChain = '11f06ebf3759f60ffe386bf5fe6a0b2665d672aad1fa8095e046ea0c1eec6fbc';

describe('a segment cut at any byte', () => {
  it('above all extents: ends torn, keeps what is whole, and goes on in a new segment', async () => {
    const { bytes, names, ends } = await written(4);
    const from = ends.at(-3) ?? 0;
    for (let length = from; length <= bytes.byteLength; length += 1) {
      const disk = diskWith(first, bytes.subarray(0, length));
      const whole = ends.filter((end) => end <= length);
      const { seen, outcome } = await readAll(disk);
      expect(seen).toEqual(names.slice(0, whole.length));
      expect(outcome.damage).toEqual([]);
      expect(outcome.torn).toEqual(whole.at(-1) === length ? null : { segment: 1, offset: whole.at(-1) });
      const { log, repaired } = await openLog(disk);
      expect(repaired?.at.offset).toBe(outcome.torn?.offset);
      expect(await disk.exists(`${first}.torn`)).toBe(outcome.torn !== null);
      if (repaired) expect(disk.content(repaired.copy).bytes()).toEqual(bytes.subarray(repaired.at.offset, length));
      const after = await appendLayer(log, 0, 2, 1);
      const again = await readAll(disk.afterPowerLoss(worstDice));
      expect(again.seen).toEqual([...names.slice(0, whole.length), ...after]);
      expect(again.outcome.torn).toBeNull();
      expect(again.outcome.damage).toEqual([]);
    }
  });

  it('below an extent: is damage from there to the extent, and nothing is cut', async () => {
    const { bytes, extents, ends } = await written(3);
    for (let length = 0; length < bytes.byteLength; length += 7) {
      const disk = diskWith(first, bytes.subarray(0, length));
      const { outcome } = await openLog(disk, extents);
      const lastWhole = ends.filter((end) => end <= length).at(-1) ?? (length >= 64 ? 64 : 0);
      expect(outcome.torn).toBeNull();
      expect(covers(outcome.damage, Math.max(lastWhole, 64))).toBe(true);
      expect(covers(outcome.damage, bytes.byteLength - 1)).toBe(true);
      expect(disk.content(first).bytes().subarray(0, length)).toEqual(bytes.subarray(0, length));
      expect(await disk.exists(`${first}.torn`)).toBe(false);
    }
  });

  it('a missing segment that points rely on is damage as a whole, and its number is not used again', async () => {
    const { extents, bytes } = await written(2);
    const disk = emptyDisk();
    const { log, outcome } = await openLog(disk, extents);
    expect(outcome.damage).toEqual([{ segment: 1, offset: 0, length: bytes.byteLength, batch: null }]);
    expect((await appendLayer(log, 0, 2, 1))[0]).toMatch(/^2:64 /);
    expect((await readAll(disk, extents)).outcome.damage).toEqual(outcome.damage);
  });
});

describe('a segment with any byte changed', () => {
  it('below an extent: the byte is reported as damage, all other entries come', async () => {
    const { bytes, names, extents, ends } = await written(4);
    for (let at = 0; at < bytes.byteLength; at += 1) {
      const changed = Buffer.from(bytes);
      changed.writeUInt8(changed.readUInt8(at) ^ 0x10, at);
      const { seen, outcome } = await readAll(diskWith(first, changed), extents);
      expect(covers(outcome.damage, at), `byte ${at}`).toBe(true);
      expect(outcome.torn).toBeNull();
      const hit = at < 64 ? -1 : ends.findIndex((end) => at < end);
      expect(seen).toEqual(names.filter((_, index) => index !== hit));
    }
  });

  it('above all extents: a torn tail begins at its entry', async () => {
    const { bytes, names, ends } = await written(4);
    for (let at = 64; at < bytes.byteLength; at += 1) {
      const changed = Buffer.from(bytes);
      changed.writeUInt8(changed.readUInt8(at) ^ 0x10, at);
      const { seen, outcome } = await readAll(diskWith(first, changed));
      const hit = ends.findIndex((end) => at < end);
      expect(seen).toEqual(names.slice(0, hit));
      expect(outcome.damage).toEqual([]);
      expect(outcome.torn).toEqual({ segment: 1, offset: hit === 0 ? 64 : ends[hit - 1] });
    }
  });

  it('in a header above all extents: nothing of the segment counts, a copy is kept', async () => {
    const { bytes } = await written(2);
    for (let at = 0; at < 64; at += 5) {
      const changed = Buffer.from(bytes);
      changed.writeUInt8(changed.readUInt8(at) ^ 0x10, at);
      const disk = diskWith(first, changed);
      const { log, outcome, repaired } = await openLog(disk);
      expect(outcome.unborn).toEqual([1]);
      expect(repaired).toEqual({ at: { segment: 1, offset: 0 }, copy: `${first}.torn` });
      expect(disk.content(`${first}.torn`).bytes()).toEqual(changed);
      expect((await readAll(disk)).seen).toEqual([]);
      expect(await appendLayer(log, 0, 2, 1)).toHaveLength(2);
    }
  });

  it('in a closed segment that no point relies on yet: still damage, the next segment vouches for it', async () => {
    const disk = emptyDisk();
    const { log } = await openLog(disk);
    const names = await appendLayer(log, 0, 1, 12);
    const bytes = disk.content(first).bytes();
    bytes.writeUInt8(bytes.readUInt8(400) ^ 1, 400);
    disk.plant(first, SparseBytes.of(bytes));
    const { seen, outcome } = await readAll(disk);
    expect(covers(outcome.damage, 400)).toBe(true);
    expect(outcome.damage[0]?.batch).toMatchObject({ seq: 1 });
    expect(seen).toHaveLength(names.length - 1);
  });

  it('tells a batch exchanged for another whole one of the same place from the one points rely on', async () => {
    const { bytes, extents, ends } = await written(3);
    const at = ends[1] ?? 0;
    const other = sealedBody(1, 1, 22);
    const forged = Buffer.from(bytes);
    const body = Buffer.from(other);
    body.writeUInt32LE(1, 16);
    forged.set(encodeEntryHeader({ position: { segment: 1, offset: at }, machineId }, entryType.batch, 0, body), at);
    forged.set(body, at + 64);
    expect((await readAll(diskWith(first, forged))).outcome.damage).toEqual([]);
    expect((await readAll(diskWith(first, forged), extents)).outcome.damage).not.toEqual([]);
  });
});

describe('stale content', () => {
  it('of a recycled file, of another place or another machine is never taken for fresh', async () => {
    const { bytes, ends, names } = await written(4);
    const layerEnd = ends[0] ?? 0;
    // Another segment's file with this segment's header: entries behind it say segment 1.
    const recycled = Buffer.concat([
      encodeSegmentHeader({ segment: 2, previousEnd: bytes.byteLength }, machineId),
      bytes.subarray(64),
    ]);
    const disk = diskWith(first, bytes);
    disk.plant(`${directory}/000002.seg`, SparseBytes.of(recycled));
    expect((await readAll(disk)).seen).toEqual(names);
    // An entry at another offset of its own segment.
    const moved = Buffer.concat([bytes.subarray(0, layerEnd), bytes.subarray(ends[2] ?? 0)]);
    expect((await readAll(diskWith(first, moved))).seen).toEqual(names.slice(0, 1));
    // Another machine's segment.
    const other = Uint8Array.from(machineId).fill(9);
    const foreign = Buffer.concat([encodeSegmentHeader({ segment: 1, previousEnd: 0 }, other), bytes.subarray(64)]);
    expect((await readAll(diskWith(first, foreign))).seen).toEqual([]);
    const mixed = Buffer.from(bytes);
    mixed.set(
      encodeEntryHeader(
        { position: { segment: 1, offset: layerEnd }, machineId: other },
        entryType.batch,
        0,
        bytes.subarray(layerEnd + 64, ends[1]),
      ),
      layerEnd,
    );
    expect((await readAll(diskWith(first, mixed))).seen).toEqual(names.slice(0, 1));
  });

  it('above the end of a given-up segment never comes, whole as it may look', async () => {
    const { bytes, ends, names } = await written(4);
    const disk = diskWith(first, bytes);
    const previousEnd = ends[1] ?? 0;
    disk.plant(`${directory}/000002.seg`, SparseBytes.of(encodeSegmentHeader({ segment: 2, previousEnd }, machineId)));
    const { seen, outcome } = await readAll(disk);
    expect(seen).toEqual(names.slice(0, 2));
    expect(outcome.damage).toEqual([]);
    expect(outcome.torn).toBeNull();
  });
});

it('starts at a position, and lets a reader leave early', async () => {
  const { disk, names } = await written(4);
  const { outcome } = await readAll(disk);
  invariant(outcome.end, 'an end');
  const from = { segment: 1, offset: Number(names[2]?.split(/[: ]/)[1]) };
  const offsets: number[] = [];
  for await (const entry of replay({
    files: disk,
    directory,
    machineId,
    extents: [],
    removed: new Set<number>(),
    from,
    check: 'headers',
  })) {
    offsets.push(entry.position.offset);
    if (offsets.length === 2) break;
  }
  expect(offsets[0]).toBe(from.offset);
  expect(offsets).toHaveLength(2);
});

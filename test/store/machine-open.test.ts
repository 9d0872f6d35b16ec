/** Opening a machine's store on what a kill left behind: index, log and points must agree again. */
import { cp, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { digest, leafOf } from '../../src/kernels/hash.ts';
import { deriveLayerKey } from '../../src/kernels/keys.ts';
import { sealRecord } from '../../src/kernels/seal.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { DiskStore } from '../../src/store/disk-store.ts';
import { openDataDirectory, type DataDirectory } from '../../src/store/machine-directory.ts';
import { openMachineStore } from '../../src/store/machine-open.ts';
import type { MachineStore } from '../../src/store/machine-store.ts';
import { entryHeaderBytes, segmentHeaderBytes } from '../../src/store/segment-format.ts';
import { Vault } from '../../src/store/vault.ts';
import { sealedHeaderBytes, sealedRowBytes, writeSealedHeader, writeSealedRow } from '../../src/wire/sealed.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { runOf } from '../layers.ts';

const blockSize = 4096;
const size = 64 * blockSize;
const machine = 'm1';

async function blocksWithLeaves(disk: DiskStore): Promise<number[]> {
  const blocks: number[] = [];
  for await (const [block] of disk.leavesSince(0)) blocks.push(block);
  return blocks;
}

/** Spoils the header of the n-th entry, counted from 0. */
async function breakEntry(segment: string, number: number): Promise<void> {
  const bytes = await readFile(segment);
  let at = segmentHeaderBytes;
  for (let entry = 0; entry < number; entry += 1)
    at += entryHeaderBytes + Math.ceil(bytes.readUInt32LE(at + 8) / 8) * 8;
  bytes.writeUInt8(bytes.readUInt8(at + 40) ^ 0x55, at + 40);
  await writeFile(segment, bytes);
}

/** One record, sealed for real, as the body of a SEALED frame. */
function sealedBody(disk: DiskStore, salt: Uint8Array, seq: number, batch: number, block: number): Uint8Array {
  const diskId = Buffer.from(disk.id, 'hex');
  const pages = Buffer.alloc(blockSize, block + 1);
  const leaf = leafOf(disk.keys.leafKey, pages);
  const room = new Uint8Array(sealedHeaderBytes + sealedRowBytes + blockSize + 64);
  const at = sealedHeaderBytes + sealedRowBytes;
  const record = { diskId, seq, block, pageMask: 0xffff, nonce: batch, leaf };
  const layerKey = deriveLayerKey(disk.keys.diskKey, salt, diskId, seq);
  const sealed = sealRecord({ ...record, layerKey, pages, compression: 'lz4' }, room, at);
  const body = room.subarray(0, at + sealed.storedLength);
  writeSealedRow(body, sealedHeaderBytes, { ...record, ...sealed });
  const header = { seq, batch, count: 1, plainBytes: blockSize, digest: digest(body.subarray(sealedHeaderBytes)) };
  writeSealedHeader(body, 0, header);
  return body;
}

describe('a machine store', () => {
  let directory = '';
  const open_: { data: DataDirectory; store: MachineStore }[] = [];

  beforeEach(async () => {
    directory = await mkdtemp(path.join(tmpdir(), 'tidemark-machine-'));
  });
  afterEach(async () => {
    for (const { data, store } of open_.splice(0).reverse()) {
      await store.close();
      await data.close();
    }
    await rm(directory, { recursive: true, force: true });
  });

  async function openStore(name: string) {
    const [files, clock, random] = [posixFiles, systemClock, systemRandom];
    const identity = { pid: process.pid, role: 'test', since: '' };
    const data = await openDataDirectory({ files, clock, path: path.join(directory, name), identity });
    const keyFile = path.join(directory, 'vault.key');
    const vault = await Vault.openOrCreate({ files, random, keyFile, expected: data.facts?.vault });
    if (!data.facts) await data.create(vault.id);
    const fatal = (problem: Error): never => {
      throw problem;
    };
    const opened = await openMachineStore({ files, clock, random, vault, data, machine, bootId: 'boot', fatal });
    open_.push({ data, store: opened.store });
    return opened;
  }

  /** A layer of `batches` one-block batches, durable and indexed. */
  async function writeLayer(store: MachineStore, batches: number): Promise<{ disk: DiskStore; seq: number }> {
    const epoch = await store.acquireEpoch('aa');
    const disk = await store.openDisk({ name: 'vda', size, blockSize });
    const seq = seqOf(epoch, store.nextCounter(epoch));
    const salt = systemRandom.bytes(32);
    await disk.beginLayer({ seq, kind: 'initial', base: null, salt, keyVersion: disk.keys.version, epoch });
    for (let batch = 0; batch < batches; batch += 1) {
      await disk.appendBatch(sealedBody(disk, salt, seq, batch, batch)).durable;
    }
    return { disk, seq };
  }

  /** What a kill at this instant would leave: a copy of everything, taken while the store is open. */
  async function killedCopy(store: MachineStore): Promise<void> {
    await store.settle();
    await systemClock.sleep(200);
    await cp(path.join(directory, 'a'), path.join(directory, 'b'), { recursive: true });
  }

  const segmentOf = (name: string): string => path.join(directory, name, 'machines', machine, 'segments', '000001.seg');

  async function rootOf(disk: DiskStore): Promise<string> {
    await Promise.resolve();
    return Buffer.from(disk.leaves.workingRoot()).toString('hex');
  }

  it('killed in a layer knows its durable batches and leaves again, and commits them', async () => {
    const { store } = await openStore('a');
    const { disk, seq } = await writeLayer(store, 3);
    await killedCopy(store);
    const again = await openStore('b');
    const found = await again.store.openDisk({ name: 'vda', size, blockSize });
    expect(found.pending).toEqual(runOf([seq]));
    expect(await blocksWithLeaves(found)).toEqual([0, 1, 2]);
    expect(await rootOf(found)).toBe(await rootOf(disk));
    const wanted = {
      store: found,
      size,
      root: await rootOf(found),
      layers: runOf([seq]),
      kind: 'initial',
      records: 3,
      payloadBytes: 0,
    } as const;
    const outcome = await again.store.commit({ cutTimeMs: 1, consistency: 'crash', epoch: 1, disks: [wanted] });
    expect(outcome).toEqual({ kind: 'committed', point: 1 });
  });

  it('whose tail rotted under an index that knew it forgets the tail everywhere', async () => {
    const { store } = await openStore('a');
    const { seq } = await writeLayer(store, 3);
    await killedCopy(store);
    const { durableEnd } = store;
    const file = await open(segmentOf('b'), 'r+');
    await file.write(Buffer.from([0x55]), 0, 1, durableEnd.offset - 20);
    await file.close();
    const { store: again, report } = await openStore('b');
    expect(report.torn).toHaveLength(1);
    const disk = await again.openDisk({ name: 'vda', size, blockSize });
    expect(disk.pending).toEqual(runOf([seq]));
    expect(await blocksWithLeaves(disk)).toEqual([0, 1]);
    expect(disk.leaves.get(2)).toEqual(new Uint8Array(32));
    expect(Buffer.compare(disk.leaves.get(1), new Uint8Array(32))).not.toBe(0);
  });

  it('refuses a root that is not its own, and a layer that is left out', async () => {
    const { store } = await openStore('a');
    const { disk, seq } = await writeLayer(store, 1);
    const point = { cutTimeMs: 1, consistency: 'crash', epoch: 1 } as const;
    const part = { store: disk, size, kind: 'initial', records: 1, payloadBytes: 0 } as const;
    const wrong = await store.commit({ ...point, disks: [{ ...part, root: '00'.repeat(32), layers: runOf([seq]) }] });
    expect(wrong).toMatchObject({ kind: 'rejected', reason: 'root-mismatch' });
    const root = await rootOf(disk);
    expect(await store.commit({ ...point, disks: [{ ...part, root, layers: null }] })).toMatchObject({
      reason: 'layer-incomplete',
    });
    expect(await store.commit({ ...point, disks: [{ ...part, root, layers: runOf([seq, seq + 1]) }] })).toMatchObject({
      reason: 'layer-unknown',
    });
    expect(store.points.points).toEqual([]);
  });

  it('with a hole in a layer that no point lists drops it, and all that stand on it: what lies behind never comes back', async () => {
    const home = path.join(directory, 'a', 'machines', machine);
    /** Closed, its index gone, and opened again. */
    const rebuilt = async (): Promise<Awaited<ReturnType<typeof openStore>>> => {
      for (const { data, store } of open_.splice(0)) {
        await store.close();
        await data.close();
      }
      await rm(path.join(home, 'index'), { recursive: true });
      return openStore('a');
    };
    const whole = await writeLayer((await openStore('a')).store, 1);
    const torn = await writeLayer((await rebuilt()).store, 3);
    const later = await writeLayer((await rebuilt()).store, 1);
    expect(later.disk.pending).toEqual(runOf([whole.seq, torn.seq, later.seq]));
    // The second of the three batches. The segment is not the last one, so it is damage, not a torn end.
    await breakEntry(path.join(home, 'segments', '000002.seg'), 2);

    const { store, report } = await rebuilt();
    expect(report.damage).toMatchObject([{ segment: 2 }]);
    expect(report.dropped).toEqual([{ disk: 'vda', layers: 2 }]);
    const disk = await store.openDisk({ name: 'vda', size, blockSize });
    expect(disk.pending).toEqual(runOf([whole.seq]));
    expect(await blocksWithLeaves(disk)).toEqual([0]);
    const { seq } = await writeLayer(store, 2);
    const part = { store: disk, size, root: await rootOf(disk), kind: 'initial', records: 2, payloadBytes: 0 } as const;
    const layers = runOf([whole.seq, seq]);
    const epoch = store.points.epoch?.epoch ?? 0;
    const point = { cutTimeMs: 1, consistency: 'crash', epoch, disks: [{ ...part, layers }] } as const;
    expect(seq).toBeGreaterThan(seqOf(epoch, 0));
    expect(await store.commit(point)).toEqual({ kind: 'committed', point: 1 });

    const again = await rebuilt();
    expect(again.report).toMatchObject({ incompleteDisks: [], dropped: [] });
    const found = await again.store.openDisk({ name: 'vda', size, blockSize });
    expect(found.pending).toBeNull();
    expect(await blocksWithLeaves(found)).toEqual([0, 0, 1]);
    const block = Buffer.alloc(blockSize, 0xff);
    await again.store.readerAt(found, 1).readBlock(2, block);
    expect(block.equals(Buffer.alloc(blockSize))).toBe(true);
  });

  it('gives another process-server instance a higher epoch, and the same one its own again', async () => {
    const { store } = await openStore('a');
    expect([await store.acquireEpoch('aa'), await store.acquireEpoch('aa'), await store.acquireEpoch('bb')]).toEqual([
      1, 1, 2,
    ]);
    expect(await store.acquireEpoch('aa')).toBe(3);
  });
});

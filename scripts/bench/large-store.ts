/**
 * A target's directory with more points on a larger disk than a benchmark can replicate: 10,000 points of a sparse disk of 4 TiB, each with blocks of its
 * own and one that every point writes again. Closed like by a target that was stopped.
 *
 * Fifteen days of a point each 30 seconds are more still: points of a disk that was idle then, each with its proof, are put behind them.
 */
import { appendFile, readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { machinePaths, readMachineFacts } from '../../src/store/machine-directory.ts';
import type { MachineStore } from '../../src/store/machine-store.ts';
import { encodeRecord, type PointsEntry } from '../../src/store/points-record.ts';
import { readPoints } from '../../src/store/points-log.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { blockBytes } from './content.ts';
import { beginLayer, commitPoint, hastyFiles, sealedBatch, syncTree, withStore } from './made-store.ts';

export interface LargeStore {
  readonly data: string;
  readonly machine: string;
  readonly disk: string;
}

const blocksPerPoint = 4;
const machine = 'large';
const disk = 'disk0';
/** Of a record in points.log (`store/points-record.ts`): before its body, behind it. */
const headerBytes = 48;
const hashBytes = 32;

async function makePoint(store: MachineStore, size: number, epoch: number, number: number): Promise<void> {
  const opened = await store.openDisk({ name: disk, size, blockSize: blockBytes });
  const layer = await beginLayer(store, opened, epoch);
  // Spread over the whole disk; the first block is the one every point writes.
  const step = Math.max(1, Math.floor(size / blockBytes / 10_007));
  const others = Array.from({ length: blocksPerPoint - 1 }, (_, index) => 1 + ((number * 7 + index) % 10_007) * step);
  const blocks = [0, ...new Set(others)].sort((a, b) => a - b);
  const contents = blocks.map((block) => ({
    block,
    pages: Buffer.alloc(blockBytes, `block ${block} as of layer ${layer.seq} `),
  }));
  await opened.appendBatch(sealedBatch(opened, layer, { batch: 0, nonce: 0 }, contents)).durable;
  await commitPoint(store, opened, epoch, blocks.length);
}

/** Makes it in `directory`, which takes half a minute for 10,000 points. */
export async function makeLargeStore(directory: string, points: number, size: number): Promise<LargeStore> {
  const data = path.join(directory, 'large');
  await withStore(
    data,
    machine,
    async (store) => {
      const epoch = await store.acquireEpoch('bench');
      for (let number = 0; number < points; number += 1) await makePoint(store, size, epoch, number);
    },
    hastyFiles,
  );
  await syncTree(data);
  return { data, machine, disk };
}

/** Points in which nothing changed, up to the `points`-th, and the proofs of all: what the store would have written, in one write. */
export async function addIdlePoints({ data }: LargeStore, points: number): Promise<void> {
  const log = machinePaths(data, machine).pointsLog;
  const facts = await readMachineFacts(files, data, machine);
  const { view } = await readPoints({ files, path: log, machineId: Buffer.from(facts?.id ?? '', 'hex') });
  const last = view.lastPoint;
  if (!last) throw new Error('the store has no point');
  const everyMs = 30_000;
  const entries: PointsEntry[] = [];
  for (let point = 1; point <= points; point += 1) {
    const sinceMs = Math.max(0, point - last.point) * everyMs;
    const committedMs = last.committedMs + sinceMs;
    if (point > last.point) {
      const disks = last.disks.map((each) => ({ ...each, layers: null, records: 0 }));
      const cutTimeMs = last.cutTimeMs + sinceMs;
      entries.push({ type: 'point', body: { ...last, point, cutTimeMs, committedMs, disks, extents: [] } });
    }
    entries.push({ type: 'proven', body: { point, atMs: committedMs, blocks: 0 } });
  }
  await appendFile(log, encodeBehind(await readFile(log), entries));
}

function encodeBehind(before: Buffer, entries: readonly PointsEntry[]): Buffer {
  let previousHash: Uint8Array = before.subarray(-hashBytes);
  let number = 0;
  for (let at = 0; at < before.byteLength; number += 1) at += headerBytes + before.readUInt32LE(at + 8) + hashBytes;
  const records = entries.map((entry) => {
    const record = encodeRecord(entry, { number, previousHash });
    previousHash = record.subarray(-hashBytes);
    number += 1;
    return record;
  });
  return Buffer.concat(records);
}

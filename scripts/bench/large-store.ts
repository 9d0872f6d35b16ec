/**
 * A target's directory with more points on a larger disk than a benchmark can replicate: 10,000 points of a sparse disk of 4 TiB, each with blocks of its
 * own and one that every point writes again. Made by the store's own code, without the network, and closed like by a target that was stopped.
 */
import * as path from 'node:path';
import { digest, leafOf } from '../../src/kernels/hash.ts';
import { deriveLayerKey } from '../../src/kernels/keys.ts';
import { sealRecord } from '../../src/kernels/seal.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import type { DiskStore } from '../../src/store/disk-store.ts';
import { openDataDirectory, type DataDirectory } from '../../src/store/machine-directory.ts';
import { openMachineStore } from '../../src/store/machine-open.ts';
import type { MachineStore } from '../../src/store/machine-store.ts';
import { Vault } from '../../src/store/vault.ts';
import { sealedHeaderBytes, sealedRowBytes, writeSealedHeader, writeSealedRow } from '../../src/wire/sealed.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { blockBytes } from './content.ts';

export interface LargeStore {
  readonly data: string;
  readonly machine: string;
  readonly disk: string;
  readonly points: number;
  readonly size: number;
}

const blocksPerPoint = 4;
const machine = 'large';
const disk = 'disk0';

/** A SEALED body of whole blocks. */
function sealed(store: DiskStore, salt: Uint8Array, seq: number, blocks: readonly number[]): Uint8Array {
  const diskId = Buffer.from(store.id, 'hex');
  const layerKey = deriveLayerKey(store.keys.diskKey, salt, diskId, seq);
  const rowsEnd = sealedHeaderBytes + blocks.length * sealedRowBytes;
  const room = new Uint8Array(rowsEnd + blocks.length * (blockBytes + 64));
  let at = rowsEnd;
  for (const [number, block] of blocks.entries()) {
    const pages = Buffer.alloc(blockBytes, `block ${block} as of layer ${seq} `);
    const record = { diskId, seq, block, pageMask: 0xffff, nonce: number, leaf: leafOf(store.keys.leafKey, pages) };
    const stored = sealRecord({ ...record, layerKey, pages, compression: 'lz4' }, room, at);
    writeSealedRow(room, sealedHeaderBytes + number * sealedRowBytes, { ...record, ...stored });
    at += stored.storedLength;
  }
  const body = room.subarray(0, at);
  const plainBytes = blocks.length * blockBytes;
  writeSealedHeader(body, 0, {
    seq,
    batch: 0,
    count: blocks.length,
    plainBytes,
    digest: digest(body.subarray(sealedHeaderBytes)),
  });
  return body;
}

async function commitPoint(store: MachineStore, size: number, epoch: number, number: number): Promise<void> {
  const opened = await store.openDisk({ name: disk, size, blockSize: blockBytes });
  const seq = seqOf(epoch, store.nextCounter(epoch));
  const salt = random.bytes(32);
  await opened.beginLayer({ seq, kind: 'delta', base: null, salt, keyVersion: opened.keys.version, epoch });
  // Spread over the whole disk; the first block is the one every point writes.
  const step = Math.floor(size / blockBytes / 10_007);
  const others = Array.from({ length: blocksPerPoint - 1 }, (_, index) => 1 + ((number * 7 + index) % 10_007) * step);
  await opened.appendBatch(
    sealed(
      opened,
      salt,
      seq,
      [0, ...new Set(others)].sort((a, b) => a - b),
    ),
  ).durable;
  const root = Buffer.from(opened.leaves.workingRoot()).toString('hex');
  const layers = opened.pending;
  const part = { store: opened, size, root, layers, kind: 'delta', records: blocksPerPoint, payloadBytes: 0 } as const;
  const cutTimeMs = clock.wallMs();
  const outcome = await store.commit({ cutTimeMs, consistency: 'crash', epoch, disks: [part] });
  if (outcome.kind !== 'committed') throw new Error(outcome.detail);
}

async function fill(data: DataDirectory, keyFile: string, points: number, size: number): Promise<void> {
  const vault = await Vault.openOrCreate({ files, random, keyFile, expected: data.facts?.vault });
  if (!data.facts) await data.create(vault.id);
  const fatal = (problem: Error): never => {
    throw problem;
  };
  const { store } = await openMachineStore({ files, clock, random, vault, data, machine, bootId: 'bench', fatal });
  try {
    const epoch = await store.acquireEpoch('bench');
    for (let number = 0; number < points; number += 1) await commitPoint(store, size, epoch, number);
  } finally {
    await store.close();
  }
}

/** Makes it in `directory`, which takes half a minute for 10,000 points. */
export async function makeLargeStore(directory: string, points: number, size: number): Promise<LargeStore> {
  const where = path.join(directory, 'large');
  const identity = { pid: process.pid, role: 'bench', since: '' };
  await files.makeDirectory(where);
  const data = await openDataDirectory({ files, clock, path: where, identity });
  try {
    await fill(data, path.join(where, 'vault.key'), points, size);
  } finally {
    await data.close();
  }
  return { data: where, machine, disk, points, size };
}

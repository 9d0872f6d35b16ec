/** A target's directory made in this process by the store's own code, without network and without a process server: for more than a benchmark can replicate. */
import { open, readdir } from 'node:fs/promises';
import * as path from 'node:path';
import { digest, leafOf } from '../../src/kernels/hash.ts';
import { deriveLayerKey } from '../../src/kernels/keys.ts';
import { sealRecord } from '../../src/kernels/seal.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import type { DiskStore } from '../../src/store/disk-store.ts';
import { openDataDirectory } from '../../src/store/machine-directory.ts';
import { openMachineStore } from '../../src/store/machine-open.ts';
import type { MachineStore } from '../../src/store/machine-store.ts';
import { Vault } from '../../src/store/vault.ts';
import { sealedHeaderBytes, sealedRowBytes, writeSealedHeader, writeSealedRow } from '../../src/wire/sealed.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { blockBytes } from './content.ts';

/** Nothing waits for the disk: for a store that is only made, and whose making is not measured. */
export const hastyFiles: Files = {
  ...posixFiles,
  open: async (...how) => Object.assign(await posixFiles.open(...how), { datasync: () => Promise.resolve() }),
  syncDirectory: () => Promise.resolve(),
};

/** What `hastyFiles` left to the disk is there, and nothing that is measured waits for it. */
export async function syncTree(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const file = await open(path.join(entry.parentPath, entry.name));
    await file.sync();
    await file.close();
  }
}

/** Opens the machine's store in `directory`, which is made if it is missing, and closes it after `work` like a target that is stopped. */
export async function withStore<T>(
  directory: string,
  machine: string,
  work: (store: MachineStore) => Promise<T>,
  files: Files = posixFiles,
): Promise<T> {
  const identity = { pid: process.pid, role: 'bench', since: '' };
  await files.makeDirectory(directory);
  const data = await openDataDirectory({ files, clock, path: directory, identity });
  try {
    const keyFile = path.join(directory, 'vault.key');
    const vault = await Vault.openOrCreate({ files, random, keyFile, expected: data.facts?.vault });
    if (!data.facts) await data.create(vault.id);
    const fatal = (problem: Error): never => {
      throw problem;
    };
    const { store } = await openMachineStore({ files, clock, random, vault, data, machine, bootId: 'bench', fatal });
    try {
      return await work(store);
    } finally {
      await store.close();
    }
  } finally {
    await data.close();
  }
}

export interface MadeLayer {
  readonly seq: number;
  readonly salt: Uint8Array;
}

export async function beginLayer(store: MachineStore, disk: DiskStore, epoch: number): Promise<MadeLayer> {
  const layer = { seq: seqOf(epoch, store.nextCounter(epoch)), salt: random.bytes(32) };
  await disk.beginLayer({ ...layer, kind: 'delta', base: null, keyVersion: disk.keys.version, epoch });
  return layer;
}

/** A SEALED body of whole blocks, ascending; `nonce`: of the first, and as many more as there are blocks. */
export function sealedBatch(
  disk: DiskStore,
  { seq, salt }: MadeLayer,
  at: { readonly batch: number; readonly nonce: number },
  blocks: readonly { readonly block: number; readonly pages: Buffer }[],
): Uint8Array {
  const diskId = Buffer.from(disk.id, 'hex');
  const layerKey = deriveLayerKey(disk.keys.diskKey, salt, diskId, seq);
  const rowsEnd = sealedHeaderBytes + blocks.length * sealedRowBytes;
  const room = new Uint8Array(rowsEnd + blocks.length * (blockBytes + 64));
  let end = rowsEnd;
  for (const [index, { block, pages }] of blocks.entries()) {
    const leaf = leafOf(disk.keys.leafKey, pages);
    const record = { diskId, seq, block, pageMask: 0xffff, nonce: at.nonce + index, leaf };
    const stored = sealRecord({ ...record, layerKey, pages, compression: 'lz4' }, room, end);
    writeSealedRow(room, sealedHeaderBytes + index * sealedRowBytes, { ...record, ...stored });
    end += stored.storedLength;
  }
  const body = room.subarray(0, end);
  const plainBytes = blocks.length * blockBytes;
  const whole = digest(body.subarray(sealedHeaderBytes));
  writeSealedHeader(body, 0, { seq, batch: at.batch, count: blocks.length, plainBytes, digest: whole });
  return body;
}

/** Everything the disk was given since the last point. */
export async function commitPoint(
  store: MachineStore,
  disk: DiskStore,
  epoch: number,
  records: number,
): Promise<number> {
  const root = Buffer.from(disk.leaves.workingRoot()).toString('hex');
  const { size } = disk.geometry;
  const layers = disk.pending;
  const part = { store: disk, size, root, layers, kind: 'delta', records, payloadBytes: 0 } as const;
  const outcome = await store.commit({ cutTimeMs: clock.wallMs(), consistency: 'crash', epoch, disks: [part] });
  if (outcome.kind !== 'committed') throw new Error(outcome.detail);
  return outcome.point;
}

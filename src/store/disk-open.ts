/**
 * Opening one disk's replica: keys, leaf file, pending layers. The leaf file is a cache: when its root is not the committed point's, it
 * is rebuilt from the index; when even that does not make the root, records are missing, and the source is asked to compare everything.
 */
import * as path from 'node:path';
import { geometryOf, type Geometry } from '../disk/geometry.ts';
import { MerkleNodes, nodeCountOf } from '../disk/merkle.ts';
import { merkleHashes } from '../kernels/hash.ts';
import { withLayer, type LayerRun } from '../kernels/layer-run.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import { unrepairedBlocks } from './damaged-blocks.ts';
import { DiskStore, type CommittedDisk } from './disk-store.ts';
import type { NodeHash } from './index-nodes.ts';
import type { IndexReader } from './index-reader.ts';
import { LeafFile } from './leaf-file.ts';
import type { DiskFacts } from './machine-directory.ts';
import type { MachineLog } from './machine-log.ts';
import { noteHistory } from './node-history.ts';
import { maxSeqAt, newestWith } from './point-layers.ts';
import type { PointsView } from './points-view.ts';
import type { Vault } from './vault.ts';

const firstKeyVersion = 1;

/** A new disk's entry for `machine.json`, with fresh keys. @throws Problem `bad-geometry`. */
export function makeDiskFacts(options: {
  readonly vault: Vault;
  readonly random: Random;
  readonly no: number;
  readonly name: string;
  readonly size: number;
  readonly blockSize: number;
}): DiskFacts {
  const { vault, random, no, name, size, blockSize } = options;
  geometryOf(size, blockSize);
  const id = random.bytes(16);
  return {
    no,
    id: id.toString('hex'),
    name,
    blockSize,
    keys: [vault.wrapDiskKeys(id, firstKeyVersion, vault.newDiskKeys())],
  };
}

export interface OpenDiskOptions {
  readonly files: Files;
  readonly vault: Vault;
  readonly record: DiskFacts;
  /** The machine's `leaves` directory. */
  readonly directory: string;
  readonly log: MachineLog;
  readonly view: PointsView;
  /** Size the source says; needed for a disk that has no point yet. */
  readonly size?: number | undefined;
}

/** Fills the committed leaves from the index; answers whether they make the committed root. */
async function rebuildLeaves(
  leaves: LeafFile,
  index: IndexReader,
  diskNo: number,
  committed: CommittedDisk,
  maxSeq: number,
): Promise<boolean> {
  leaves.reset();
  for (const entry of index.entriesAt(diskNo, maxSeq)) leaves.set(entry.block, entry.leaf);
  await leaves.commit();
  return Buffer.from(leaves.committedRoot()).toString('hex') === committed.root;
}

/** Writes what the index lacks of the committed point's Merkle nodes: all of them when it was begun anew. */
async function completeNodes(leaves: LeafFile, log: MachineLog, diskNo: number, point: number): Promise<void> {
  const { geometry } = leaves;
  const known = new MerkleNodes(geometry, merkleHashes);
  const count = nodeCountOf(geometry);
  for (const { node, hash } of (await log.index.reader()).nodesAt(diskNo, point)) {
    if (node < count) known.put(node, hash);
  }
  if (Buffer.compare(known.root(), leaves.committedRoot()) === 0) return;
  const changed: NodeHash[] = [];
  for (let node = 0; node < count; node += 1) {
    const hash = leaves.nodesOf(node, 1);
    if (Buffer.compare(hash, known.node(node)) !== 0) changed.push({ node, hash });
  }
  await log.noteNodes(diskNo, point, changed);
}

/** Layers above everything points list that hold something: durable work the next point will list. */
function pendingLayers(index: IndexReader, diskNo: number, maxSeq: number): LayerRun | null {
  let run: LayerRun | null = null;
  for (const seq of index.layersOf(diskNo, maxSeq + 1))
    if (index.batchCountOf(diskNo, seq) > 0) run = withLayer(run, seq);
  return run;
}

interface LeavesOf {
  readonly files: Files;
  /** The machine's `leaves` directory. */
  readonly directory: string;
  readonly no: number;
  readonly index: IndexReader;
  readonly view: PointsView;
  readonly committed: CommittedDisk | null;
  readonly geometry: Geometry;
}

function leafPath(directory: string, no: number): string {
  return path.join(directory, String(no));
}

/** The committed leaves, and whether they are all there. */
async function openLeaves(of: LeavesOf): Promise<{ leaves: LeafFile; complete: boolean }> {
  const { files, directory, no, index, view, committed, geometry } = of;
  await files.makeDirectory(directory);
  const leaves = await LeafFile.open({ files, path: leafPath(directory, no), geometry, hashes: merkleHashes });
  try {
    if (committed === null) leaves.reset();
    else if (Buffer.from(leaves.committedRoot()).toString('hex') !== committed.root) {
      const complete = await rebuildLeaves(leaves, index, no, committed, maxSeqAt(view, no, committed.point));
      return { leaves, complete };
    }
    return { leaves, complete: true };
  } catch (error) {
    await leaves.close();
    throw error;
  }
}

/** So that nobody takes it for whole who reads it back: what is not on the disk may still be in the page cache. */
export async function giveUpLeaves(disk: DiskStore, files: Files, directory: string): Promise<void> {
  const file = leafPath(directory, disk.no);
  if (await files.exists(file)) await files.remove(file);
}

/** Instead of a leaf file that was given up, a new one filled from the index. When it fails, what there was is closed: call it again. */
export async function replaceLeaves(
  disk: DiskStore,
  options: Pick<OpenDiskOptions, 'files' | 'directory' | 'log' | 'view'>,
): Promise<void> {
  const { files, directory, log, view } = options;
  await disk.leaves.close();
  await giveUpLeaves(disk, files, directory);
  const { no, committed } = disk;
  const index = await log.index.reader();
  const geometry = committed ? geometryOf(committed.size, disk.geometry.blockSize) : disk.geometry;
  const { leaves, complete } = await openLeaves({ files, directory, no, index, view, committed, geometry });
  try {
    await leaves.grow(disk.geometry);
  } catch (error) {
    await leaves.close();
    throw error;
  }
  await disk.takeLeaves(leaves, complete);
}

/** @throws Problem `damaged` (its keys can not be unwrapped). */
export async function openDiskStore(options: OpenDiskOptions): Promise<DiskStore> {
  const { files, vault, record, directory, log, view } = options;
  const newest = newestWith(view, record.no);
  const committed: CommittedDisk | null = newest && {
    point: newest.point.point,
    cutTimeMs: newest.point.cutTimeMs,
    size: newest.disk.size,
    root: newest.disk.root,
  };
  const index = await log.index.reader();
  const maxSeq = newest ? maxSeqAt(view, record.no, newest.point.point) : 0;
  const geometry = geometryOf(committed?.size ?? options.size ?? limits.disk.sectorBytes, record.blockSize);
  const { leaves, complete } = await openLeaves({ files, directory, no: record.no, index, view, committed, geometry });
  if (committed && !index.hasAllNodes(record.no)) await noteHistory(log.index, view, record);
  if (committed && complete) await completeNodes(leaves, log, record.no, committed.point);
  const wrapped = record.keys.at(-1);
  if (!wrapped) throw new Error('a disk record has keys');
  const disk = new DiskStore({
    no: record.no,
    id: record.id,
    name: record.name,
    keys: { ...vault.unwrapDiskKeys(Buffer.from(record.id, 'hex'), wrapped), version: wrapped.version },
    log,
    leaves,
    geometry,
    committed,
    pending: pendingLayers(index, record.no, maxSeq),
    listed: maxSeq,
    toRepair: unrepairedBlocks(index, view, record.no),
    leavesComplete: complete,
  });
  await disk.layPending();
  return disk;
}

/**
 * One disk as the agent replicates it: the capture it reads, the leaf file that says what the target has, and what only the present
 * session knows.
 *
 * Invariants:
 *  1. `leaves` (working) = the target's working state: last committed point plus durable or sent layers of this session.
 *     What was sent and not durable when a session ended is discarded with the session; OPENED and LEAVES tell the truth again.
 *  2. Order at a commit: fold leaves (durable) → state file (durable) → change log forgets. A crash in between costs hashing, never a change.
 *  3. Whatever LEAVES name is read and compared again: it is in the change log anyway, unless source and log were rolled back together (a
 *     snapshot of the host), and then only this notices that the target knows a later content.
 *  4. The leaf file is a cache: it is used only if its root is the one the state file names; else the target is asked for all leaves. The
 *     change log does not depend on it: which blocks to read is known all the same.
 */
import * as path from 'node:path';
import { Problem } from '../kit/problem.ts';
import type { CaptureDisk } from '../capture/contract.ts';
import { geometryOf } from '../disk/geometry.ts';
import { fullMask } from '../disk/page-mask.ts';
import { merkleHashes } from '../kernels/hash.ts';
import type { Files } from '../posix/files.ts';
import { LeafFile } from '../store/leaf-file.ts';
import type { Leaves } from '../wire/leaves.ts';
import type { Opened } from '../wire/opened.ts';
import { newDiskState, writeDiskState, type DiskState } from './disk-state.ts';

export type CycleKind = 'initial' | 'delta' | 'resync';

export interface ReplicaDiskOptions {
  readonly capture: CaptureDisk;
  readonly files: Files;
  /** The agent's state directory. */
  readonly directory: string;
  /** What `readDiskState` found there. */
  readonly state: DiskState | null;
}

export class ReplicaDisk {
  readonly capture: CaptureDisk;
  readonly leaves: LeafFile;
  /** Blocks the target asked for whole. */
  readonly repair = new Set<number>();
  /** Layers no point lists yet, ascending. */
  layers: number[] = [];
  leafKey: Uint8Array = new Uint8Array(32);
  /** Kind of the cycles until the next commit. */
  kind: CycleKind = 'delta';
  /** Newest committed point at the target, as far as known. */
  committedPoint: number | null = null;
  readonly #files: Files;
  readonly #directory: string;
  #state: DiskState;
  #diskId: string | null = null;
  /** Invariant 4. */
  #trustLeaves: boolean;
  /** Every block is compared in the next session, whatever the change log says. */
  #compareAll = false;
  #resync: boolean;

  private constructor(options: ReplicaDiskOptions, leaves: LeafFile, trustLeaves: boolean) {
    this.capture = options.capture;
    this.leaves = leaves;
    this.#files = options.files;
    this.#directory = options.directory;
    this.#state = options.state ?? newDiskState(options.capture.geometry.blockSize);
    this.#trustLeaves = trustLeaves;
    this.#resync = options.capture.logLoss !== null;
  }

  /** Opens the leaf file of a captured disk and writes the state file if there is none yet. The caller closes the capture on failure. */
  static async open(options: ReplicaDiskOptions): Promise<ReplicaDisk> {
    const { capture, files, directory, state } = options;
    if (state === null) {
      await writeDiskState(files, directory, capture.name, newDiskState(capture.geometry.blockSize));
    }
    const known = state?.leaves ?? null;
    // As of the point the disk may have been smaller, and so was the tree.
    const size = known === null ? capture.geometry.size : Math.min(known.size, capture.geometry.size);
    const leaves = await LeafFile.open({
      files,
      path: path.join(directory, `${capture.name}.leaves`),
      geometry: geometryOf(size, capture.geometry.blockSize),
      hashes: merkleHashes,
    });
    try {
      const trusted = Buffer.from(leaves.committedRoot()).toString('hex') === known?.root;
      if (size !== capture.geometry.size) await leaves.grow(capture.geometry);
      return new ReplicaDisk(options, leaves, trusted);
    } catch (error) {
      await leaves.close();
      throw error;
    }
  }

  get name(): string {
    return this.capture.name;
  }

  /** What OPEN_DISK says: the point the leaf file stands at, or null when it is not to be trusted. */
  get knownPoint(): number | null {
    return this.#trustLeaves ? this.#state.point : null;
  }

  /** The target's root differed: the next session asks for all leaves and compares every block. */
  distrustLeaves(): void {
    this.#trustLeaves = false;
    this.#compareAll = true;
  }

  /**
   * Takes over what OPENED says; LEAVES follow. Returns a reason when the target is not at what this agent was told is
   * committed (another replica, or points lost); then every block is compared.
   */
  opened(message: Opened): string | null {
    this.leaves.discard();
    const surprise = this.#surpriseIn(message);
    const askedForAll = this.knownPoint === null;
    if (message.leaves === 'full') {
      this.leaves.reset();
      this.#trustLeaves = false;
    }
    // A target that sends all leaves unasked can not tell what it has; one with another history makes the change log's masks, which
    // speak of changes since a point, worth nothing.
    if (message.leaves === 'full' && !askedForAll) this.#compareAll = true;
    // All leaves do not tell which of them are newer than the change log.
    const moved = message.layers.length > 0 || (message.committed?.point ?? null) !== this.#state.point;
    if (message.leaves === 'full' && moved) this.#compareAll = true;
    if (surprise !== null || this.#state.point === null) this.#compareAll = true;
    if (this.#compareAll) {
      this.capture.markAll();
      this.#resync = true;
    }
    this.leafKey = Buffer.from(message.leafKey, 'hex');
    this.layers = message.layers.map((layer) => layer.seq);
    this.committedPoint = message.committed?.point ?? null;
    this.kind = message.committed === null ? 'initial' : this.#resync ? 'resync' : 'delta';
    this.#diskId = message.diskId;
    if (surprise !== null) this.#state = { ...newDiskState(this.capture.geometry.blockSize), diskId: message.diskId };
    return surprise;
  }

  #surpriseIn(message: Opened): string | null {
    const known = this.#state;
    if (known.diskId !== null && known.diskId !== message.diskId) {
      if (message.leaves === 'since') throw new Problem('protocol-error', 'the target answered for another replica');
      return `the target holds replica ${message.diskId}, this agent knew ${known.diskId}`;
    }
    const committed = message.committed?.point ?? 0;
    if (known.point !== null && committed < known.point) {
      return `the target is at point ${committed}, this agent was told point ${known.point} is committed`;
    }
    if (known.point !== null && committed > known.point + 1) {
      return `the target is at point ${committed}, this agent knows of ${known.point}: its host was rolled back, or two answers were lost`;
    }
    if (known.leaves !== null && committed === known.point && message.committed?.root !== known.leaves.root) {
      return `the target's root of point ${committed} is not the one this agent was told`;
    }
    return null;
  }

  /** Lays LEAVES over the leaf file (invariant 3). */
  lay(message: Leaves): void {
    const since = this.knownPoint !== null;
    for (const [block, leaf] of message.pairs) {
      this.leaves.set(block, leaf);
      if (since) this.capture.mark(block, fullMask);
    }
  }

  /** Blocks that must be sent whole although their leaf may not have changed. */
  requestRepair(blocks: readonly number[]): void {
    for (const block of blocks) {
      this.repair.add(block);
      this.capture.mark(block, fullMask);
    }
  }

  /** A point with everything sent is committed (invariant 2). */
  async committed(point: number): Promise<void> {
    await this.leaves.commit();
    const root = Buffer.from(this.leaves.committedRoot()).toString('hex');
    const { size, blockSize } = this.capture.geometry;
    this.#state = { format: 1, diskId: this.#diskId, point, leaves: { root, size }, blockSize };
    await writeDiskState(this.#files, this.#directory, this.name, this.#state);
    await this.capture.forget();
    this.layers = [];
    this.committedPoint = point;
    this.#trustLeaves = true;
    this.#compareAll = false;
    this.#resync = false;
    this.kind = 'delta';
  }

  /** The session ended or the cut was given up with it (invariant 1). */
  sessionEnded(): void {
    this.capture.giveUp();
    this.leaves.discard();
  }

  async close(): Promise<void> {
    await this.capture.close();
    await this.leaves.close();
  }
}

/**
 * One disk as the agent replicates it: the capture it reads, the leaf file that says what the target has, and what only the present
 * session knows.
 *
 * Invariants:
 *  1. `leaves` (working) = the target's working state: last committed point plus durable or sent layers of this session.
 *     What was sent and not durable when a session ended is discarded with the session; OPENED and LEAVES tell the truth again.
 *  2. Order at a commit: fold leaves (durable) → state file (durable) → change log forgets. A crash in between costs hashing, never a change.
 */
import { Problem } from '../kit/problem.ts';
import type { CaptureDisk } from '../capture/contract.ts';
import { fullMask } from '../disk/page-mask.ts';
import type { Files } from '../posix/files.ts';
import type { LeafFile } from '../store/leaf-file.ts';
import type { Leaves } from '../wire/leaves.ts';
import type { Opened } from '../wire/opened.ts';
import { writeDiskState, type DiskState } from './disk-state.ts';

export type CycleKind = 'initial' | 'delta' | 'resync';

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
  #state: DiskState | null;
  #diskId: string | null = null;
  #trustLeaves = true;
  #resync: boolean;

  constructor(options: {
    capture: CaptureDisk;
    leaves: LeafFile;
    files: Files;
    directory: string;
    state: DiskState | null;
  }) {
    this.capture = options.capture;
    this.leaves = options.leaves;
    this.#files = options.files;
    this.#directory = options.directory;
    this.#state = options.state;
    this.#resync = options.capture.logLoss !== null;
  }

  get name(): string {
    return this.capture.name;
  }

  /** What OPEN_DISK says: the point the leaf file stands at, or null when it is not to be trusted. */
  get knownPoint(): number | null {
    return this.#trustLeaves ? (this.#state?.point ?? null) : null;
  }

  /** The next session asks for all leaves (the target's root differed). */
  distrustLeaves(): void {
    this.#trustLeaves = false;
  }

  /**
   * Takes over what OPENED says; LEAVES follow. Returns a reason when the target is not at what this agent was told is
   * committed (another replica, or points lost); then every block is compared.
   */
  opened(message: Opened): string | null {
    this.leaves.discard();
    const surprise = this.#surpriseIn(message);
    if (message.leaves === 'full') this.leaves.reset();
    if (surprise !== null || message.leaves === 'full') {
      // Masks speak of changes since a point the target does not have: every block is compared whole.
      this.capture.markAll();
      this.#resync = true;
    }
    this.leafKey = Buffer.from(message.leafKey, 'hex');
    this.layers = message.layers.map((layer) => layer.seq);
    this.committedPoint = message.committed?.point ?? null;
    this.kind = message.committed === null ? 'initial' : this.#resync ? 'resync' : 'delta';
    this.#diskId = message.diskId;
    if (message.leaves === 'full') this.#state = { format: 1, diskId: message.diskId, point: null };
    return surprise;
  }

  #surpriseIn(message: Opened): string | null {
    const known = this.#state;
    if (!known) return null;
    if (known.diskId !== null && known.diskId !== message.diskId) {
      if (message.leaves === 'since') throw new Problem('protocol-error', 'the target answered for another replica');
      return `the target holds replica ${message.diskId}, this agent knew ${known.diskId}`;
    }
    const committed = message.committed?.point ?? 0;
    if (known.point !== null && committed < known.point) {
      return `the target is at point ${committed}, this agent was told point ${known.point} is committed`;
    }
    return null;
  }

  /** Lays LEAVES over the leaf file. */
  lay(message: Leaves): void {
    for (const [block, leaf] of message.pairs) this.leaves.set(block, leaf);
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
    this.#state = { format: 1, diskId: this.#diskId, point };
    await writeDiskState(this.#files, this.#directory, this.name, this.#state);
    await this.capture.forget();
    this.layers = [];
    this.committedPoint = point;
    this.#trustLeaves = true;
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

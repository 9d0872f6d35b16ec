/**
 * One disk as the agent replicates it: the capture it reads, the leaves that say what the target has, and what only the present
 * session knows.
 *
 * Invariants (the first of `disk-memory.ts` before all):
 *  1. `leaves` (working) = the target's working state: last committed point plus durable or sent layers of this session. LEAVES or a
 *     comparison bring them there; what was sent and not durable when a session ended is discarded with the session.
 *  2. A leaf that is not what the disk holds, because it came from the target, belongs to a marked block.
 *  3. Order at a fold and at a checkpoint: leaf file (durable) → change log forgets. A crash in between costs hashing, never a change.
 *  4. A fold takes the leaves over as of a committed point: no POINT is in flight then, and no leaf was laid behind the newest one.
 *
 * What OPENED may say, and what follows:
 *
 * | found | leaf file | marked | then |
 * | --- | --- | --- | --- |
 * | all as this agent left it | as of its point | by the change log, and what LEAVES name | cycles |
 * | another replica (other leaf key) | worthless | all | survey, comparison |
 * | another root of the point we stand at | as of no point | all | survey, comparison |
 * | further ahead than POINTs were unanswered (our host was rolled back) | as of no point | all | survey, comparison |
 * | behind what we were told: it lost points | as of no point | by the change log | comparison |
 * | does not know our point, or we had none | as of no point | by the change log | comparison |
 * | nothing there, and nothing in the leaf file | zeros | by the change log: all | cycles (initial) |
 *
 * A REJECTED `root-mismatch` makes the leaf file worthless; a lost leaf file and a lost change log mark all, the latter on a leaf file that
 * still counts. LEAVES "since" a point we no longer stand at are of no use: then the session is opened anew.
 */
import type { CaptureDisk, LogLoss } from '../capture/contract.ts';
import { fullMask } from '../disk/page-mask.ts';
import type { LayerRun } from '../kernels/layer-run.ts';
import type { Files } from '../posix/files.ts';
import type { LeafFile } from '../store/leaf-file.ts';
import type { Leaves } from '../wire/leaves.ts';
import type { Opened } from '../wire/opened.ts';
import { DiskMemory } from './disk-memory.ts';
import type { DiskState } from './disk-state.ts';
import type { ResyncPhase, ResyncReason, ResyncReport } from './resync.ts';

export type CycleKind = 'initial' | 'delta' | 'resync';

export interface ReplicaDiskOptions {
  readonly capture: CaptureDisk;
  readonly files: Files;
  /** The agent's state directory. */
  readonly directory: string;
  /** What `readDiskState` found there. */
  readonly state: DiskState | null;
}

const reasonOf: Readonly<Record<LogLoss, ResyncReason>> = {
  new: 'log-new',
  lost: 'log-lost',
  damaged: 'log-damaged',
  foreign: 'log-foreign',
  'changed-behind': 'changed-behind',
  grown: 'grown',
};

const waiting = { phase: 'waiting', doneBytes: 0, totalBytes: 0, opensAtMs: null } as const;

/** Reasons that do not make every block be read: a request to do that comes on top of them. */
const partial: ReadonlySet<ResyncReason | null> = new Set([null, 'log-over-limit', 'base-mismatch']);

interface Finding {
  readonly text: string;
  readonly worthless: boolean;
  readonly all: boolean;
}

export class ReplicaDisk {
  readonly capture: CaptureDisk;
  /** Blocks the target asked for whole. */
  readonly repair = new Set<number>();
  /** Layers no point lists yet. */
  layers: LayerRun | null = null;
  leafKey: Uint8Array = new Uint8Array(32);
  /** Newest committed point at the target, as far as known. */
  committedPoint: number | null = null;
  /**
   * Blocks are marked that may well be unchanged: they are hashed beside the sender (`survey.ts`). Before the comparison only: later the working
   * leaves are not the disk's but the target's.
   */
  surveyDue = false;
  /** OPENED said that the leaves have to be compared, and they were not yet. */
  comparisonDue = false;
  /** LEAVES of this session are of no use: it must be opened again. */
  reopeningDue = false;
  readonly #memory: DiskMemory;
  #phase: Omit<ResyncReport, 'reason'> = waiting;
  #requested = false;
  /** OPENED came, so `committedPoint` and `layers` are known. */
  #met = false;
  /** Marks without which the leaf file would lie were made and may not be durable yet. */
  #marksToSettle: boolean;

  private constructor(capture: CaptureDisk, memory: DiskMemory, marksToSettle: boolean) {
    this.capture = capture;
    this.#memory = memory;
    this.#marksToSettle = marksToSettle;
  }

  /** Opens the leaf file of a captured disk and writes the state file if there is none yet. The caller closes the capture on failure. */
  static async open({ capture, files, directory, state }: ReplicaDiskOptions): Promise<ReplicaDisk> {
    const { name, geometry } = capture;
    const memory = await DiskMemory.open({ files, directory, name, geometry, state });
    const unmarked = !memory.found && capture.logLoss === null;
    if (unmarked) capture.markAll();
    const hadLeaves = state === null || state.leaves !== null || state.next !== null;
    const leavesLost = !memory.found && hadLeaves ? 'leaves-lost' : null;
    const logLost = capture.logLoss === null ? null : reasonOf[capture.logLoss];
    const { resync } = memory.state;
    memory.note({ resync: logLost ?? (partial.has(resync) ? leavesLost : null) ?? resync });
    return new ReplicaDisk(capture, memory, unmarked);
  }

  get name(): string {
    return this.capture.name;
  }

  get leaves(): LeafFile {
    return this.#memory.leaves;
  }

  /** What OPEN_DISK says: the committed point the leaf file stands at, or null. */
  get knownPoint(): number | null {
    return this.#memory.asOf;
  }

  /** Why the disk is compared with its replica; null: it is not. */
  get resyncReason(): ResyncReason | null {
    return this.#memory.state.resync;
  }

  /** Whether points of it may be in flight while the next is made: its leaf file stands at a point, and nothing is due but what changes. */
  get isSteady(): boolean {
    return this.kind === 'delta' && this.knownPoint !== null && !this.comparisonDue && !this.reopeningDue;
  }

  /** A comparison is asked for, which begins with another session. */
  get resyncRequested(): boolean {
    return this.#requested && partial.has(this.resyncReason);
  }

  /** Kind of the cycles until the next commit. */
  get kind(): CycleKind {
    if (this.committedPoint === null) return 'initial';
    return this.resyncReason === null ? 'delta' : 'resync';
  }

  get #targetHasSome(): boolean {
    return this.committedPoint !== null || this.layers !== null;
  }

  // ---- why and how far ------------------------------------------------------------------------------------------------------

  get resync(): ResyncReport | null {
    const reason = this.resyncReason;
    // Before the first OPENED all that is known of the replica is that there was one.
    const replicates = this.#met ? this.kind !== 'initial' : this.#memory.state.diskId !== null;
    if (reason !== null && replicates) return { reason, ...this.#phase };
    return this.#requested ? { ...waiting, reason: 'requested' } : null;
  }

  enter(phase: ResyncPhase, totalBytes = 0, opensAtMs: number | null = null): void {
    this.#phase = { phase, doneBytes: 0, totalBytes, opensAtMs };
  }

  progressed(bytes: number): void {
    const { doneBytes, totalBytes } = this.#phase;
    this.#phase = { ...this.#phase, doneBytes: Math.min(doneBytes + bytes, totalBytes) };
  }

  /** Every block is to be hashed and compared; begins with `beginRequested`, unless that is under way or due anyway. */
  requestResync(): void {
    this.#requested = partial.has(this.resyncReason);
  }

  /** Between cycles: what was requested comes with the next opening. */
  beginRequested(): void {
    if (!this.#requested) return;
    this.#requested = false;
    if (!partial.has(this.resyncReason)) return;
    this.#doubt('requested', { worthless: false, all: true });
    this.reopeningDue = true;
  }

  /** Whether a cycle would send more than this share of the disk (0 to 1), and is not a resync yet. */
  changedMoreThan(ratio: number): boolean {
    return this.kind === 'delta' && this.capture.currentBytes > ratio * this.capture.geometry.size;
  }

  /** More has changed than is sent outside the resync window. */
  exceedLimit(): void {
    this.#memory.note({ resync: 'log-over-limit' });
  }

  /** The target's root differed though every leaf was sent: the leaf file is worthless. */
  distrustLeaves(): void {
    this.#doubt('root-mismatch', { worthless: true, all: true });
  }

  /** Before each session: a leaf file that could not be synced is replaced, and the disk compared. It was a cache. */
  async mend(): Promise<void> {
    if (await this.#memory.mend()) this.#doubt('leaves-lost', { worthless: true, all: true });
  }

  // ---- opening --------------------------------------------------------------------------------------------------------------

  /** Takes over what OPENED says (see the table); LEAVES follow. Returns what is wrong with it, or null. */
  opened(message: Opened): string | null {
    this.#met = true;
    this.leaves.discard();
    const asked = this.knownPoint;
    this.leafKey = Buffer.from(message.leafKey, 'hex');
    this.layers = message.layers;
    this.committedPoint = message.committed?.point ?? null;
    const finding = this.#findingIn(message);
    if (finding) this.#doubt('base-mismatch', finding);
    if (message.leaves === 'compare' && asked !== null && !finding)
      this.#doubt('base-mismatch', { worthless: false, all: false });
    this.#memory.note({ diskId: message.diskId, point: this.committedPoint });
    this.comparisonDue = message.leaves === 'compare' && (this.#targetHasSome || !this.#memory.allZero);
    if (!this.#targetHasSome) this.#memory.note({ resync: null });
    else if (this.comparisonDue && this.kind === 'delta') this.#memory.note({ resync: 'leaves-lost' });
    this.surveyDue = this.resyncReason !== null && this.resyncReason !== 'log-over-limit';
    this.reopeningDue = message.leaves === 'since' && this.knownPoint !== asked;
    this.enter('waiting');
    return finding?.text ?? null;
  }

  #findingIn(message: Opened): Finding | null {
    const { diskId, point, leaves } = this.#memory.state;
    const committed = message.committed?.point ?? 0;
    const furthest = this.#memory.furthestPoint;
    if (diskId !== null && diskId !== message.diskId) {
      const text = `the target holds replica ${message.diskId}, this agent knew ${diskId}`;
      return { text, worthless: true, all: true };
    }
    if (point !== null && committed < point) {
      const text = `the target is at point ${committed}, this agent was told point ${point} is committed`;
      return { text, worthless: false, all: false };
    }
    if (furthest !== null && committed > furthest) {
      const text = `the target is at point ${committed}, this agent knows of none behind ${furthest}: its host was rolled back`;
      return { text, worthless: false, all: true };
    }
    if (leaves?.asOf === committed && message.committed?.root !== leaves.root) {
      const text = `the target's root of point ${committed} is not the one this agent was told`;
      return { text, worthless: false, all: true };
    }
    return null;
  }

  #doubt(reason: ResyncReason, { worthless, all }: Pick<Finding, 'worthless' | 'all'>): void {
    if (all) this.capture.markAll();
    this.#marksToSettle ||= all;
    if (worthless) this.#memory.distrust();
    else this.#memory.leavePoint();
    this.#memory.note({ resync: reason });
  }

  /** Lays LEAVES over the leaf file (invariant 2). */
  lay(message: Leaves): void {
    for (const [block, leaf] of message.pairs) this.differs(block, leaf);
  }

  /** The target has another content of this block, with this leaf. */
  differs(block: number, leaf: Uint8Array): void {
    this.leaves.set(block, leaf);
    this.capture.mark(block, fullMask);
    this.#marksToSettle = true;
  }

  /** Blocks that must be sent whole although their leaf may not have changed. */
  requestRepair(blocks: readonly number[]): void {
    for (const block of blocks) {
      this.repair.add(block);
      this.capture.mark(block, fullMask);
    }
  }

  // ---- what becomes durable -------------------------------------------------------------------------------------------------

  /** Makes durable why the disk is compared, so that a restart goes on with it. */
  async settle(): Promise<void> {
    if (this.#marksToSettle) await this.capture.forgetSending(0, 0);
    this.#marksToSettle = false;
    await this.#memory.write();
  }

  /**
   * Outside a cut: all blocks of *sending* below `end` were read, and their leaves laid, or marked again. What can be kept of that is: leaves of
   * no point are folded, and the log forgets the blocks; leaves of a point stay as they are.
   */
  async checkpoint(end: number): Promise<void> {
    if (this.knownPoint === null) {
      if (this.#marksToSettle) await this.settle();
      await this.#memory.fold(null);
    }
    // Asked for whole: that a block is what its leaf says is no reason not to send it.
    for (const block of this.repair) if (block < end) this.capture.mark(block, fullMask);
    await this.capture.forgetSending(0, end);
  }

  /** The source has another, larger geometry now; its new blocks are marked. The target hears of it at the next opening. */
  async grow(): Promise<void> {
    await this.leaves.grow(this.capture.geometry);
    this.reopeningDue = true;
  }

  /** So many POINTs are about to wait for their answers, the newest with everything that was sent. */
  async pointSent(waiting: number): Promise<void> {
    await this.#memory.expect(waiting);
    this.layers = null;
  }

  /** A point is committed; what it listed may be forgotten with the next fold. */
  committed(point: number): void {
    this.#memory.note({ point, resync: null });
    this.committedPoint = point;
  }

  /** The newest committed point is the disk as of the last cut, with all leaves that were laid (invariant 4). */
  async fold(): Promise<void> {
    if (this.#marksToSettle) await this.settle();
    this.#memory.note({ ahead: 0 });
    await this.#memory.fold(this.committedPoint);
    await this.capture.forget();
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

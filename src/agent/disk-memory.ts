/**
 * The leaf file of a disk and the state file that says what it is: what the agent durably knows of the replica.
 *
 * Invariants:
 *  1. **A block is in the change log, or its content is what its leaf in the leaf file says** (of a block that is in the log with some of its
 *     pages, the other pages are still those its leaf was made of). So leaves may be taken over from any reading of a marked block that the log
 *     has not missed a write of, and only then may the log forget the block.
 *  2. A change of the file is announced before it is made: the state file first names the root the file will have (`next`). At the next start the
 *     file is what `next` or what `leaves` says, or nothing that counts: then every block is marked, which makes 1 true of any file. A crash in
 *     the middle thus costs hashing, never a change.
 *  3. Before a POINT may be committed unseen, the state file says so (`point` and `ahead`): one answer may always be lost, more only as many as
 *     it names. So a target that is further than that is not the one this agent left, or its own host was rolled back.
 *  4. Leaves are `asOf` a committed point, or of none. Of a point: the target can say what changed since. Of none: they are compared.
 */
import * as path from 'node:path';
import { geometryOf, type Geometry } from '../disk/geometry.ts';
import { MerkleNodes } from '../disk/merkle.ts';
import { merkleHashes } from '../kernels/hash.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import { LeafFile } from '../store/leaf-file.ts';
import { newDiskState, writeDiskState, type DiskState, type LeavesRecord } from './disk-state.ts';

export interface DiskMemoryOptions {
  readonly files: Files;
  /** The agent's state directory. */
  readonly directory: string;
  readonly name: string;
  readonly geometry: Geometry;
  /** What `readDiskState` found there. */
  readonly state: DiskState | null;
}

function rootOf(leaves: LeafFile): string {
  return Buffer.from(leaves.committedRoot()).toString('hex');
}

const aheadStep = 8;

function furthest({ point, ahead }: Pick<DiskState, 'point' | 'ahead'>): number | null {
  return point === null ? null : point + Math.max(1, ahead);
}

function openLeaves({ files, directory, name, geometry }: DiskMemoryOptions, size: number): Promise<LeafFile> {
  return LeafFile.open({
    files,
    path: path.join(directory, `${name}.leaves`),
    geometry: geometryOf(Math.min(size, geometry.size), geometry.blockSize),
    hashes: merkleHashes,
  });
}

/** The leaf file as one of the records describes it, which one, or as it is. */
async function findLeaves(
  options: DiskMemoryOptions,
): Promise<{ readonly leaves: LeafFile; readonly record: LeavesRecord | null }> {
  const { state, geometry } = options;
  let leaves: LeafFile | null = null;
  for (const record of [state?.next ?? null, state?.leaves ?? null]) {
    if (record === null) continue;
    // The disk may have been smaller then, and so was the tree. What a reopening cuts off belonged to no record that counts.
    if (leaves?.geometry.size !== record.size) {
      await leaves?.close();
      leaves = await openLeaves(options, record.size);
    }
    if (rootOf(leaves) === record.root) return { leaves, record };
  }
  return { leaves: leaves ?? (await openLeaves(options, geometry.size)), record: null };
}

/** What the state directory refused, for who can mend that; replication asks it again by itself. */
function refusal(directory: string, error: unknown): unknown {
  const code = systemCode(error);
  if (isProblem(error) || code === undefined) return error;
  const isFull = code === 'ENOSPC' || code === 'EDQUOT';
  return new Problem(isFull ? 'full' : 'write-failed', `the state directory ${directory}: ${messageOf(error)}`, {
    remedy: `${isFull ? 'make room there' : 'make it writable again'}; replication goes on by itself`,
    retryable: true,
    cause: error,
  });
}

export class DiskMemory {
  #leaves: LeafFile;
  /** A sync of the leaf file failed, and nothing can be written to it any more. */
  #givenUp = false;
  readonly #options: DiskMemoryOptions;
  #state: DiskState;
  /** Of `#state`, as the file says it. */
  #written: Pick<DiskState, 'point' | 'ahead'>;

  private constructor(options: DiskMemoryOptions, leaves: LeafFile, record: LeavesRecord | null) {
    this.#leaves = leaves;
    this.#options = options;
    const { blockSize } = options.geometry;
    this.#state = { ...(options.state ?? newDiskState(null)), blockSize, leaves: record, next: null };
    this.#written = this.#state;
  }

  /** Opens the leaf file and writes the state file if there is none yet. If `found` is false afterwards, every block must be marked. */
  static async open(options: DiskMemoryOptions): Promise<DiskMemory> {
    const { files, directory, name, geometry } = options;
    const { leaves, record } = await findLeaves(options);
    try {
      if (record === null) leaves.reset();
      if (leaves.geometry.size !== geometry.size) await leaves.grow(geometry);
      const memory = new DiskMemory(options, leaves, record);
      if (options.state === null) await writeDiskState(files, directory, name, memory.state);
      return memory;
    } catch (error) {
      await leaves.close();
      throw error;
    }
  }

  get leaves(): LeafFile {
    return this.#leaves;
  }

  get state(): DiskState {
    return this.#state;
  }

  /** Whether the leaf file counts (invariant 2). */
  get found(): boolean {
    return this.#state.leaves !== null;
  }

  /** The point the leaf file stands at; null: none. */
  get asOf(): number | null {
    return this.#state.leaves?.asOf ?? null;
  }

  /** Whether all committed leaves are those of zeros. */
  get allZero(): boolean {
    const zeros = new MerkleNodes(this.leaves.geometry, merkleHashes).root();
    return Buffer.compare(this.leaves.committedRoot(), zeros) === 0;
  }

  /** Takes facts over; durable with the next `write` or `fold`. */
  note(facts: Partial<Pick<DiskState, 'diskId' | 'point' | 'ahead' | 'resync'>>): void {
    this.#state = { ...this.#state, ...facts };
  }

  /** The newest point the target may have: so many behind the one we were told of were never answered. */
  get furthestPoint(): number | null {
    return furthest(this.#state);
  }

  /** So many POINTs are about to wait for their answers (invariant 3). Written in steps, so that it is done seldom. */
  async expect(points: number): Promise<void> {
    const { point, ahead } = this.#state;
    const known = furthest(this.#written);
    if (point === null || (known !== null && point + points <= known)) return;
    const steps = Math.ceil(Math.log(points) / Math.log(aheadStep));
    this.#state = { ...this.#state, ahead: Math.max(ahead, aheadStep ** Math.max(1, steps)) };
    await this.write();
  }

  /** The leaves stand at no point any more, as the target sees it; what they say of the disk still holds. */
  leavePoint(): void {
    const { leaves } = this.#state;
    if (leaves) this.#state = { ...this.#state, leaves: { ...leaves, asOf: null } };
  }

  /** The leaves are worth nothing: zeros again. The caller has marked every block. */
  distrust(): void {
    this.#state = { ...this.#state, leaves: null, next: null };
    this.leaves.reset();
  }

  async write(): Promise<void> {
    const { files, directory, name } = this.#options;
    try {
      await writeDiskState(files, directory, name, this.#state);
    } catch (error) {
      throw refusal(directory, error);
    }
    this.#written = this.#state;
  }

  /** Makes the working leaves the durable ones, as of a committed point or of none (invariant 2). */
  async fold(asOf: number | null): Promise<void> {
    const { size } = this.leaves.geometry;
    const root = Buffer.from(this.leaves.workingRoot()).toString('hex');
    this.#state = { ...this.#state, next: { root, size, asOf } };
    await this.write();
    try {
      await this.leaves.commit();
    } catch (error) {
      this.#givenUp ||= isProblem(error) && error.code === 'sync-failed';
      throw refusal(this.#options.directory, error);
    }
    this.#state = { ...this.#state, leaves: this.#state.next, next: null };
  }

  /** Another leaf file, of zeros, instead of one that is given up (C4); true: the caller marks every block. When it fails it is called again. */
  async mend(): Promise<boolean> {
    if (!this.#givenUp) return false;
    const { files, directory, name } = this.#options;
    const { geometry } = this.leaves;
    this.#state = { ...this.#state, leaves: null, next: null };
    await this.leaves.close();
    await files.remove(path.join(directory, `${name}.leaves`));
    this.#leaves = await openLeaves({ ...this.#options, geometry }, geometry.size);
    this.#givenUp = false;
    return true;
  }

  close(): Promise<void> {
    return this.leaves.close();
  }
}

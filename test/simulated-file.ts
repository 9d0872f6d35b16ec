/** An open file of a simulated disk (`simulated-files.ts`), and what it is open on. */
import { Problem } from '../src/kit/problem.ts';
import type { File, FileFacts } from '../src/posix/files.ts';
import { SharedSync } from '../src/posix/shared-sync.ts';
import { applyChange, SparseBytes, type Change } from './simulated-bytes.ts';

/** What changes something, and so can be watched: a crash could fall on it. */
type ChangingOperation =
  | 'create'
  | 'write'
  | 'writeSync'
  | 'datasync'
  | 'truncate'
  | 'rename'
  | 'remove'
  | 'makeDirectory'
  | 'syncDirectory'
  | 'close';
/** What can be made to fail. */
export type Operation = ChangingOperation | 'open' | 'read';

export function changesSomething(operation: Operation): boolean {
  return operation !== 'open' && operation !== 'read';
}

export interface Fault {
  readonly code: 'EIO' | 'ENOSPC' | 'EINTR' | 'EROFS' | 'EACCES';
  /** How much of a write is done before it fails; default: nothing. */
  readonly wrote?: 'half' | 'all';
}

const shares = { none: 0, half: 0.5, all: 1 };

export function systemError(code: string, what: string): Error {
  return Object.assign(new Error(`${code}: ${what}`), { code });
}

/** What a file needs of its disk. */
interface Disk {
  readonly dead: boolean;
  readonly violations: string[];
  readonly pieceBytes: number;
  readonly punches: () => boolean;
  readonly fault: (operation: Operation, filePath: string) => Fault | null;
  begin(operation: Operation, filePath: string): Promise<Fault | null>;
  step(operation: Operation, filePath: string): Promise<void>;
  turns(): Promise<void>;
  now(): bigint;
}

/** Of no other simulated disk of any process: locks are named after it. */
export const device = 2n ** 40n + BigInt(process.pid);

/** Content of one file. */
export class Inode {
  content = new SparseBytes();
  durable = new SparseBytes();
  pending: Change[] = [];
  mtimeNs = 1n;
  /** A sync of data does not promise times: after a power failure it may be this one. */
  durableMtimeNs = 1n;
  readonly number: bigint;
  constructor(number: bigint) {
    this.number = number;
  }
  change(change: Change, nowNs: bigint): void {
    applyChange(this.content, change);
    this.pending.push(change);
    this.mtimeNs = nowNs;
  }
  facts(): FileFacts {
    const { content, mtimeNs, number } = this;
    return { size: content.size, mtimeNs, ctimeNs: mtimeNs, device, inode: number, kind: 'file' };
  }
}

export class SimulatedFile implements File {
  readonly path: string;
  readonly #disk: Disk;
  readonly #inode: Inode;
  readonly #syncs = new SharedSync(() => this.#sync());
  #syncFailed: Error | null = null;
  #closed = false;

  constructor(disk: Disk, filePath: string, inode: Inode) {
    this.#disk = disk;
    this.path = filePath;
    this.#inode = inode;
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    const { pieceBytes } = this.#disk;
    let done = 0;
    do {
      await this.#disk.step('read', this.path);
      const piece = into.subarray(done, done + pieceBytes);
      const got = this.readSync(piece, position + done);
      done += got;
      if (got < piece.byteLength) break;
    } while (done < into.byteLength);
    return done;
  }

  readSync(into: Uint8Array, position: number): number {
    if (this.#closed) throw new Problem('closed', `${this.path} is closed`);
    return this.#inode.content.read(into, position);
  }

  /** It has no cache: every read is one of the disk. */
  readCachedSync(): boolean {
    if (this.#closed) throw new Problem('closed', `${this.path} is closed`);
    return false;
  }

  async write(parts: readonly Uint8Array[], position: number): Promise<void> {
    this.#refuse('write');
    const whole = Buffer.concat(parts);
    const fault = await this.#disk.begin('write', this.path);
    const bytes = whole.subarray(0, whole.byteLength * (fault ? shares[fault.wrote ?? 'none'] : 1));
    const { pieceBytes } = this.#disk;
    for (let done = 0; done < bytes.byteLength; done += pieceBytes) {
      this.#write(bytes.subarray(done, done + pieceBytes), position + done);
      if (pieceBytes < Infinity) await this.#disk.turns();
    }
    if (fault) throw systemError(fault.code, `write ${this.path}`);
  }

  writeSync(part: Uint8Array, position: number): void {
    this.#refuse('write');
    if (this.#disk.dead) return;
    const fault = this.#disk.fault('writeSync', this.path);
    if (fault) throw systemError(fault.code, `write ${this.path}`);
    this.#write(Buffer.from(part), position);
  }

  async datasync(): Promise<void> {
    this.#refuse('datasync');
    try {
      await this.#syncs.run();
    } catch (error) {
      this.#syncFailed ??= error instanceof Error ? error : new Error(String(error));
      throw this.#givenUp(this.#syncFailed);
    }
  }

  async #sync(): Promise<void> {
    const inode = this.#inode;
    const covered = new Set(inode.pending);
    const later = (): Change[] => inode.pending.filter((change) => !covered.has(change));
    try {
      await this.#disk.step('datasync', this.path);
    } catch (error) {
      inode.pending = later();
      throw error;
    }
    for (const change of inode.pending) if (covered.has(change)) applyChange(inode.durable, change);
    inode.pending = later();
  }

  async truncate(size: number): Promise<void> {
    this.#refuse('truncate');
    await this.#disk.step('truncate', this.path);
    this.#inode.change({ kind: 'size', size }, this.#disk.now());
  }

  allocateSync(position: number, length: number, keepSize: boolean): void {
    if (keepSize || position + length <= this.#inode.content.size) return;
    this.#inode.change({ kind: 'size', size: position + length }, this.#disk.now());
  }

  punchHoleSync(position: number, length: number): boolean {
    this.#refuse('punchHole');
    if (this.#disk.dead) return true;
    if (!this.#disk.punches()) return false;
    this.#inode.change({ kind: 'zero', position, length }, this.#disk.now());
    return true;
  }

  extentSync(_position: number, length: number): { hole: boolean; length: number } {
    return { hole: false, length };
  }

  dropCacheSync(position: number, length: number): void {
    const { durable, pending, content } = this.#inode;
    const disk = durable.copy();
    for (const change of pending) applyChange(disk, change);
    for (const page of content.differences(disk)) {
      const at = page * 4096;
      if (at < position || at >= position + length) continue;
      const bytes = Buffer.alloc(Math.min(4096, content.size - at));
      disk.read(bytes, at);
      content.write(bytes, at);
    }
  }

  facts(): FileFacts {
    return this.#inode.facts();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    await this.#disk.step('close', this.path);
    this.#closed = true;
  }

  #write(bytes: Buffer, position: number): void {
    if (bytes.byteLength > 0) this.#inode.change({ kind: 'write', position, bytes }, this.#disk.now());
  }

  #refuse(what: string): void {
    if (this.#closed) throw new Problem('closed', `${this.path} is closed`);
    if (!this.#syncFailed) return;
    this.#disk.violations.push(`${what} ${this.path}`);
    throw this.#givenUp(this.#syncFailed);
  }

  #givenUp(cause: Error): Problem {
    return new Problem('sync-failed', `${this.path}: an earlier sync failed, the file is given up`, { cause });
  }
}

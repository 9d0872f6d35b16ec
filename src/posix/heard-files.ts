/**
 * The door to the file system with somebody who listens at it: whatever the system refuses is heard at once, also where whoever asked for it
 * can do without or tries again, and says nothing. So no fault of a disk passes unseen, by construction and not by the care of each caller.
 *
 * Invariants:
 *  1. The listener changes nothing: every operation answers or throws what it would have, after the fault was heard.
 *  2. What merely answers a question (there is no such file, there is one already) is no fault.
 *  3. Of a file whose sync failed nothing more is heard: what its door refuses afterwards never reached the disk (C4).
 */
import { isProblem, systemCode } from '../kit/problem.ts';
import type { File, FileFacts, Files } from './files.ts';

export type FileOperation =
  | 'open'
  | 'read'
  | 'write'
  | 'datasync'
  | 'truncate'
  | 'allocate'
  | 'punch-hole'
  | 'close'
  | 'look'
  | 'replace'
  | 'make-directory'
  | 'rename'
  | 'remove'
  | 'sync-directory';

export interface FileFault {
  readonly operation: FileOperation;
  readonly path: string;
  /** Of the system: `EIO`, `ENOSPC`, … */
  readonly code: string;
}

/** Invariant 2. */
const answers: ReadonlySet<string> = new Set(['ENOENT', 'ENOTDIR', 'EEXIST', 'EISDIR', 'ENXIO']);

/** What the system said, or null. A Problem of the door has it as its cause. */
function faultCode(error: unknown): string | null {
  const code = systemCode(isProblem(error) ? error.cause : error);
  return code === undefined || !/^E[A-Z0-9]+$/.test(code) || answers.has(code) ? null : code;
}

type Ear = (operation: FileOperation, error: unknown) => void;

async function during<T>(ear: Ear, operation: FileOperation, running: Promise<T>): Promise<T> {
  try {
    return await running;
  } catch (error) {
    ear(operation, error);
    throw error;
  }
}

function duringSync<T>(ear: Ear, operation: FileOperation, run: () => T): T {
  try {
    return run();
  } catch (error) {
    ear(operation, error);
    throw error;
  }
}

class HeardFile implements File {
  readonly path: string;
  readonly #file: File;
  readonly #ear: Ear;

  constructor(file: File, ear: Ear) {
    this.path = file.path;
    this.#file = file;
    let givenUp = false;
    this.#ear = (operation, error) => {
      if (!givenUp) ear(operation, error);
      // Invariant 3.
      givenUp ||= isProblem(error) && error.code === 'sync-failed';
    };
  }

  read(into: Uint8Array, position: number): Promise<number> {
    return during(this.#ear, 'read', this.#file.read(into, position));
  }

  readSync(into: Uint8Array, position: number): number {
    return duringSync(this.#ear, 'read', () => this.#file.readSync(into, position));
  }

  readCachedSync(into: Uint8Array, position: number): boolean {
    return duringSync(this.#ear, 'read', () => this.#file.readCachedSync(into, position));
  }

  write(parts: readonly Uint8Array[], position: number): Promise<void> {
    return during(this.#ear, 'write', this.#file.write(parts, position));
  }

  writeSync(part: Uint8Array, position: number): void {
    duringSync(this.#ear, 'write', () => {
      this.#file.writeSync(part, position);
    });
  }

  datasync(): Promise<void> {
    return during(this.#ear, 'datasync', this.#file.datasync());
  }

  truncate(size: number): Promise<void> {
    return during(this.#ear, 'truncate', this.#file.truncate(size));
  }

  allocateSync(position: number, length: number, keepSize: boolean): void {
    duringSync(this.#ear, 'allocate', () => {
      this.#file.allocateSync(position, length, keepSize);
    });
  }

  punchHoleSync(position: number, length: number): boolean {
    return duringSync(this.#ear, 'punch-hole', () => this.#file.punchHoleSync(position, length));
  }

  extentSync(position: number, length: number): { readonly hole: boolean; readonly length: number } {
    return duringSync(this.#ear, 'look', () => this.#file.extentSync(position, length));
  }

  dropCacheSync(position: number, length: number): void {
    this.#file.dropCacheSync(position, length);
  }

  facts(): FileFacts {
    return duringSync(this.#ear, 'look', () => this.#file.facts());
  }

  close(): Promise<void> {
    return during(this.#ear, 'close', this.#file.close());
  }
}

/** `hear` must not throw. */
export function heardFiles(files: Files, hear: (fault: FileFault) => void): Files {
  const earOf =
    (path: string): Ear =>
    (operation, error) => {
      const code = faultCode(error);
      if (code !== null) hear({ operation, path, code });
    };
  const heard = <T>(operation: FileOperation, path: string, running: Promise<T>): Promise<T> =>
    during(earOf(path), operation, running);
  return {
    open: async (path, mode, permissions) =>
      new HeardFile(await heard('open', path, files.open(path, mode, permissions)), earOf(path)),
    readWhole: (path) => heard('read', path, files.readWhole(path)),
    replaceFile: (path, bytes, permissions) => heard('replace', path, files.replaceFile(path, bytes, permissions)),
    exists: (path) => heard('look', path, files.exists(path)),
    facts: (path) => heard('look', path, files.facts(path)),
    list: (directory) => heard('look', directory, files.list(directory)),
    makeDirectory: (path) => heard('make-directory', path, files.makeDirectory(path)),
    rename: (from, to) => heard('rename', from, files.rename(from, to)),
    remove: (path) => heard('remove', path, files.remove(path)),
    removeTree: (path) => heard('remove', path, files.removeTree(path)),
    syncDirectory: (path) => heard('sync-directory', path, files.syncDirectory(path)),
    freeBytes: (path) => heard('look', path, files.freeBytes(path)),
  };
}

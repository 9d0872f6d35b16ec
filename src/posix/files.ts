/**
 * The only door to the file system. Every durable byte of the product goes through `Files` and `File`, so that a test can put
 * a simulated disk in their place and lose, drop or refuse each operation.
 *
 * Rules kept here:
 *  1. Reads and writes are whole: `read` fills the buffer unless the file ends, `write` writes everything or throws.
 *  2. A failed `datasync` is final (C4): all who wait for it hear of it (shared-sync.ts), and the file refuses every later write and datasync.
 *  3. `replaceFile` is the full dance: temporary name, write, fsync, rename, fsync of the directory.
 *  4. `makeDirectory` makes names durable from the top down: what is synced inside a directory is lost with the directory's own name.
 *  5. The number of a closed descriptor goes to the next file that is opened. So `close` lets the operations under way end first, and
 *     from its call on every other one is refused `closed`.
 */
import {
  closeSync,
  constants,
  fdatasync,
  fstatSync,
  fsync,
  ftruncate,
  openSync,
  read,
  readSync,
  write,
  writev,
  writeSync,
  type BigIntStats,
} from 'node:fs';
import * as fs from 'node:fs/promises';
import * as path from 'node:path';
import { promisify } from 'node:util';
import { Problem, systemCode } from '../kit/problem.ts';
import { deviceTraceSync, type DeviceTrace } from './device-trace.ts';
import { SharedSync } from './shared-sync.ts';
import { allocateSync, blockDeviceSizeSync, dropCacheSync, punchHoleSync, readCached, seekSync } from './syscalls.ts';

const fdatasyncAsync = promisify(fdatasync);
const fsyncAsync = promisify(fsync);
const ftruncateAsync = promisify(ftruncate);

/** How a file is opened: `read`, `write` (read and write, must exist), `create` (read and write, made if missing), `exclusive` (must not exist). */
export type OpenMode = 'read' | 'write' | 'create' | 'exclusive';

export interface FileFacts {
  /** Bytes; of a block device its real capacity. */
  readonly size: number;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
  readonly device: bigint;
  /** Of a block device the identity of its disk (device-trace.ts), 0 where the system does not say. */
  readonly inode: bigint;
  /** Of a block device, whose times are those of its name. */
  readonly sectorsWritten?: DeviceTrace['sectorsWritten'];
  readonly kind: 'file' | 'directory' | 'block-device' | 'other';
}

export interface File {
  readonly path: string;
  /** Fills `into` from `position`; returns the bytes read, fewer only at the end of the file. The caller owns `into` throughout. */
  read(into: Uint8Array, position: number): Promise<number>;
  /** As `read`, on the calling thread. For page-cache-hot data and small reads only. */
  readSync(into: Uint8Array, position: number): number;
  /** Fills `into` from the page cache alone, on the calling thread. False: not all of it is there, or nobody can tell. */
  readCachedSync(into: Uint8Array, position: number): boolean;
  /** Writes all parts one after another from `position`. The parts must not change until it resolves. */
  write(parts: readonly Uint8Array[], position: number): Promise<void>;
  /** As `write` for one part, on the calling thread. */
  writeSync(part: Uint8Array, position: number): void;
  /** Makes data and size durable. After a failure the file is given up: every later write or datasync throws `sync-failed`. */
  datasync(): Promise<void>;
  truncate(size: number): Promise<void>;
  /** Reserves space without changing what is read (fallocate); grows the size unless `keepSize`. Does nothing where unsupported. */
  allocateSync(position: number, length: number, keepSize: boolean): void;
  /** Makes the range read as zeros, releasing space where possible; false where the file system can not (write zeros instead). */
  punchHoleSync(position: number, length: number): boolean;
  /**
   * Bytes from `position` that are a hole (read as zeros, nothing allocated) or not, at most `length`. Where the file system can not tell,
   * everything is data.
   */
  extentSync(position: number, length: number): { readonly hole: boolean; readonly length: number };
  /**
   * Forgets what the page cache holds of the range, so that the next read comes from the disk: after a sync that failed the cache shows what the
   * disk never got. Does nothing where unsupported, and to what is not synced.
   */
  dropCacheSync(position: number, length: number): void;
  facts(): FileFacts;
  /** Waits for the operations under way; every later one throws `closed`. Idempotent. */
  close(): Promise<void>;
}

export interface Files {
  open(path: string, mode: OpenMode, permissions?: number): Promise<File>;
  readWhole(path: string): Promise<Buffer>;
  /** Atomically and durably replaces `path` (rule 3). Default permissions 0600. */
  replaceFile(path: string, bytes: Uint8Array, permissions?: number): Promise<void>;
  exists(path: string): Promise<boolean>;
  facts(path: string): Promise<FileFacts>;
  /** Names in a directory, sorted; empty if it does not exist. */
  list(directory: string): Promise<string[]>;
  /** Makes it, and those above it that are missing, durably (rule 4). */
  makeDirectory(path: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  remove(path: string): Promise<void>;
  removeTree(path: string): Promise<void>;
  syncDirectory(path: string): Promise<void>;
  /** Bytes free for this user on the file system of `path`. */
  freeBytes(path: string): Promise<number>;
}

const openFlags: Record<OpenMode, number> = {
  read: constants.O_RDONLY,
  write: constants.O_RDWR,
  create: constants.O_RDWR | constants.O_CREAT,
  exclusive: constants.O_RDWR | constants.O_CREAT | constants.O_EXCL,
};

/** One system call never moves more than this (Linux caps a write at 2 GiB − 4 KiB; readv/writev take 1024 parts). */
const partsPerCallMax = 1024;

class PosixFile implements File {
  readonly path: string;
  readonly #descriptor: number;
  readonly #syncs: SharedSync;
  #syncFailed: Error | undefined;
  #closing: Promise<void> | null = null;
  /** Operations begun and not ended, and who waits for the last of them. */
  #underWay = 0;
  #idle: (() => void) | null = null;

  constructor(filePath: string, fd: number) {
    this.path = filePath;
    this.#descriptor = fd;
    this.#syncs = new SharedSync(() => fdatasyncAsync(fd));
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    return this.#during(async (fd) => {
      let done = 0;
      while (done < into.byteLength) {
        const got = await new Promise<number>((resolve, reject) => {
          read(fd, into, done, into.byteLength - done, position + done, (error, bytes) => {
            if (error) reject(error);
            else resolve(bytes);
          });
        });
        if (got === 0) break;
        done += got;
      }
      return done;
    });
  }

  readSync(into: Uint8Array, position: number): number {
    let done = 0;
    while (done < into.byteLength) {
      const got = readSync(this.#fd, into, done, into.byteLength - done, position + done);
      if (got === 0) break;
      done += got;
    }
    return done;
  }

  readCachedSync(into: Uint8Array, position: number): boolean {
    return readCached(this.#fd, into, position);
  }

  async write(parts: readonly Uint8Array[], position: number): Promise<void> {
    this.#refuseAfterFailedSync();
    await this.#during((fd) => this.#writeAll(fd, parts, position));
  }

  async #writeAll(fd: number, parts: readonly Uint8Array[], position: number): Promise<void> {
    let at = position;
    let rest = parts.filter((part) => part.byteLength > 0);
    while (rest.length > 0) {
      const now = rest.slice(0, partsPerCallMax);
      const first = now[0];
      let wrote = await new Promise<number>((resolve, reject) => {
        const done = (error: Error | null, bytes: number): void => {
          if (error) reject(error);
          else resolve(bytes);
        };
        if (now.length === 1 && first) write(fd, first, 0, first.byteLength, at, done);
        else writev(fd, now, at, done);
      });
      at += wrote;
      // Step over what went out; a short write leaves the rest of one part.
      let index = 0;
      for (; index < rest.length; index += 1) {
        const part = rest[index];
        if (!part || part.byteLength > wrote) break;
        wrote -= part.byteLength;
      }
      rest = rest.slice(index);
      const head = rest[0];
      if (head && wrote > 0) rest[0] = head.subarray(wrote);
    }
  }

  writeSync(part: Uint8Array, position: number): void {
    this.#refuseAfterFailedSync();
    let done = 0;
    while (done < part.byteLength) done += writeSync(this.#fd, part, done, part.byteLength - done, position + done);
  }

  async datasync(): Promise<void> {
    this.#refuseAfterFailedSync();
    await this.#during(async () => {
      try {
        await this.#syncs.run();
      } catch (error) {
        this.#syncFailed ??= error instanceof Error ? error : new Error(String(error));
        this.#refuseAfterFailedSync();
      }
    });
  }

  async truncate(size: number): Promise<void> {
    this.#refuseAfterFailedSync();
    await this.#during((fd) => ftruncateAsync(fd, size));
  }

  allocateSync(position: number, length: number, keepSize: boolean): void {
    allocateSync(this.#fd, position, length, keepSize);
  }

  punchHoleSync(position: number, length: number): boolean {
    return punchHoleSync(this.#fd, position, length);
  }

  extentSync(position: number, length: number): { hole: boolean; length: number } {
    const hole = seekSync(this.#fd, position, 'hole');
    if (hole === undefined) return { hole: false, length };
    if (hole > position) return { hole: false, length: Math.min(length, hole - position) };
    const data = seekSync(this.#fd, position, 'data');
    return { hole: true, length: data === undefined ? length : Math.min(length, data - position) };
  }

  dropCacheSync(position: number, length: number): void {
    dropCacheSync(this.#fd, position, length);
  }

  facts(): FileFacts {
    return factsOf(fstatSync(this.#fd, { bigint: true }), () => blockDeviceSizeSync(this.#fd));
  }

  close(): Promise<void> {
    this.#closing ??= new Promise<void>((resolve) => {
      if (this.#underWay === 0) resolve();
      else this.#idle = resolve;
    }).then(() => {
      closeSync(this.#descriptor);
    });
    return this.#closing;
  }

  /** Rule 5: the one way to the descriptor. */
  get #fd(): number {
    if (this.#closing) throw new Problem('closed', `${this.path} is closed`);
    return this.#descriptor;
  }

  /** An operation that takes more than one turn; `close` waits for it. */
  async #during<T>(run: (fd: number) => Promise<T>): Promise<T> {
    const fd = this.#fd;
    this.#underWay += 1;
    try {
      return await run(fd);
    } finally {
      this.#underWay -= 1;
      if (this.#underWay === 0) this.#idle?.();
    }
  }

  #refuseAfterFailedSync(): void {
    if (this.#syncFailed) {
      throw new Problem('sync-failed', `${this.path}: an earlier sync failed, the file is given up`, {
        cause: this.#syncFailed,
      });
    }
  }
}

function factsOf(stat: BigIntStats, deviceSize: () => number): FileFacts {
  const device = stat.isBlockDevice();
  const trace = device ? deviceTraceSync(stat.rdev) : null;
  return {
    size: device ? deviceSize() : Number(stat.size),
    mtimeNs: stat.mtimeNs,
    ctimeNs: stat.ctimeNs,
    device: device ? stat.rdev : stat.dev,
    inode: device ? (trace?.identity ?? 0n) : stat.ino,
    ...(trace && { sectorsWritten: trace.sectorsWritten }),
    kind: stat.isFile() ? 'file' : stat.isDirectory() ? 'directory' : device ? 'block-device' : 'other',
  };
}

async function syncDirectory(directory: string): Promise<void> {
  const fd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await fsyncAsync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Rule 3, in terms of the other operations, so that a simulated disk does the same. */
export async function replaceWhole(
  files: Omit<Files, 'replaceFile'>,
  filePath: string,
  bytes: Uint8Array,
  permissions: number,
): Promise<void> {
  const temporary = `${filePath}.new`;
  await files.remove(temporary);
  const file = await files.open(temporary, 'exclusive', permissions);
  try {
    await file.write([bytes], 0);
    await file.datasync();
  } finally {
    await file.close();
  }
  await files.rename(temporary, filePath);
  await files.syncDirectory(path.dirname(filePath));
}

/**
 * Rule 4, in terms of three steps, so that a simulated disk does the same. Each name is durable before the next is made; one that is there
 * may be of a process that was killed before it was durable, so it is synced too, unless its parent belongs to somebody else.
 */
export async function makeNamesDurable(
  directory: string,
  steps: {
    readonly isThere: (directory: string) => Promise<boolean>;
    readonly make: (directory: string) => Promise<void>;
    readonly syncDirectory: (directory: string) => Promise<void>;
  },
): Promise<void> {
  const parent = path.dirname(directory);
  if (parent === directory) return;
  const there = await steps.isThere(directory);
  if (!there) {
    await makeNamesDurable(parent, steps);
    await steps.make(directory);
  }
  try {
    await steps.syncDirectory(parent);
  } catch (error) {
    const code = systemCode(error);
    if (!there || (code !== 'EACCES' && code !== 'EPERM')) throw error;
  }
}

export const posixFiles: Files = {
  open: async (filePath, mode, permissions = 0o600) => {
    await Promise.resolve();
    return new PosixFile(filePath, openSync(filePath, openFlags[mode], permissions));
  },
  readWhole: (filePath) => fs.readFile(filePath),
  replaceFile: (filePath, bytes, permissions = 0o600) => replaceWhole(posixFiles, filePath, bytes, permissions),
  exists: (filePath) =>
    fs.access(filePath).then(
      () => true,
      () => false,
    ),
  facts: async (filePath) => {
    const stat = await fs.stat(filePath, { bigint: true });
    return factsOf(stat, () => {
      const fd = openSync(filePath, constants.O_RDONLY);
      try {
        return blockDeviceSizeSync(fd);
      } finally {
        closeSync(fd);
      }
    });
  },
  list: async (directory) => {
    try {
      return (await fs.readdir(directory)).sort();
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
      throw error;
    }
  },
  makeDirectory: (directory) =>
    makeNamesDurable(directory, {
      isThere: async (each) => (await fs.stat(each).catch(() => null))?.isDirectory() === true,
      make: async (each) => {
        await fs.mkdir(each, { recursive: true, mode: 0o700 });
      },
      syncDirectory,
    }),
  rename: (from, to) => fs.rename(from, to),
  remove: (filePath) => fs.rm(filePath, { force: true }),
  removeTree: (filePath) => fs.rm(filePath, { force: true, recursive: true }),
  syncDirectory,
  freeBytes: async (filePath) => {
    const facts = await fs.statfs(filePath);
    return facts.bavail * facts.bsize;
  },
};

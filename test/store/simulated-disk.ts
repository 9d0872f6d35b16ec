/**
 * A disk in memory behind the `Files` contract, with a page cache in front of it: what was written is read back at once, but is on
 * the disk only after a datasync, and names only after a directory sync. A sync that fails marks the pages clean without
 * having stored them, as Linux does. The n-th operation that changes anything can be made to fail.
 */
import { Problem } from '../../src/kit/problem.ts';
import type { File, FileFacts, Files, OpenMode } from '../../src/posix/files.ts';

const sectorBytes = 512;

interface Inode {
  readonly number: number;
  /** The page cache: what every reader sees. */
  cached: Buffer;
  /** Sectors of it that are not on the disk yet. */
  dirty: Set<number>;
  durable: Buffer;
}

export type Fault = 'EIO' | 'ENOSPC' | 'short';

function systemError(code: string, what: string): Error {
  return Object.assign(new Error(`${code}: ${what}`), { code });
}

function resized(bytes: Buffer, size: number): Buffer {
  const made = Buffer.alloc(size);
  bytes.copy(made, 0, 0, Math.min(size, bytes.byteLength));
  return made;
}

function copyInode({ number, cached, dirty, durable }: Inode): Inode {
  return { number, cached: Buffer.from(cached), dirty: new Set(dirty), durable: Buffer.from(durable) };
}

export class SimulatedDisk implements Files {
  names = new Map<string, Inode>();
  #durableNames = new Map<string, Inode>();
  #nextInode = 1;
  free = 2 ** 40;
  /** The operation (counted from 1) that fails, and how. */
  failAt = 0;
  fault: Fault = 'EIO';
  operations = 0;
  failed = 0;
  datasyncs = 0;
  /** Handles that were written or synced again after a failed sync (C4): must stay empty. */
  readonly violations: string[] = [];

  /** Counts an operation; throws when it is the one to fail. */
  step(what: string): void {
    this.operations += 1;
    if (this.operations !== this.failAt) return;
    this.failed += 1;
    throw systemError(this.fault === 'ENOSPC' ? 'ENOSPC' : 'EIO', what);
  }

  /** The process was killed: the page cache lives on. */
  afterKill(): SimulatedDisk {
    const copy = new SimulatedDisk();
    const inodes = new Map<number, Inode>();
    const once = (inode: Inode): Inode => {
      const made = inodes.get(inode.number) ?? copyInode(inode);
      inodes.set(inode.number, made);
      return made;
    };
    for (const [name, inode] of this.names) copy.names.set(name, once(inode));
    for (const [name, inode] of this.#durableNames) copy.#durableNames.set(name, once(inode));
    copy.#nextInode = this.#nextInode;
    copy.free = this.free;
    return copy;
  }

  /** The power failed: what was synced is there, of the rest whatever `chance` (uniform in [0, 1)) lets through, by sectors. */
  afterPowerLoss(chance: () => number): SimulatedDisk {
    const copy = this.afterKill();
    const survivors = new Map(copy.#durableNames);
    for (const [name, inode] of copy.names) if (chance() < 0.5) survivors.set(name, inode);
    for (const inode of new Set(survivors.values())) {
      for (const sector of inode.dirty) {
        if (chance() < 0.5) continue;
        const at = sector * sectorBytes;
        const piece = inode.cached.subarray(at, at + sectorBytes);
        if (inode.durable.byteLength < at + piece.byteLength)
          inode.durable = resized(inode.durable, at + piece.byteLength);
        piece.copy(inode.durable, at);
      }
      inode.dirty.clear();
      inode.cached = Buffer.from(inode.durable);
    }
    copy.names = survivors;
    copy.#durableNames = new Map(survivors);
    return copy;
  }

  /** What a reader sees now. */
  content(path: string): Buffer {
    const inode = this.names.get(path);
    if (!inode) throw systemError('ENOENT', path);
    return inode.cached;
  }

  /** Puts bytes there, durable, without counting. */
  put(path: string, bytes: Uint8Array): void {
    const inode = {
      number: this.#nextInode,
      cached: Buffer.from(bytes),
      dirty: new Set<number>(),
      durable: Buffer.from(bytes),
    };
    this.#nextInode += 1;
    this.names.set(path, inode);
    this.#durableNames.set(path, inode);
  }

  async open(path: string, mode: OpenMode): Promise<File> {
    await Promise.resolve();
    let inode = this.names.get(path);
    if (inode && mode === 'exclusive') throw systemError('EEXIST', path);
    if (!inode) {
      if (mode === 'read' || mode === 'write') throw systemError('ENOENT', path);
      this.step(`create ${path}`);
      inode = { number: this.#nextInode, cached: Buffer.alloc(0), dirty: new Set(), durable: Buffer.alloc(0) };
      this.#nextInode += 1;
      this.names.set(path, inode);
    }
    return new SimulatedFile(this, path, inode);
  }

  async readWhole(path: string): Promise<Buffer> {
    await Promise.resolve();
    return Buffer.from(this.content(path));
  }

  async replaceFile(path: string, bytes: Uint8Array): Promise<void> {
    this.names.delete(`${path}.new`);
    const file = await this.open(`${path}.new`, 'exclusive');
    await file.write([bytes], 0);
    await file.datasync();
    await this.rename(`${path}.new`, path);
    await this.syncDirectory(path.slice(0, path.lastIndexOf('/')));
  }

  async exists(path: string): Promise<boolean> {
    await Promise.resolve();
    return this.names.has(path);
  }

  async facts(path: string): Promise<FileFacts> {
    return (await this.open(path, 'read')).facts();
  }

  async list(directory: string): Promise<string[]> {
    await Promise.resolve();
    const inside = [...this.names.keys()].filter((name) => name.startsWith(`${directory}/`));
    return inside.map((name) => name.slice(directory.length + 1)).sort();
  }

  async makeDirectory(): Promise<void> {
    await Promise.resolve();
  }

  async rename(from: string, to: string): Promise<void> {
    await Promise.resolve();
    this.step(`rename ${from}`);
    const inode = this.names.get(from);
    if (!inode) throw systemError('ENOENT', from);
    this.names.delete(from);
    this.names.set(to, inode);
  }

  async remove(path: string): Promise<void> {
    await Promise.resolve();
    if (!this.names.has(path)) return;
    this.step(`remove ${path}`);
    this.names.delete(path);
  }

  async removeTree(): Promise<void> {
    await Promise.resolve();
  }

  async syncDirectory(directory: string): Promise<void> {
    await Promise.resolve();
    this.step(`sync ${directory}`);
    const inside = (name: string): boolean => name.startsWith(`${directory}/`);
    for (const name of this.#durableNames.keys()) if (inside(name)) this.#durableNames.delete(name);
    for (const [name, inode] of this.names) if (inside(name)) this.#durableNames.set(name, inode);
  }

  async freeBytes(): Promise<number> {
    await Promise.resolve();
    return this.free;
  }
}

class SimulatedFile implements File {
  readonly path: string;
  readonly #disk: SimulatedDisk;
  readonly #inode: Inode;
  #syncFailed = false;

  constructor(disk: SimulatedDisk, path: string, inode: Inode) {
    this.#disk = disk;
    this.path = path;
    this.#inode = inode;
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    await Promise.resolve();
    return this.readSync(into, position);
  }

  readSync(into: Uint8Array, position: number): number {
    return this.#inode.cached.copy(into, 0, Math.min(position, this.#inode.cached.byteLength));
  }

  async write(parts: readonly Uint8Array[], position: number): Promise<void> {
    await Promise.resolve();
    const bytes = Buffer.concat(parts);
    this.#check();
    try {
      this.#disk.step(`write ${this.path}`);
    } catch (error) {
      const half = this.#disk.fault === 'EIO' ? bytes.byteLength : Math.floor(bytes.byteLength / 2);
      this.#put(bytes.subarray(0, half), position);
      throw error;
    }
    this.#put(bytes, position);
  }

  writeSync(part: Uint8Array, position: number): void {
    this.#check();
    this.#disk.step(`write ${this.path}`);
    this.#put(Buffer.from(part), position);
  }

  async datasync(): Promise<void> {
    await Promise.resolve();
    this.#check();
    this.#disk.datasyncs += 1;
    const inode = this.#inode;
    try {
      this.#disk.step(`datasync ${this.path}`);
    } catch (error) {
      this.#syncFailed = true;
      inode.dirty.clear();
      throw error;
    }
    inode.durable = resized(inode.durable, inode.cached.byteLength);
    for (const sector of inode.dirty) {
      const at = sector * sectorBytes;
      inode.cached.copy(inode.durable, at, at, Math.min(at + sectorBytes, inode.cached.byteLength));
    }
    inode.dirty.clear();
  }

  async truncate(size: number): Promise<void> {
    await Promise.resolve();
    this.#check();
    this.#disk.step(`truncate ${this.path}`);
    const inode = this.#inode;
    inode.cached = resized(inode.cached, size);
    for (const sector of inode.dirty) if (sector * sectorBytes >= size) inode.dirty.delete(sector);
  }

  allocateSync(position: number, length: number): void {
    const { cached } = this.#inode;
    if (cached.byteLength < position + length) this.#inode.cached = resized(cached, position + length);
  }

  punchHoleSync(): boolean {
    return false;
  }

  extentSync(_position: number, length: number): { hole: boolean; length: number } {
    return { hole: false, length };
  }

  dropCacheSync(): void {
    // Only the image of a source needs it.
  }

  facts(): FileFacts {
    const { cached, number } = this.#inode;
    return {
      size: cached.byteLength,
      mtimeNs: 0n,
      ctimeNs: 0n,
      device: 1n,
      inode: BigInt(number),
      kind: 'file',
    };
  }

  async close(): Promise<void> {
    await Promise.resolve();
  }

  #check(): void {
    if (!this.#syncFailed) return;
    this.#disk.violations.push(this.path);
    throw new Problem('sync-failed', `${this.path} is given up`);
  }

  #put(bytes: Buffer, position: number): void {
    const inode = this.#inode;
    if (inode.cached.byteLength < position + bytes.byteLength) {
      inode.cached = resized(inode.cached, position + bytes.byteLength);
    }
    bytes.copy(inode.cached, position);
    const last = Math.ceil((position + bytes.byteLength) / sectorBytes);
    for (let sector = Math.floor(position / sectorBytes); sector < last; sector += 1) inode.dirty.add(sector);
  }
}

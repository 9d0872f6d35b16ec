/**
 * A file system whose power can fail: every write stays pending until its file is synced, and `crash` applies, drops or garbles each
 * pending write. Names change durably only with `syncDirectory`. Every call may take a while (`slow`), decided by a seeded generator.
 */
import path from 'node:path';
import type { File, FileFacts, Files, OpenMode } from '../../src/posix/files.ts';

/** Repeatable numbers; mulberry32. */
export class Dice {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  fraction(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }
  below(limit: number): number {
    return Math.floor(this.fraction() * limit);
  }
}

type Change = { kind: 'write'; position: number; bytes: Buffer } | { kind: 'truncate'; size: number };

class Inode {
  static next = 100n;
  readonly number = (Inode.next += 1n);
  durable: Buffer = Buffer.alloc(0);
  content: Buffer = Buffer.alloc(0);
  pending: Change[] = [];
  mtimeNs = 1n;
  ctimeNs = 1n;

  apply(target: Buffer, change: Change): Buffer {
    if (change.kind === 'truncate') {
      const next = Buffer.alloc(change.size);
      target.copy(next);
      return next;
    }
    const end = change.position + change.bytes.byteLength;
    let into = target;
    if (end > into.byteLength) {
      into = Buffer.alloc(end);
      target.copy(into);
    }
    change.bytes.copy(into, change.position);
    return into;
  }
}

export type Fault = (operation: string, filePath: string) => Error | null;

export function systemError(code: string): Error {
  return Object.assign(new Error(`${code}: simulated`), { code });
}

export class SimFiles implements Files {
  readonly dice: Dice;
  /** Largest number of event-loop turns an operation takes. */
  turnsMax = 0;
  /** May refuse an operation before it does anything. */
  fault: Fault = () => null;
  /** Counts operations per name. */
  readonly counts = new Map<string, number>();
  #names = new Map<string, Inode>();
  #durableNames = new Map<string, Inode>();
  #time = 1000n;
  #dead = false;

  constructor(dice: Dice) {
    this.dice = dice;
  }

  async step(operation: string, filePath: string): Promise<void> {
    this.counts.set(operation, (this.counts.get(operation) ?? 0) + 1);
    const error = this.fault(operation, filePath);
    if (error) throw error;
    for (let turns = this.turnsMax === 0 ? 0 : this.dice.below(this.turnsMax + 1); turns > 0; turns -= 1) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (this.#dead) await new Promise(() => undefined);
  }

  now(): bigint {
    return (this.#time += 1000n);
  }

  /** The machine loses power: returns what is there when it is back. Operations of the old one never end. */
  crash(): SimFiles {
    this.#dead = true;
    const after = new SimFiles(this.dice);
    const seen = new Map<Inode, Inode>();
    const names = this.dice.below(2) === 0 ? this.#durableNames : this.#names;
    for (const [name, inode] of names) {
      let survivor = seen.get(inode);
      if (!survivor) {
        survivor = this.#survive(inode);
        seen.set(inode, survivor);
      }
      after.#names.set(name, survivor);
      after.#durableNames.set(name, survivor);
    }
    after.#time = this.#time + 1_000_000n;
    return after;
  }

  /** The process is killed, the page cache stays. */
  kill(): SimFiles {
    this.#dead = true;
    const after = new SimFiles(this.dice);
    for (const [name, inode] of this.#names) {
      // A killed process's operations under way may still reach the disk; new ones do not start.
      after.#names.set(name, inode);
    }
    for (const [name, inode] of this.#durableNames) after.#durableNames.set(name, inode);
    after.#time = this.#time + 1_000_000n;
    return after;
  }

  #survive(inode: Inode): Inode {
    const survivor = new Inode();
    Object.defineProperty(survivor, 'number', { value: inode.number });
    let bytes: Buffer = Buffer.from(inode.durable);
    for (const change of inode.pending) {
      const fate = this.dice.below(3);
      if (fate === 0) continue;
      if (fate === 1 || change.kind === 'truncate') {
        bytes = survivor.apply(bytes, change);
        continue;
      }
      // Torn: each sector arrives, stays old, or is garbage.
      for (let at = 0; at < change.bytes.byteLength;) {
        const position = change.position + at;
        const length = Math.min(change.bytes.byteLength - at, 512 - (position % 512));
        const sector = Buffer.from(change.bytes.subarray(at, at + length));
        const sectorFate = this.dice.below(3);
        if (sectorFate === 2) for (let i = 0; i < length; i += 1) sector[i] = this.dice.below(256);
        if (sectorFate !== 1) bytes = survivor.apply(bytes, { kind: 'write', position, bytes: sector });
        at += length;
      }
    }
    survivor.durable = bytes;
    survivor.content = Buffer.from(bytes);
    survivor.mtimeNs = inode.mtimeNs;
    survivor.ctimeNs = inode.ctimeNs;
    return survivor;
  }

  inode(filePath: string): Inode {
    const inode = this.#names.get(filePath);
    if (!inode) throw systemError('ENOENT');
    return inode;
  }

  /** The bytes as a reader sees them now. */
  peek(filePath: string): Buffer {
    return Buffer.from(this.inode(filePath).content);
  }

  /** Puts a durable file there, behind everybody's back. */
  plant(filePath: string, bytes: Buffer): void {
    const inode = this.#names.get(filePath) ?? new Inode();
    inode.durable = Buffer.from(bytes);
    inode.content = Buffer.from(bytes);
    inode.pending = [];
    inode.mtimeNs = this.now();
    inode.ctimeNs = inode.mtimeNs;
    this.#names.set(filePath, inode);
    this.#durableNames.set(filePath, inode);
  }

  async open(filePath: string, mode: OpenMode): Promise<File> {
    await this.step('open', filePath);
    let inode = this.#names.get(filePath);
    if (inode && mode === 'exclusive') throw systemError('EEXIST');
    if (!inode && (mode === 'read' || mode === 'write')) throw systemError('ENOENT');
    if (!inode) {
      inode = new Inode();
      this.#names.set(filePath, inode);
    }
    return new SimFile(this, filePath, inode);
  }

  async readWhole(filePath: string): Promise<Buffer> {
    await this.step('read', filePath);
    return this.peek(filePath);
  }

  async replaceFile(filePath: string, bytes: Uint8Array): Promise<void> {
    await this.step('replace', filePath);
    this.plant(filePath, Buffer.from(bytes));
  }

  async exists(filePath: string): Promise<boolean> {
    await this.step('exists', filePath);
    return this.#names.has(filePath);
  }

  async facts(filePath: string): Promise<FileFacts> {
    await this.step('facts', filePath);
    return new SimFile(this, filePath, this.inode(filePath)).facts();
  }

  async list(directory: string): Promise<string[]> {
    await this.step('list', directory);
    return [...this.#names.keys()]
      .filter((name) => path.dirname(name) === directory)
      .map((name) => path.basename(name))
      .sort();
  }

  async makeDirectory(directory: string): Promise<void> {
    await this.step('mkdir', directory);
  }

  async rename(from: string, to: string): Promise<void> {
    await this.step('rename', from);
    this.#names.set(to, this.inode(from));
    this.#names.delete(from);
  }

  async remove(filePath: string): Promise<void> {
    await this.step('remove', filePath);
    this.#names.delete(filePath);
  }

  async removeTree(filePath: string): Promise<void> {
    await this.step('remove', filePath);
    for (const name of this.#names.keys())
      if (name === filePath || name.startsWith(`${filePath}/`)) this.#names.delete(name);
  }

  async syncDirectory(directory: string): Promise<void> {
    await this.step('syncDirectory', directory);
    this.#durableNames = new Map(this.#names);
  }

  async freeBytes(filePath: string): Promise<number> {
    await this.step('free', filePath);
    return 2 ** 40;
  }
}

class SimFile implements File {
  readonly path: string;
  readonly #files: SimFiles;
  readonly #inode: Inode;

  constructor(files: SimFiles, filePath: string, inode: Inode) {
    this.#files = files;
    this.path = filePath;
    this.#inode = inode;
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    // Pages arrive one by one, with others' writes in between: reads are not atomic.
    for (let done = 0; done < into.byteLength; done += 1024) {
      await this.#files.step('read', this.path);
      const part = into.subarray(done, done + 1024);
      const got = this.readSync(part, position + done);
      if (got < part.byteLength) return done + got;
    }
    return into.byteLength;
  }

  readSync(into: Uint8Array, position: number): number {
    const from = this.#inode.content.subarray(position, position + into.byteLength);
    into.set(from);
    return from.byteLength;
  }

  async write(parts: readonly Uint8Array[], position: number): Promise<void> {
    await this.#files.step('write', this.path);
    const whole = Buffer.concat(parts);
    for (let done = 0; done < whole.byteLength; done += 4096) {
      this.#apply(whole.subarray(done, done + 4096), position + done);
      if (done + 4096 < whole.byteLength) await this.#files.step('write-more', this.path);
    }
    await this.#files.step('wrote', this.path);
  }

  writeSync(part: Uint8Array, position: number): void {
    const error = this.#files.fault('write-sync', this.path);
    if (error) throw error;
    this.#apply(part, position);
  }

  #apply(part: Uint8Array, position: number): void {
    this.#change({ kind: 'write', position, bytes: Buffer.from(part) });
  }

  async datasync(): Promise<void> {
    const covered = new Set(this.#inode.pending);
    await this.#files.step('datasync', this.path);
    for (const change of this.#inode.pending) {
      if (covered.has(change)) this.#inode.durable = this.#inode.apply(this.#inode.durable, change);
    }
    this.#inode.pending = this.#inode.pending.filter((change) => !covered.has(change));
  }

  async truncate(size: number): Promise<void> {
    await this.#files.step('truncate', this.path);
    this.#change({ kind: 'truncate', size });
  }

  allocateSync(position: number, length: number): void {
    if (position + length > this.#inode.content.byteLength) this.#change({ kind: 'truncate', size: position + length });
  }

  punchHoleSync(position: number, length: number): boolean {
    if (this.#files.dice.below(2) === 0) return false;
    this.#change({ kind: 'write', position, bytes: Buffer.alloc(length) });
    return true;
  }

  extentSync(_position: number, length: number): { hole: boolean; length: number } {
    return { hole: false, length };
  }

  dropCacheSync(): void {
    // Its syncs do not fail half: the cache and the disk agree once they are synced.
  }

  facts(): FileFacts {
    const { content, mtimeNs, ctimeNs, number } = this.#inode;
    return { size: content.byteLength, mtimeNs, ctimeNs, device: 7n, inode: number, kind: 'file' };
  }

  async close(): Promise<void> {
    await Promise.resolve();
  }

  #change(change: Change): void {
    this.#inode.pending.push(change);
    this.#inode.content = this.#inode.apply(this.#inode.content, change);
    this.#inode.mtimeNs = this.#files.now();
    this.#inode.ctimeNs = this.#inode.mtimeNs;
  }
}

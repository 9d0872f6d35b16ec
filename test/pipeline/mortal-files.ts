/**
 * The real file system behind a door that can be shut: after `die` nothing of what a role still does reaches it, as after SIGKILL. Calls
 * under way end on their own (the kernel has them), but nobody hears of it.
 *
 * `trouble` is asked before each operation and may delay it or throw in its place, `late` may delay the news of its end; `free` may stand in for the free space.
 */
import type { File, Files, OpenMode } from '../../src/posix/files.ts';

export type Operation = 'open' | 'read' | 'write' | 'writeSync' | 'datasync' | 'truncate' | 'replaceFile';
/** Resolves when the operation may go on; throws or rejects in its place. */
export type Trouble = (operation: Operation, path: string, position: number) => Promise<void> | undefined;

const calm: Trouble = () => undefined;

export class MortalFiles implements Files {
  trouble: Trouble = calm;
  /** Asked after an operation had its effect, before anyone hears of it. */
  late: Trouble = () => undefined;
  free: number | null = null;
  readonly #real: Files;
  readonly #open = new Set<File>();
  readonly #underWay = new Set<Promise<unknown>>();
  #dead = false;

  constructor(real: Files) {
    this.#real = real;
  }

  get dead(): boolean {
    return this.#dead;
  }

  /** Resolves when the last call under way has ended and everything open was closed. */
  async die(): Promise<void> {
    this.#dead = true;
    await Promise.allSettled(this.#underWay);
    for (const file of this.#open) await file.close();
  }

  #isDead(): boolean {
    return this.#dead;
  }

  /** Runs an operation, unless the process is dead before it or by its end. */
  async run<T>(operation: Operation | null, path: string, action: () => Promise<T>, position = 0): Promise<T> {
    if (operation !== null && !this.#dead) await this.trouble(operation, path, position);
    if (this.#isDead()) return never();
    const underWay = action();
    this.#underWay.add(underWay);
    try {
      const result = await underWay;
      if (operation !== null) await this.late(operation, path, position);
      return result;
    } finally {
      this.#underWay.delete(underWay);
      if (this.#isDead()) await never();
    }
  }

  /** What happens on this thread can not hang: the dead get the empty answer. */
  runSync<T>(operation: Operation | null, path: string, ofTheDead: T, action: () => T): T {
    if (this.#dead) return ofTheDead;
    if (operation !== null) void this.trouble(operation, path, 0);
    return action();
  }

  open(path: string, mode: OpenMode, permissions?: number): Promise<File> {
    return this.run('open', path, async () => {
      const real = await this.#real.open(path, mode, permissions);
      this.#open.add(real);
      return new MortalFile(this, real, () => this.#open.delete(real));
    });
  }

  readWhole(path: string): Promise<Buffer> {
    return this.run('read', path, () => this.#real.readWhole(path));
  }

  replaceFile(path: string, bytes: Uint8Array, permissions?: number): Promise<void> {
    return this.run('replaceFile', path, () => this.#real.replaceFile(path, bytes, permissions));
  }

  exists(path: string): Promise<boolean> {
    return this.run(null, path, () => this.#real.exists(path));
  }

  facts(path: string): ReturnType<Files['facts']> {
    return this.run(null, path, () => this.#real.facts(path));
  }

  list(path: string): Promise<string[]> {
    return this.run(null, path, () => this.#real.list(path));
  }

  makeDirectory(path: string): Promise<void> {
    return this.run(null, path, () => this.#real.makeDirectory(path));
  }

  rename(from: string, to: string): Promise<void> {
    return this.run(null, from, () => this.#real.rename(from, to));
  }

  remove(path: string): Promise<void> {
    return this.run(null, path, () => this.#real.remove(path));
  }

  removeTree(path: string): Promise<void> {
    return this.run(null, path, () => this.#real.removeTree(path));
  }

  syncDirectory(path: string): Promise<void> {
    return this.run(null, path, () => this.#real.syncDirectory(path));
  }

  async freeBytes(path: string): Promise<number> {
    return this.free ?? (await this.run(null, path, () => this.#real.freeBytes(path)));
  }
}

class MortalFile implements File {
  readonly path: string;
  readonly #files: MortalFiles;
  readonly #real: File;
  readonly #closed: () => void;

  constructor(files: MortalFiles, real: File, closed: () => void) {
    this.path = real.path;
    this.#files = files;
    this.#real = real;
    this.#closed = closed;
  }

  read(into: Uint8Array, position: number): Promise<number> {
    return this.#files.run('read', this.path, () => this.#real.read(into, position));
  }

  readSync(into: Uint8Array, position: number): number {
    return this.#files.runSync(null, this.path, 0, () => this.#real.readSync(into, position));
  }

  /** Whoever makes trouble hears of every read. */
  readCachedSync(into: Uint8Array, position: number): boolean {
    if (this.#files.trouble !== calm) return false;
    return this.#files.runSync(null, this.path, false, () => this.#real.readCachedSync(into, position));
  }

  write(parts: readonly Uint8Array[], position: number): Promise<void> {
    return this.#files.run('write', this.path, () => this.#real.write(parts, position), position);
  }

  writeSync(part: Uint8Array, position: number): void {
    this.#files.runSync('writeSync', this.path, undefined, () => {
      this.#real.writeSync(part, position);
    });
  }

  datasync(): Promise<void> {
    return this.#files.run('datasync', this.path, () => this.#real.datasync());
  }

  truncate(size: number): Promise<void> {
    return this.#files.run('truncate', this.path, () => this.#real.truncate(size));
  }

  allocateSync(position: number, length: number, keepSize: boolean): void {
    this.#files.runSync(null, this.path, undefined, () => {
      this.#real.allocateSync(position, length, keepSize);
    });
  }

  punchHoleSync(position: number, length: number): boolean {
    return this.#files.runSync('writeSync', this.path, true, () => this.#real.punchHoleSync(position, length));
  }

  extentSync(position: number, length: number): { hole: boolean; length: number } {
    return this.#real.extentSync(position, length);
  }

  dropCacheSync(position: number, length: number): void {
    this.#files.runSync(null, this.path, undefined, () => {
      this.#real.dropCacheSync(position, length);
    });
  }

  facts(): ReturnType<File['facts']> {
    return this.#real.facts();
  }

  async close(): Promise<void> {
    if (this.#files.dead) return;
    this.#closed();
    await this.#real.close();
  }
}

function never<T>(): Promise<T> {
  return new Promise<T>(() => undefined);
}

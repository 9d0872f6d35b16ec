/**
 * A file system in memory whose power can fail. Content is durable once its file was synced, a name once its directory was, and nothing
 * else ever: until then `afterPowerLoss` applies, drops or garbles each change by a seeded lot (`simulated-bytes.ts`). `afterKill`
 * keeps the page cache. A sync that fails marks its pages clean without having stored them, as Linux does, and whoever writes to or
 * syncs that handle again is noted in `violations` (C4).
 *
 * `watch` is called before every operation that a crash could fall on, with nothing of it done; `copy` is cheap, so a test can keep the
 * state of each.
 */
import * as path from 'node:path';
import {
  makeNamesDurable,
  replaceWhole,
  type File,
  type FileFacts,
  type Files,
  type OpenMode,
} from '../src/posix/files.ts';
import { Dice, fatesOf, survivingBytes, type SparseBytes } from './simulated-bytes.ts';
import {
  changesSomething,
  device,
  Inode,
  SimulatedFile,
  systemError,
  type Fault,
  type Operation,
} from './simulated-file.ts';

type Node = Inode | Directory;
/** What happens to names together or not at all. */
type NameChange = readonly (readonly [name: string, node: Node | null])[];

class Directory {
  names = new Map<string, Node>();
  durable = new Map<string, Node>();
  pending: NameChange[] = [];
  readonly number: bigint;
  constructor(number: bigint) {
    this.number = number;
  }
  change(change: NameChange): void {
    applyNames(this.names, change);
    this.pending.push(change);
  }
}

function applyNames(names: Map<string, Node>, change: NameChange): void {
  for (const [name, node] of change) {
    if (node) names.set(name, node);
    else names.delete(name);
  }
}

export class SimulatedFiles implements Files {
  watch: (operation: Operation, filePath: string) => void = () => undefined;
  fault: (operation: Operation, filePath: string) => Fault | null = () => null;
  /** Handles written or synced again after a failed sync. */
  readonly violations: string[] = [];
  free = 2 ** 40;
  /** Reads and writes of more than so many bytes take turns in between: nothing says that they are atomic. */
  pieceBytes = Infinity;
  /** Whether the file system can punch the next hole. */
  punches: () => boolean = () => true;
  /** How often each operation was begun. */
  readonly counts = new Map<Operation, number>();
  /** Every operation takes up to so many turns of the event loop. */
  turnsMax = 0;
  /** Syncs, and what changes names, take so many turns more. */
  slow: (filePath: string) => number = () => 0;
  dice = new Dice(1);
  dead = false;
  #root = new Directory(1n);
  #nextNumber = 2n;
  #timeNs = 1_000_000n;

  /** `directories` are there, durably. */
  constructor(directories: readonly string[] = []) {
    for (const directory of directories) this.#plantDirectory(directory);
  }

  // ---- what happens to the machine ----------------------------------------------------------------------------------------

  copy(): SimulatedFiles {
    const made = new SimulatedFiles();
    const seen = new Map<Node, Node>();
    const copied = <T extends Node>(node: T): T => (seen.get(node) ?? copyOf(node)) as T;
    const copyOf = (node: Node): Node => {
      if (node instanceof Inode) {
        const inode = new Inode(node.number);
        seen.set(node, inode);
        const { content, durable, pending, mtimeNs, durableMtimeNs } = node;
        return Object.assign(inode, {
          content: content.copy(),
          durable: durable.copy(),
          pending: [...pending],
          mtimeNs,
          durableMtimeNs,
        });
      }
      const directory = new Directory(node.number);
      seen.set(node, directory);
      for (const [name, each] of node.names) directory.names.set(name, copied(each));
      for (const [name, each] of node.durable) directory.durable.set(name, copied(each));
      directory.pending = node.pending.map((change) => change.map(([name, each]) => [name, each && copied(each)]));
      return directory;
    };
    made.#root = copied(this.#root);
    made.#nextNumber = this.#nextNumber;
    made.#timeNs = this.#timeNs + 1_000_000n;
    made.free = this.free;
    return made;
  }

  /** The process is gone, what it wrote is in the page cache; nothing it still does reaches anything. */
  kill(): SimulatedFiles {
    this.dead = true;
    return Object.assign(this.copy(), {
      watch: this.watch,
      fault: this.fault,
      turnsMax: this.turnsMax,
      pieceBytes: this.pieceBytes,
      punches: this.punches,
      slow: this.slow,
      dice: this.dice,
    });
  }

  /** What is found when the power is back. This one stays as it is. */
  afterPowerLoss(dice: Dice): SimulatedFiles {
    const made = this.copy();
    const settled = new Set<Node>();
    const settle = (node: Node): void => {
      if (settled.has(node)) return;
      settled.add(node);
      if (node instanceof Inode) {
        node.durable = survivingBytes(node.durable, node.pending, dice);
        node.content = node.durable.copy();
        node.pending = [];
        if (dice.below(4) === 0) node.mtimeNs = node.durableMtimeNs;
        node.durableMtimeNs = node.mtimeNs;
        return;
      }
      const fates = fatesOf(node.pending.length, dice);
      for (const [index, change] of node.pending.entries())
        if (fates[index] === 'applied' || (fates[index] === 'garbled' && dice.below(2) === 0))
          applyNames(node.durable, change);
      node.pending = [];
      node.names = new Map(node.durable);
      for (const each of node.durable.values()) settle(each);
    };
    settle(made.#root);
    return made;
  }

  // ---- what a test may see and do behind everybody's back -----------------------------------------------------------------

  /** As a reader sees it now. */
  content(filePath: string): SparseBytes {
    return this.#inode(filePath).content;
  }

  /** What no power failure takes away. */
  durable(filePath: string): SparseBytes {
    return this.#inode(filePath).durable;
  }

  /** Puts a durable file there. */
  plant(filePath: string, content: SparseBytes): void {
    const directory = this.#directory(path.dirname(filePath));
    const inode = new Inode((this.#nextNumber += 1n));
    inode.content = content.copy();
    inode.durable = content.copy();
    inode.mtimeNs = inode.durableMtimeNs = this.now();
    directory.names.set(path.basename(filePath), inode);
    directory.durable.set(path.basename(filePath), inode);
  }

  /** Other content in the file that is there. */
  overwrite(filePath: string, content: SparseBytes): void {
    const inode = this.#inode(filePath);
    inode.content = content.copy();
    inode.durable = content.copy();
    inode.pending = [];
    inode.mtimeNs = inode.durableMtimeNs = this.now();
  }

  /** The n-th operation from now on that changes anything, counted from 1 over `where`, fails; `fired` hears that it did. */
  failNth(
    n: number,
    fault: Fault,
    fired: (operation: Operation, filePath: string) => void = () => undefined,
    where: (filePath: string) => boolean = () => true,
  ): void {
    let count = 0;
    this.fault = (operation, filePath) => {
      if (!changesSomething(operation) || !where(filePath)) return null;
      count += 1;
      if (count !== n) return null;
      fired(operation, filePath);
      return fault;
    };
  }

  /** Changes no sync has covered. Without one a power failure is a kill. */
  get unsynced(): number {
    let found = 0;
    const seen = new Set<Node>();
    const count = (node: Node): void => {
      if (seen.has(node)) return;
      seen.add(node);
      found += node.pending.length;
      if (node instanceof Inode) return;
      for (const each of [...node.names.values(), ...node.durable.values()]) count(each);
    };
    count(this.#root);
    return found;
  }

  has(filePath: string): boolean {
    return this.#find(filePath) !== undefined;
  }

  // ---- Files ----------------------------------------------------------------------------------------------------------------

  async open(filePath: string, mode: OpenMode): Promise<File> {
    await this.step('open', filePath);
    const there = this.#find(filePath);
    if (there && mode === 'exclusive') throw systemError('EEXIST', filePath);
    if (there instanceof Directory) throw systemError('EISDIR', filePath);
    if (there) return new SimulatedFile(this, filePath, there);
    if (mode === 'read' || mode === 'write') throw systemError('ENOENT', filePath);
    await this.step('create', filePath);
    const inode = new Inode((this.#nextNumber += 1n));
    this.#directory(path.dirname(filePath)).change([[path.basename(filePath), inode]]);
    return new SimulatedFile(this, filePath, inode);
  }

  async readWhole(filePath: string): Promise<Buffer> {
    await this.step('read', filePath);
    return this.#inode(filePath).content.bytes();
  }

  replaceFile(filePath: string, bytes: Uint8Array): Promise<void> {
    return replaceWhole(this, filePath, bytes, 0o600);
  }

  async exists(filePath: string): Promise<boolean> {
    await this.turns();
    return this.has(filePath);
  }

  async facts(filePath: string): Promise<FileFacts> {
    await this.turns();
    const node = this.#find(filePath);
    if (!node) throw systemError('ENOENT', filePath);
    if (node instanceof Inode) return node.facts();
    return { size: 0, mtimeNs: 0n, ctimeNs: 0n, device, inode: node.number, kind: 'directory' };
  }

  async list(directory: string): Promise<string[]> {
    await this.turns();
    const node = this.#find(directory);
    return node instanceof Directory ? [...node.names.keys()].sort() : [];
  }

  makeDirectory(directory: string): Promise<void> {
    return makeNamesDurable(directory, {
      isThere: async (each) => {
        await this.turns();
        return this.#find(each) instanceof Directory;
      },
      make: async (each) => {
        await this.step('makeDirectory', each);
        const made = new Directory((this.#nextNumber += 1n));
        this.#directory(path.dirname(each)).change([[path.basename(each), made]]);
      },
      syncDirectory: (each) => this.syncDirectory(each),
    });
  }

  async rename(from: string, to: string): Promise<void> {
    await this.step('rename', from);
    const directory = this.#directory(path.dirname(from));
    if (directory !== this.#directory(path.dirname(to))) throw systemError('EXDEV', to);
    const node = this.#find(from);
    if (!node) throw systemError('ENOENT', from);
    directory.change([
      [path.basename(from), null],
      [path.basename(to), node],
    ]);
  }

  async remove(filePath: string): Promise<void> {
    await this.turns();
    if (!this.has(filePath)) return;
    await this.step('remove', filePath);
    this.#directory(path.dirname(filePath)).change([[path.basename(filePath), null]]);
  }

  /** Piece by piece, so that a crash finds some of them gone. */
  async removeTree(filePath: string): Promise<void> {
    const node = this.#find(filePath);
    if (node instanceof Directory)
      for (const name of [...node.names.keys()]) await this.removeTree(path.join(filePath, name));
    await this.remove(filePath);
  }

  async syncDirectory(directory: string): Promise<void> {
    const node = this.#directory(directory);
    const covered = new Set(node.pending);
    await this.step('syncDirectory', directory);
    for (const change of node.pending) if (covered.has(change)) applyNames(node.durable, change);
    node.pending = node.pending.filter((change) => !covered.has(change));
  }

  async freeBytes(): Promise<number> {
    await this.turns();
    return this.free;
  }

  // ---- inside ---------------------------------------------------------------------------------------------------------------

  /** Before anything of the operation is done. @returns what it fails with. */
  async begin(operation: Operation, filePath: string): Promise<Fault | null> {
    this.counts.set(operation, (this.counts.get(operation) ?? 0) + 1);
    const isSlow = changesSomething(operation) && operation !== 'write';
    await this.turns(isSlow ? this.slow(filePath) : 0);
    if (changesSomething(operation)) this.watch(operation, filePath);
    return this.fault(operation, filePath);
  }

  async step(operation: Operation, filePath: string): Promise<void> {
    const fault = await this.begin(operation, filePath);
    if (fault) throw systemError(fault.code, `${operation} ${filePath}`);
  }

  async turns(more = 0): Promise<void> {
    await Promise.resolve();
    for (let turns = more + (this.turnsMax === 0 ? 0 : this.dice.below(this.turnsMax + 1)); turns > 0; turns -= 1)
      await new Promise((resolve) => setImmediate(resolve));
    if (this.dead) await new Promise(() => undefined);
  }

  now(): bigint {
    return (this.#timeNs += 1000n);
  }

  #find(filePath: string): Node | undefined {
    let node: Node | undefined = this.#root;
    for (const name of filePath.split('/')) {
      if (name === '') continue;
      node = node instanceof Directory ? node.names.get(name) : undefined;
    }
    return node;
  }

  #inode(filePath: string): Inode {
    const node = this.#find(filePath);
    if (!(node instanceof Inode)) throw systemError('ENOENT', filePath);
    return node;
  }

  #directory(directory: string): Directory {
    const node = this.#find(directory);
    if (!(node instanceof Directory)) throw systemError('ENOENT', directory);
    return node;
  }

  #plantDirectory(directory: string): void {
    if (this.#find(directory)) return;
    const parent = path.dirname(directory);
    this.#plantDirectory(parent);
    const made = new Directory((this.#nextNumber += 1n));
    const into = this.#directory(parent);
    into.names.set(path.basename(directory), made);
    into.durable.set(path.basename(directory), made);
  }
}

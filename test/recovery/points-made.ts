/** A machine with some points on real files, what its disk was at each, and a way to read them. */
import { cp, rm } from 'node:fs/promises';
import * as path from 'node:path';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { PointImage } from '../../src/recovery/point-image.ts';
import { MachineView } from '../../src/store/machine-view.ts';
import { Vault } from '../../src/store/vault.ts';
import type { MachineDefinition } from '../../src/wire/definition.ts';
import { MachineLife, type BlockChange } from '../store/machine-fixture.ts';

export const blockSize = 4096;
export const diskBytes = 2048 * blockSize;

/** What changed before a point, in one layer; nothing: the point adds none. */
export type PointPlan = readonly BlockChange[];

export interface MakeOptions {
  /** The target begins anew, in a new segment, before every n-th point. */
  readonly restartEvery?: number;
  /** A copy of its directory is kept after every n-th point. */
  readonly keepEvery?: number;
  /** A layer behind the last point that no point lists. */
  readonly unlisted?: PointPlan;
  /** What the machine is, as of every point. */
  readonly definition?: MachineDefinition;
  /** By point: what is done after it, before the directory is kept. */
  readonly after?: Readonly<Record<number, (life: MachineLife) => Promise<void>>>;
}

export class PointsMade {
  /** `home/data` is the target's directory, `home/vault.key` its key. */
  readonly home: string;
  /** By point, from 1 on at index 0. */
  readonly contents: readonly Buffer[];
  /** Copies of the target's directory. */
  readonly kept: readonly string[];
  readonly #undo: (() => Promise<void>)[] = [];

  private constructor(home: string, contents: readonly Buffer[], kept: readonly string[]) {
    this.home = home;
    this.kept = kept;
    this.contents = contents;
  }

  static async make(
    plan: readonly PointPlan[],
    { restartEvery = Infinity, keepEvery = Infinity, unlisted = [], definition, after = {} }: MakeOptions = {},
  ): Promise<PointsMade> {
    let life = await MachineLife.begin();
    const contents: Buffer[] = [];
    const kept: string[] = [];
    for (const [number, changes] of plan.entries()) {
      if (number > 0 && number % restartEvery === 0) {
        life = await life.again();
        // Another process server: an epoch of its own.
        await life.store.acquireEpoch('bb');
      }
      if (changes.length > 0) await life.point(changes, definition);
      else await life.commit(null, 0, definition);
      contents.push(contentOf(life.image));
      await after[number + 1]?.(life);
      if ((number + 1) % keepEvery !== 0) continue;
      const copy = path.join(life.directory, `after-${number + 1}`);
      await cp(path.join(life.directory, 'data'), copy, { recursive: true });
      kept.push(copy);
    }
    if (unlisted.length > 0) await life.layer(unlisted);
    await life.close();
    return new PointsMade(life.directory, contents, kept);
  }

  get data(): string {
    return path.join(this.home, 'data');
  }

  content(point: number): Buffer {
    const found = this.contents[point - 1];
    if (!found) throw new Error(`there is no point ${point}`);
    return found;
  }

  async view(data = this.data): Promise<MachineView> {
    const scratch = path.join(this.home, `scratch-${random.bytes(4).toString('hex')}`);
    const view = await MachineView.open({ files, clock, data, machine: 'm1', bootId: 'boot', scratch, ownIndex: true });
    this.#undo.push(async () => {
      await view.close();
      await files.removeTree(scratch);
    });
    return view;
  }

  vault(): Promise<Vault> {
    return Vault.open({ files, random, keyFile: path.join(this.home, 'vault.key') });
  }

  async image(point: number): Promise<{ image: PointImage; leafKeys: Uint8Array[] }> {
    const [view, vault] = [await this.view(), await this.vault()];
    const facts = view.disk('vda');
    const id = Buffer.from(facts.id, 'hex');
    const leafKeys = facts.keys.map((wrapped) => vault.unwrapDiskKeys(id, wrapped).leafKey);
    return { image: new PointImage(await view.diskAt(facts, view.choosePoint(point), vault), clock), leafKeys };
  }

  async remove(): Promise<void> {
    for (const step of this.#undo.splice(0).reverse()) await step();
    await rm(this.home, { recursive: true, force: true });
  }
}

function contentOf(image: ReadonlyMap<number, Buffer>): Buffer {
  const content = Buffer.alloc(diskBytes);
  for (const [block, bytes] of image) bytes.copy(content, block * blockSize);
  return content;
}

/** Every `step`-th of the blocks from `from`, `count` of them. */
export function blocks(from: number, count: number, step = 1, mask = 0xffff): BlockChange[] {
  return Array.from({ length: count }, (_, index) => ({ block: from + index * step, mask }));
}

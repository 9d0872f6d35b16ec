/** Disks at points of a store a `MachineLife` wrote, for tests that read them. */
import { rm } from 'node:fs/promises';
import * as path from 'node:path';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { MachineView, type DiskAtPoint } from '../../src/store/machine-view.ts';
import { Vault } from '../../src/store/vault.ts';
import type { MachineLife } from '../store/machine-fixture.ts';

export class StoreReading {
  readonly directory: string;
  readonly #undo: (() => Promise<void>)[] = [];

  constructor(life: MachineLife) {
    this.directory = life.directory;
  }

  /** Opens points of the store as a command does; each call by a view of its own. */
  async view(
    options: { readonly ownIndex?: boolean; readonly bootId?: string } = {},
  ): Promise<(point: number) => Promise<DiskAtPoint>> {
    const { directory } = this;
    const view = await MachineView.open({
      files,
      clock,
      data: path.join(directory, 'data'),
      machine: 'm1',
      bootId: 'boot',
      scratch: path.join(directory, `scratch-${this.#undo.length}`),
      ...options,
    });
    this.#undo.push(() => view.close());
    const vault = await Vault.open({ files, random, keyFile: path.join(directory, 'vault.key') });
    return (point) => view.diskAt(view.disk('vda'), view.choosePoint(point), vault);
  }

  async closeViews(): Promise<void> {
    for (const step of this.#undo.splice(0).reverse()) await step();
  }

  async end(): Promise<void> {
    await this.closeViews();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** The disk, and how often its index was asked for the records of all of it. */
export function counted(at: DiskAtPoint): DiskAtPoint & { readonly scans: () => number } {
  let scans = 0;
  return {
    ...at,
    scans: () => scans,
    entries: (from, end) => {
      if (end === undefined) scans += 1;
      return at.entries(from, end);
    },
  };
}

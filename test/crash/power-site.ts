/**
 * The whole data path (`test/pipeline`), with the disks of the source host and of the target simulated: the power of either fails in the middle
 * of whatever it does, at a sync point chosen before, and what was not synced is applied, dropped or garbled.
 */
import { writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import type { MortalFiles } from '../pipeline/mortal-files.ts';
import { Site, type SiteOptions } from '../pipeline/site.ts';
import { SparseBytes, type Dice } from '../simulated-bytes.ts';
import { SimulatedFiles } from '../simulated-files.ts';
import { leaveMapped, withRealIndex } from './real-index.ts';
import { routes } from './routes.ts';

export type Side = 'source' | 'target';

/** What was on a disk when its power failed. */
interface Fuse {
  blown: SimulatedFiles | null;
}

export class PowerSite {
  readonly site: Site;
  readonly #dice: Dice;
  #source: SimulatedFiles;
  #target: SimulatedFiles;
  readonly #fuses: Record<Side, Fuse> = { source: { blown: null }, target: { blown: null } };
  /** Sync points seen while a fuse was in. */
  syncPoints = 0;

  private constructor(site: Site, dice: Dice) {
    this.site = site;
    this.#dice = dice;
    this.#source = new SimulatedFiles([site.directory]);
    this.#target = new SimulatedFiles([site.directory]);
    for (const { image } of site.disks) {
      const content = new SparseBytes();
      content.write(site.disks.find((disk) => disk.image === image)?.now() ?? Buffer.alloc(0), 0);
      this.#source.plant(image, content);
    }
    const images = new Set(site.disks.map(({ image }) => image));
    routes.claim = (filePath) => {
      if (filePath.endsWith('.mdb')) return null;
      if (images.has(filePath) || isIn(filePath, site.state)) return this.#source;
      if (isIn(filePath, site.data) || isIn(filePath, site.vaultKey)) return withRealIndex(this.#target);
      return null;
    };
  }

  static async started(options: SiteOptions, dice: Dice): Promise<PowerSite> {
    const made = new PowerSite(new Site(options), dice);
    const { site } = made;
    await site.startTarget();
    site.newProcessServer();
    await site.startAgent();
    return made;
  }

  /** The power of `side` fails before its `syncPoint`-th sync point from now on, and that of `also` in the same instant. */
  arm(side: Side, syncPoint: number, also: Side | null): void {
    let left = syncPoint;
    this.#disk(side).watch = (operation) => {
      if (operation === 'write' || this.isBlown(side)) return;
      this.syncPoints += 1;
      left -= 1;
      if (left > 0) return;
      this.#blow(side);
      if (also) this.#blow(also);
    };
  }

  /** Nobody hears of anything the role does after. */
  #blow(side: Side): void {
    this.#fuses[side].blown = this.#disk(side).copy();
    void this.#mortal(side)?.die();
  }

  #disk(side: Side): SimulatedFiles {
    return side === 'source' ? this.#source : this.#target;
  }

  isBlown(side: Side): boolean {
    return this.#fuses[side].blown !== null;
  }

  /** Ends what is left of the role, if its power failed, and starts it on what its disk holds then. */
  async recover(side: Side): Promise<boolean> {
    const fuse = this.#fuses[side];
    this.#disk(side).watch = () => undefined;
    const { blown } = fuse;
    fuse.blown = null;
    if (!blown) return false;
    const survivor = blown.afterPowerLoss(this.#dice);
    if (side === 'source') await this.#recoverSource(survivor);
    else await this.#recoverTarget(survivor);
    return true;
  }

  async #recoverSource(survivor: SimulatedFiles): Promise<void> {
    const { site } = this;
    const { agent } = site;
    site.agent = null;
    await agent?.crash();
    this.#source = survivor;
    for (const disk of site.disks) {
      writeFileSync(disk.image, survivor.content(disk.image).bytes());
      disk.changedBehind();
    }
    await site.startAgent();
  }

  async #recoverTarget(survivor: SimulatedFiles): Promise<void> {
    const { site } = this;
    // What the dead role is still about ends at its next look at a file; LMDB must not be closed under its hands, which no process is there for.
    await systemClock.sleep(20);
    await site.endTarget('crash');
    this.#target = survivor;
    // What LMDB has mapped counts for nothing under another boot; here it is under the same one.
    leaveMapped(path.join(site.store, 'index'), null);
    await site.startTarget();
  }

  /** What the images hold is what the model is held against. */
  async endAgent(): Promise<void> {
    const { site } = this;
    const { agent } = site;
    site.agent = null;
    await agent?.close();
    for (const disk of site.disks) {
      writeFileSync(disk.image, this.#source.content(disk.image).bytes());
      disk.reborn();
    }
  }

  async remove(): Promise<void> {
    try {
      await this.site.remove();
    } finally {
      routes.claim = () => null;
    }
  }

  #mortal(side: Side): MortalFiles | undefined {
    return side === 'source' ? this.site.agent?.files : this.site.target?.files;
  }
}

function isIn(filePath: string, directory: string): boolean {
  return filePath.startsWith(directory);
}

/** What a session knows of its disks at the target: what must be the same when they are opened again, and what the spool's files say. */
import type { Committed } from '../wire/committed.ts';
import type { OpenDisk } from '../wire/open-disk.ts';
import type { Opened } from '../wire/opened.ts';
import type { SpooledDisk, SpoolOwner } from './spool-format.ts';

export class TargetFacts {
  readonly #machine: string;
  readonly #instance: string;
  #epoch: number;
  readonly #disks: Map<number, SpooledDisk>;

  constructor({ machine, instance, epoch, disks }: SpoolOwner) {
    this.#machine = machine;
    this.#instance = instance;
    this.#epoch = epoch;
    this.#disks = new Map(disks.map((disk) => [disk.open.disk, disk]));
  }

  /** As of now. */
  get owner(): SpoolOwner {
    const disks = [...this.#disks.values()];
    return { machine: this.#machine, instance: this.#instance, epoch: this.#epoch, disks };
  }

  /** The target opened a disk for the first time. */
  opened(open: OpenDisk, { diskId, epoch, committed }: Opened): void {
    this.#epoch = epoch;
    this.#disks.set(open.disk, { open, diskId, committed });
  }

  committed({ point, cutTimeMs, disks }: Committed): void {
    for (const { disk, root } of disks) {
      const facts = this.#disks.get(disk);
      if (facts) this.#disks.set(disk, { ...facts, committed: { point, cutTimeMs, root } });
    }
  }
}

/**
 * Syncs of the image, for all who want what was written to be durable: clients, the change log when regions are to become cold, a stop.
 *
 * Invariants:
 *  1. `run` resolves when every change that had ended when it was called is durable. It shares the sync under way if no change has ended since that
 *     one was asked for, and begins another one if any has.
 *  2. The log is told of a sync by where it stood when the sync began.
 *
 * Clients ask several times in a row (fio at a depth of 16 does it sixteen times), and each of those that are not shared costs the disk one more.
 */
import type { File } from '../posix/files.ts';
import type { ChangeLog } from './change-log.ts';

export class ImageSyncs {
  readonly #image: File;
  readonly #log: ChangeLog;
  /** Changes that have ended. */
  #ended = 0;
  #last: { readonly ended: number; readonly done: Promise<void> } | null = null;

  constructor(image: File, log: ChangeLog) {
    this.#image = image;
    this.#log = log;
  }

  /** A change of the image has ended, well or not. */
  changed(): void {
    this.#ended += 1;
  }

  /** @throws what the sync throws. */
  run(): Promise<void> {
    if (this.#last?.ended === this.#ended) return this.#last.done;
    const sync = { ended: this.#ended, done: this.#sync() };
    this.#last = sync;
    const forget = (): void => {
      if (this.#last === sync) this.#last = null;
    };
    sync.done.then(forget, forget);
    return sync.done;
  }

  async #sync(): Promise<void> {
    const tick = this.#log.imageSyncBegins();
    await this.#image.datasync();
    this.#log.imageSynced(tick);
  }
}

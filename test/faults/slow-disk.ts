/** A disk that all files of a role share and that makes one sync at a time: for `MortalFiles.trouble`. */
import { systemClock } from '../../src/kit/clock.ts';
import type { Trouble } from '../pipeline/mortal-files.ts';

export class SlowDisk {
  /** What each sync takes; 0: nothing on top of the real one, and none waits for another. */
  syncMs = 0;
  #last: Promise<void> = Promise.resolve();

  readonly trouble: Trouble = (operation) => {
    if (operation !== 'datasync' || this.syncMs === 0) return undefined;
    this.#last = this.#last.then(() => (this.syncMs === 0 ? undefined : systemClock.sleep(this.syncMs)));
    return this.#last;
  };
}

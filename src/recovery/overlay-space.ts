/** What all overlays of one failover may take together, in bytes (C5). */
import { Problem } from '../kit/problem.ts';

export class OverlaySpace {
  readonly bytesMax: number;
  #used = 0;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }

  get usedBytes(): number {
    return this.#used;
  }

  /** @throws Problem `ENOSPC`: nothing was taken. */
  take(bytes: number): void {
    if (bytes > 0 && this.#used + bytes > this.bytesMax) {
      throw new Problem('ENOSPC', `the overlays of this failover may take ${this.bytesMax} bytes and no more`, {
        remedy: 'start the failover with more --space',
      });
    }
    this.#used += bytes;
  }

  /** What lies there already, whatever the bound. */
  found(bytes: number): void {
    this.#used += bytes;
  }

  give(bytes: number): void {
    this.#used -= bytes;
  }
}

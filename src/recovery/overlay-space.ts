/** What all overlays of one failover may take together, in bytes (C5). */
import { Problem } from '../kit/problem.ts';
import { remedies } from './overlay-trouble.ts';

export class OverlaySpace {
  readonly bytesMax: number;
  #used = 0;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }

  get usedBytes(): number {
    return this.#used;
  }

  /** Whether there is room for so many more. */
  has(bytes: number): boolean {
    return bytes <= 0 || this.#used + bytes <= this.bytesMax;
  }

  /** @throws Problem `ENOSPC`: nothing was taken. */
  take(bytes: number): void {
    if (!this.has(bytes)) {
      throw new Problem('ENOSPC', `the overlays of this failover may take ${this.bytesMax} bytes and no more`, {
        remedy: remedies.space,
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

/** Which regions' chunks on disk are not what memory holds, though the region is or may become cold. Pure. */
import { limits } from '../limits.ts';

export class StaleChunks {
  /** A byte per region; 1: stale. */
  readonly #stale: Uint8Array;

  constructor(regionCount: number) {
    this.#stale = new Uint8Array(regionCount);
  }

  add(region: number): void {
    this.#stale[region] = 1;
  }

  /** Its chunk is about to be written as of now. */
  readonly taken = (region: number): void => {
    this.#stale[region] = 0;
  };

  clear(): void {
    this.#stale.fill(0);
  }

  /** As many of them from `from` on, ascending, as are rewritten behind one activity write. A region's that is durably hot is written when it cools. */
  next(from: number, isHot: (region: number) => boolean): number[] {
    const regions: number[] = [];
    for (let region = this.#stale.indexOf(1, from); region !== -1; region = this.#stale.indexOf(1, region + 1))
      if (!isHot(region) && regions.push(region) === limits.capture.rewriteRegionsMax) break;
    return regions;
  }
}

/**
 * The regions of writes under way while there is no change log, and the record from which one is made behind running writers (`log-revival.ts`).
 *
 * Invariant: a record holds every region that had a write under way when it began or got one since, and whose masks changed since.
 */
import { invariant } from '../kit/invariant.ts';

export class LoosePins {
  readonly #regionCount: number;
  readonly #pins: Map<number, number>;
  /** 1: in the record. Null while nobody records. */
  #record: Uint8Array | null = null;
  #recorded = 0;

  /** `pins`: per region with writes under way, how many. */
  constructor(regionCount: number, pins: ReadonlyMap<number, number>) {
    this.#regionCount = regionCount;
    this.#pins = new Map(pins);
  }

  get pins(): ReadonlyMap<number, number> {
    return this.#pins;
  }

  /** Regions in the record. */
  get recorded(): number {
    return this.#recorded;
  }

  pin(first: number, last: number): void {
    for (let region = first; region <= last; region += 1) {
      this.#pins.set(region, (this.#pins.get(region) ?? 0) + 1);
      this.note(region);
    }
  }

  /** `pin` and `unpin` in one. Always possible. */
  use(first: number, last: number): true {
    for (let region = first; region <= last; region += 1) this.note(region);
    return true;
  }

  unpin(first: number, last: number): void {
    for (let region = first; region <= last; region += 1) {
      const left = (this.#pins.get(region) ?? 0) - 1;
      invariant(left >= 0, 'a pin ends once');
      if (left === 0) this.#pins.delete(region);
      else this.#pins.set(region, left);
    }
  }

  /** Begins a new record and answers what the old one held, ascending. */
  recordAnew(): number[] {
    const before = this.regionsRecorded();
    this.#record = new Uint8Array(this.#regionCount);
    this.#recorded = 0;
    for (const region of this.#pins.keys()) this.note(region);
    return before;
  }

  /** Ascending. */
  regionsRecorded(): number[] {
    const regions: number[] = [];
    const record = this.#record;
    if (record) for (let at = record.indexOf(1); at !== -1; at = record.indexOf(1, at + 1)) regions.push(at);
    return regions;
  }

  /** Its masks changed: whatever was written of it so far is not enough. */
  note(region: number): void {
    if (!this.#record || this.#record[region] === 1) return;
    this.#record[region] = 1;
    this.#recorded += 1;
  }
}

/**
 * The table of hot regions in memory. Pure; `change-log.ts` makes it durable.
 *
 * A region is cold (no slot), or in a slot as `activating` (named in the next activity write), `hot`, or `cooling` (its chunk
 * is being written). Invariants:
 *  1. A slot with pins (writes in flight, and writes about to be issued) never starts to cool; a pin on a cooling slot makes it
 *     hot again.
 *  2. A slot is freed only by `endCooling`, and only if it is still cooling then.
 *  3. Looking up a region is one array access; nothing is allocated by `tryPin`, `tryUse` and `unpin`.
 */
import { invariant } from '../kit/invariant.ts';

const free = 0;
const activating = 1;
const hot = 2;
const cooling = 3;

export class HotRegions {
  readonly capacity: number;
  readonly #slotOf: Int16Array;
  readonly #region: Uint32Array;
  readonly #state: Uint8Array;
  readonly #pins: Uint32Array;
  readonly #lastUse: Float64Array;
  #used = 0;
  #tick = 0;

  constructor(regionCount: number, capacity: number) {
    this.capacity = capacity;
    this.#slotOf = new Int16Array(regionCount).fill(-1);
    this.#region = new Uint32Array(capacity);
    this.#state = new Uint8Array(capacity);
    this.#pins = new Uint32Array(capacity);
    this.#lastUse = new Float64Array(capacity);
  }

  /** Slots taken. */
  get used(): number {
    return this.#used;
  }

  /** Rises with every pin and unpin; orders uses against syncs of the image. */
  get tick(): number {
    return this.#tick;
  }

  isCold(region: number): boolean {
    return this.#slotOf[region] === -1;
  }

  /** Whether an activity slot durably names it. */
  isNamed(region: number): boolean {
    const slot = this.#slotOf[region] ?? -1;
    return slot !== -1 && this.#state[slot] !== activating;
  }

  /** Pins all regions from `first` to `last` if all are durably hot. */
  tryPin(first: number, last: number): boolean {
    if (!this.#areHot(first, last)) return false;
    this.#pin(first, last, 1);
    return true;
  }

  /** `tryPin` and `unpin` in one, for a write that begins and ends in this turn. */
  tryUse(first: number, last: number): boolean {
    if (!this.#areHot(first, last)) return false;
    this.#pin(first, last, 0);
    return true;
  }

  /** Whether the regions from `first` to `last` that are cold would find slots. */
  roomFor(first: number, last: number): boolean {
    return this.#used + this.#missing(first, last) <= this.capacity;
  }

  /** Gives all regions from `first` to `last` a slot and pins them: `hot` all were, `activating` some must be written first. */
  claim(first: number, last: number): 'hot' | 'activating' | 'no-room' {
    if (!this.roomFor(first, last)) return 'no-room';
    let missing = this.#missing(first, last);
    const fresh = missing > 0;
    for (let region = first, slot = 0; region <= last && missing > 0; region += 1) {
      if (!this.isCold(region)) continue;
      while (this.#state[slot] !== free) slot += 1;
      invariant(slot < this.capacity, 'a free slot was counted');
      this.#slotOf[region] = slot;
      this.#region[slot] = region;
      this.#state[slot] = activating;
      this.#pins[slot] = 0;
      this.#used += 1;
      missing -= 1;
    }
    this.#pin(first, last, 1);
    return fresh ? 'activating' : 'hot';
  }

  /** The activity write that named them is durable. */
  activated(): void {
    for (let slot = 0; slot < this.capacity; slot += 1) if (this.#state[slot] === activating) this.#state[slot] = hot;
  }

  unpin(first: number, last: number): void {
    this.#tick += 1;
    for (let region = first; region <= last; region += 1) {
      const slot = this.#slotOf[region] ?? -1;
      const pins = this.#pins[slot] ?? 0;
      invariant(slot !== -1 && pins > 0, 'a pinned region keeps its slot');
      this.#pins[slot] = pins - 1;
      this.#lastUse[slot] = this.#tick;
    }
  }

  /**
   * Takes up regions that are to be hot from the start, each with the writes under way in it. Only into an empty table. Their use counts as later than
   * `tick`, and so than any sync begun so far.
   */
  adopt(regions: readonly number[], pins: ReadonlyMap<number, number>, tick: number): void {
    invariant(this.#used === 0 && regions.length <= this.capacity, 'an empty table takes up what fits');
    this.#tick = tick + 1;
    for (const [slot, region] of regions.entries()) {
      this.#slotOf[region] = slot;
      this.#region[slot] = region;
      this.#state[slot] = hot;
      this.#pins[slot] = pins.get(region) ?? 0;
      this.#lastUse[slot] = this.#tick;
    }
    this.#used = regions.length;
  }

  /** Regions with pins, and how many each has. */
  pinned(): Map<number, number> {
    const found = new Map<number, number>();
    for (let slot = 0; slot < this.capacity; slot += 1) {
      const pins = this.#pins[slot] ?? 0;
      if (this.#state[slot] !== free && pins > 0) found.set(this.#region[slot] ?? 0, pins);
    }
    return found;
  }

  /** Regions in slots, in no order. */
  list(): Uint32Array {
    return this.#region.filter((_, slot) => this.#state[slot] !== free);
  }

  /** Whether a slot could start to cool now. */
  coolable(): boolean {
    for (let slot = 0; slot < this.capacity; slot += 1)
      if (this.#state[slot] === hot && this.#pins[slot] === 0) return true;
    return false;
  }

  /** Starts to cool up to `max` unpinned regions, least recently used first. Returns them in ascending order. */
  beginCooling(max: number): number[] {
    const slots: number[] = [];
    for (let slot = 0; slot < this.capacity; slot += 1)
      if (this.#state[slot] === hot && this.#pins[slot] === 0) slots.push(slot);
    slots.sort((a, b) => (this.#lastUse[a] ?? 0) - (this.#lastUse[b] ?? 0));
    const chosen = slots.slice(0, max);
    for (const slot of chosen) this.#state[slot] = cooling;
    return chosen.map((slot) => this.#region[slot] ?? 0).sort((a, b) => a - b);
  }

  /** The tick of the newest use among `regions`. */
  newestUse(regions: readonly number[]): number {
    let newest = 0;
    for (const region of regions) newest = Math.max(newest, this.#lastUse[this.#slotOf[region] ?? -1] ?? 0);
    return newest;
  }

  /** Frees those of `regions` that nobody pinned since `beginCooling`; with `keep` none. Returns how many became cold. */
  endCooling(regions: readonly number[], keep = false): number {
    let cooled = 0;
    for (const region of regions) {
      const slot = this.#slotOf[region] ?? -1;
      if (this.#state[slot] !== cooling) continue;
      if (keep) {
        this.#state[slot] = hot;
        continue;
      }
      this.#state[slot] = free;
      this.#slotOf[region] = -1;
      this.#used -= 1;
      cooled += 1;
    }
    return cooled;
  }

  #missing(first: number, last: number): number {
    let missing = 0;
    for (let region = first; region <= last; region += 1) if (this.isCold(region)) missing += 1;
    return missing;
  }

  #areHot(first: number, last: number): boolean {
    for (let region = first; region <= last; region += 1) {
      const slot = this.#slotOf[region] ?? -1;
      if (slot === -1 || (this.#state[slot] ?? free) < hot) return false;
    }
    return true;
  }

  /** A use of slots all these regions have, with `pins` more on each. */
  #pin(first: number, last: number, pins: 0 | 1): void {
    this.#tick += 1;
    for (let region = first; region <= last; region += 1) {
      const slot = this.#slotOf[region] ?? -1;
      this.#pins[slot] = (this.#pins[slot] ?? 0) + pins;
      this.#lastUse[slot] = this.#tick;
      if (this.#state[slot] === cooling) this.#state[slot] = hot;
    }
  }
}

/**
 * Whose turn it is on a link that can not carry all: start-time fair queueing (Goyal, Vin, Cheng 1996), as a tree of shares.
 *
 *   link ── urgent 7 ──┬── high 100 ── every key alike
 *        └─ bulk   3 ──┤── normal 10 ── every key alike
 *                      └── low 1     ── every key alike
 *
 * Invariants:
 *  1. Of what waits below a node each child gets bytes in proportion to its weight; who does not wait takes no part, and saves nothing up.
 *     So bulk gets at most 30 % while something urgent waits, and all of it else; each class of priority gets ten times that of the next
 *     lower one; and nobody starves: whoever waits has a share above zero.
 *  2. One key's requests of one kind are served in order.
 *  3. Nothing is kept of a key that does not wait and has had its share.
 */
export const priorities = ['high', 'normal', 'low'] as const;
export type Priority = (typeof priorities)[number];

export interface Turn {
  /** Who asks. Equals are served alike. */
  readonly key: string;
  readonly priority: Priority;
  readonly bulk: boolean;
  readonly bytes: number;
}

const bulkShare = 0.3;
const priorityWeights: Readonly<Record<Priority, number>> = { high: 100, normal: 10, low: 1 };

class Share<T> {
  readonly weight: number;
  readonly parent: Share<T> | null;
  readonly children = new Map<string, Share<T>>();
  readonly queue: T[] = [];
  /** Requests at and below it. */
  waiting = 0;
  /** Bytes served by weight, at least what the others had when it began to wait. */
  virtual = 0;
  /** `virtual` of the child that was served last, before it was. */
  served = 0;

  constructor(weight: number, parent: Share<T> | null) {
    this.weight = weight;
    this.parent = parent;
  }

  child(name: string, weight: number): Share<T> {
    const known = this.children.get(name);
    if (known) return known;
    for (const [other, { waiting, virtual }] of this.children) {
      if (waiting === 0 && virtual <= this.served) this.children.delete(other); // 3
    }
    const made = new Share<T>(weight, this);
    this.children.set(name, made);
    return made;
  }

  get first(): Share<T> | null {
    let first: Share<T> | null = null;
    for (const child of this.children.values()) {
      if (child.waiting > 0 && (first === null || child.virtual < first.virtual)) first = child;
    }
    return first;
  }
}

function* upFrom<T>(leaf: Share<T>): Generator<Share<T>> {
  for (let share: Share<T> | null = leaf; share; share = share.parent) yield share;
}

export class Shares<T extends Turn> {
  readonly #root = new Share<T>(1, null);

  get waiting(): number {
    return this.#root.waiting;
  }

  add(turn: T): void {
    const leaf = this.#leafOf(turn);
    leaf.queue.push(turn);
    for (const share of upFrom(leaf)) {
      if (share.waiting === 0 && share.parent) share.virtual = Math.max(share.virtual, share.parent.served); // 1
      share.waiting += 1;
    }
  }

  /** Whose turn it is; stays in the queue. */
  peek(): T | null {
    let share: Share<T> | null = this.#root;
    while (share && share.queue.length === 0) share = share.first;
    return share?.queue[0] ?? null;
  }

  /** Takes out what `peek` showed, served. */
  next(): T | null {
    const turn = this.peek();
    if (!turn) return null;
    const leaf = this.#leafOf(turn);
    leaf.queue.shift();
    for (const share of upFrom(leaf)) {
      share.waiting -= 1;
      if (share.parent) share.parent.served = share.virtual;
      share.virtual += turn.bytes / share.weight;
    }
    return turn;
  }

  /** Takes it out unserved; false: it does not wait. */
  remove(turn: T): boolean {
    const leaf = this.#leafOf(turn);
    const at = leaf.queue.indexOf(turn);
    if (at === -1) return false;
    leaf.queue.splice(at, 1);
    for (const share of upFrom(leaf)) share.waiting -= 1;
    return true;
  }

  #leafOf({ key, priority, bulk }: T): Share<T> {
    const [kind, weight] = bulk ? (['bulk', bulkShare] as const) : (['urgent', 1 - bulkShare] as const);
    return this.#root.child(kind, weight).child(priority, priorityWeights[priority]).child(key, 1);
  }
}

/**
 * The POINTs of one machine that wait for their answers, oldest first, and how those whose turn has come are merged into later ones (SPOOL.md,
 * "Merging"). Pure.
 *
 * Invariants:
 *  1. A point is merged only into one that lists exactly the layers behind it, of the same disks: then the two runs put together are the run of both.
 *     The layers are counted as they come, and again as they are sent; a point whose run is another one is nobody's continuation.
 *  2. And only into one that is on disk: what is in memory alone goes with the agent.
 *  3. What was once sent is not merged into another any more: the target may have committed it. Sent again it says what it said before.
 *  4. What was merged stays so until the later one is committed, whatever happens to connections: the target may have its layers by then.
 *  5. The cuts that wait rise, so that "up to its own" says one thing.
 */
import { sameLayers, withLayer, type LayerRun } from '../kernels/layer-run.ts';
import { digest } from '../kernels/hash.ts';
import { limits } from '../limits.ts';
import { protocolError } from '../wire/codes.ts';
import type { Gap } from '../wire/gap.ts';
import type { PointMessage } from '../wire/point.ts';

export interface WaitingPoint {
  readonly cutTimeMs: number;
  readonly app: boolean;
  /** It lists exactly the layers behind the point before it. */
  readonly continues: boolean;
  /** Names the roots of its disks. */
  readonly roots: string;
  /** It is on disk. */
  spooled: boolean;
  /** Whether its turn has come, and what it was then. */
  fate: 'waits' | 'sent' | 'merged';
  /** What it was sent with. */
  carries: Carried | null;
}

/** The older points that go into a later one. */
interface Carried {
  readonly atMs: number;
  readonly points: number;
  readonly message: PointMessage;
  readonly runs: Map<number, LayerRun | null>;
}

const kinds = ['delta', 'resync', 'initial'] as const;

export function rootsOf(disks: readonly { readonly disk: number; readonly root: string }[]): string {
  const sorted = [...disks].sort((a, b) => a.disk - b.disk).map(({ disk, root }) => `${disk} ${root}`);
  return Buffer.from(digest(Buffer.from(sorted.join('\n')))).toString('hex');
}

export class WaitingPoints {
  readonly #waiting: WaitingPoint[] = [];
  /** By disk: the layers with batches since the newest point. */
  #behind = new Map<number, LayerRun | null>();
  #disks: ReadonlySet<number> = new Set();
  /** What goes into the next one that is sent. */
  #carried: Carried | null = null;

  get count(): number {
    return this.#waiting.length;
  }

  get oldest(): WaitingPoint | null {
    return this.#waiting[0] ?? null;
  }

  /** A batch came, in the order of the agent. */
  batch(disk: number, seq: number): void {
    const run = this.#behind.get(disk) ?? null;
    if (run === null || seq > run.last) this.#behind.set(disk, withLayer(run, seq));
  }

  /** A POINT came. @throws Problem `protocol-error`: too many wait, or it is not behind them. */
  add(message: PointMessage): WaitingPoint {
    if (this.#waiting.length >= limits.wire.pointsInFlightMax) {
      throw protocolError(`more than ${limits.wire.pointsInFlightMax} POINTs wait for their answers`);
    }
    const { cutTimeMs, consistency } = message;
    const newest = this.#waiting.at(-1);
    if (newest && cutTimeMs <= newest.cutTimeMs) {
      throw protocolError(`a POINT of ${cutTimeMs} while one of ${newest.cutTimeMs} waits`); // 5
    }
    const behind = this.#behind;
    const disks = new Set(message.disks.map(({ disk }) => disk));
    const same = disks.size === this.#disks.size && [...disks].every((disk) => this.#disks.has(disk));
    const continues = same && message.disks.every(({ disk, layers }) => sameLayers(layers, behind.get(disk) ?? null));
    this.#behind = new Map();
    this.#disks = disks;
    const point: WaitingPoint = {
      ...{ cutTimeMs, app: consistency === 'app', continues, roots: rootsOf(message.disks) },
      ...{ spooled: false, fate: 'waits', carries: null },
    };
    this.#waiting.push(point);
    return point;
  }

  /** It is on disk now. */
  spooled(cutTimeMs: number): void {
    const point = this.at(cutTimeMs);
    if (point) point.spooled = true;
  }

  /** It was in memory only, and is given up. */
  forget(cutTimeMs: number): void {
    const at = this.#waiting.findIndex((each) => each.cutTimeMs === cutTimeMs);
    if (at !== -1) this.#waiting.splice(at, 1);
  }

  at(cutTimeMs: number): WaitingPoint | null {
    return this.#waiting.find((each) => each.cutTimeMs === cutTimeMs) ?? null;
  }

  /** Those up to `cutTimeMs` are answered. Answers what was merged into the last of them. */
  answered(cutTimeMs: number): Gap | null {
    const merged: Carried[] = [];
    while (this.#waiting[0] && this.#waiting[0].cutTimeMs <= cutTimeMs) {
      const { carries } = this.#waiting.shift() ?? {};
      if (carries) merged.push(carries);
    }
    const [first] = merged;
    if (!first) return null;
    const points = merged.reduce((sum, each) => sum + each.points, 0);
    const detail = 'merged into the next point: the spool of the process server was above its mark';
    return { atMs: first.atMs, points, reason: 'merged', detail };
  }

  /** Its batch is sent, or known to be there. */
  sending(disk: number, seq: number): void {
    const run = this.#carried?.runs.get(disk) ?? null;
    if (this.#carried && (run === null || seq > run.last)) this.#carried.runs.set(disk, withLayer(run, seq));
  }

  /** The turn of a POINT has come: what is to be sent, perhaps with others merged into it; null: it is merged into a later one. */
  turn(message: PointMessage, isAboveMark: boolean): PointMessage | null {
    const at = this.#waiting.findIndex(({ cutTimeMs }) => cutTimeMs === message.cutTimeMs);
    const [point, next] = [this.#waiting[at], this.#waiting[at + 1]];
    if (!point) return message;
    if (point.fate === 'merged') return null; // 4
    if (point.fate === 'sent') return merged(point.carries, message); // 3
    const whole = merged(this.#carried, message);
    const mayGoInto = next?.continues === true && next.spooled && (next.app || !point.app); // 1, 2
    if (isAboveMark && mayGoInto) {
      const runs = new Map(whole.disks.map(({ disk, layers }) => [disk, layers]));
      const { atMs, points } = this.#carried ?? { atMs: message.cutTimeMs, points: 0 };
      this.#carried = { atMs, points: points + 1, message: whole, runs };
      point.fate = 'merged';
      return null;
    }
    point.fate = 'sent';
    point.carries = this.#carried;
    this.#carried = null;
    return whole;
  }
}

/** The point with what goes into it. */
function merged(carried: Carried | null, message: PointMessage): PointMessage {
  if (!carried) return message;
  const { definition } = carried.message;
  const older = new Map(carried.message.disks.map((each) => [each.disk, each]));
  const disks = message.disks.map((each) => {
    const before = older.get(each.disk);
    if (!before) return each;
    const kind = kinds[Math.max(kinds.indexOf(before.kind), kinds.indexOf(each.kind))] ?? each.kind;
    const records = before.records + each.records;
    const payloadBytes = before.payloadBytes + each.payloadBytes;
    return { ...each, kind, records, payloadBytes, layers: carried.runs.get(each.disk) ?? null };
  });
  return { ...(definition ? { definition } : {}), ...message, disks };
}

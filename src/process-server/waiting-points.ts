/**
 * The POINTs of one machine that wait for their answers, oldest first, and how those whose turn has come are merged into later ones (SPOOL.md,
 * "Merging"). Pure.
 *
 * Invariants:
 *  1. A point is merged only into one that lists exactly the layers behind it, of the same disks: then the two runs put together are the run of both.
 *     The layers are counted as they come, and again as they are sent; a point whose run is another one is nobody's continuation.
 *  2. What was once sent is not merged into another any more: the target may have committed it.
 *  3. What was merged stays so until the later one is committed, whatever happens to connections: the target may have its layers by then.
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
  sent: boolean;
}

/** The older points that go into the next one. */
interface Carried {
  readonly atMs: number;
  points: number;
  message: PointMessage;
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

  /** A POINT came. @throws Problem `protocol-error`: too many wait. */
  add(message: PointMessage): WaitingPoint {
    if (this.#waiting.length >= limits.wire.pointsInFlightMax) {
      throw protocolError(`more than ${limits.wire.pointsInFlightMax} POINTs wait for their answers`);
    }
    const behind = this.#behind;
    const disks = new Set(message.disks.map(({ disk }) => disk));
    const same = disks.size === this.#disks.size && [...disks].every((disk) => this.#disks.has(disk));
    const continues = same && message.disks.every(({ disk, layers }) => sameLayers(layers, behind.get(disk) ?? null));
    this.#behind = new Map();
    this.#disks = disks;
    const { cutTimeMs, consistency } = message;
    const point = { cutTimeMs, app: consistency === 'app', continues, roots: rootsOf(message.disks), sent: false };
    this.#waiting.push(point);
    return point;
  }

  at(cutTimeMs: number): WaitingPoint | null {
    return this.#waiting.find((each) => each.cutTimeMs === cutTimeMs) ?? null;
  }

  /** Those up to `cutTimeMs` are answered. Answers what was merged into the last of them. */
  answered(cutTimeMs: number): Gap | null {
    while (this.#waiting[0] && this.#waiting[0].cutTimeMs <= cutTimeMs) this.#waiting.shift();
    const carried = this.#carried;
    if (!carried || carried.message.cutTimeMs >= cutTimeMs) return null;
    this.#carried = null;
    const detail = 'merged into the next point: the spool of the process server was above its mark';
    return { atMs: carried.atMs, points: carried.points, reason: 'merged', detail };
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
    const whole = this.#merged(message);
    const leftOut = isAboveMark && point?.sent === false && next?.continues === true && (next.app || !point.app);
    if (!leftOut) {
      if (point) point.sent = true;
      return whole;
    }
    const carried = this.#carried;
    if (carried) {
      carried.points += 1;
      carried.message = whole;
    } else {
      const runs = new Map(whole.disks.map(({ disk, layers }) => [disk, layers]));
      this.#carried = { atMs: message.cutTimeMs, points: 1, message: whole, runs };
    }
    return null;
  }

  #merged(message: PointMessage): PointMessage {
    const carried = this.#carried;
    if (!carried || carried.message.cutTimeMs >= message.cutTimeMs) return message;
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
}

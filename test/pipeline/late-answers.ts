/**
 * A process server that takes what an agent sends before the target has it: the agent may have points in flight, credit comes at once, and what the
 * target says of durable batches and points is told when the test likes, in order.
 */
import { systemClock } from '../../src/kit/clock.ts';
import { decodeCommitted } from '../../src/wire/committed.ts';
import { features } from '../../src/wire/features.ts';
import { decodeFrame, frameType } from '../../src/wire/frame.ts';
import { decodeWelcome, encodeWelcome } from '../../src/wire/welcome.ts';
import type { Site } from './site.ts';
import type { Tap } from './wires.ts';

interface Kept {
  readonly frame: Buffer;
  readonly pass: (frame: Buffer) => void;
}

const answers: ReadonlySet<number | undefined> = new Set([frameType.durable, frameType.committed, frameType.rejected]);

export class LateAnswers {
  /** Whether answers are kept from now on. */
  late = true;
  /** Then each is told so much later by itself; null: when the test says so. */
  delayMs: number | null = null;
  readonly #site: Site;
  #kept: Kept[] = [];
  /** POINTs the target may still hear of; what follows the last of them never reaches it on its wire. */
  #pointsPassed = Infinity;
  #blocked = false;
  #toAgent: ((frame: Buffer) => void) | null = null;

  constructor(site: Site) {
    this.#site = site;
    site.agentHop.tap = this.agentTap;
    site.targetHop.tap = (frame, way) => (way === 'forward' ? this.#towardsTarget(frame) : undefined);
  }

  readonly agentTap: Tap = (frame, way, pass) => {
    if (way === 'forward') return undefined;
    this.#toAgent = pass;
    if (frame[0] === frameType.welcome) {
      this.#kept = [];
      const welcome = decodeWelcome(decodeFrame(frame).body);
      const both = new Set([...welcome.features, features.pointsInFlight]);
      return Buffer.from(encodeWelcome({ ...welcome, features: [...both] }));
    }
    if (!answers.has(frame[0]) || !this.late) return undefined;
    const kept = { frame: Buffer.from(frame), pass };
    this.#kept.push(kept);
    if (this.delayMs !== null) systemClock.after(this.delayMs, () => this.#tellUpTo(kept));
    return 'kept';
  };

  /** POINTs that wait, as the agent says. */
  get waiting(): number {
    return this.#site.agent?.agent.report().flow.pointsInFlight ?? 0;
  }

  /** Answers of points that came and are kept. */
  get came(): number {
    return this.#kept.filter(({ frame }) => frame[0] === frameType.committed).length;
  }

  /** The target hears of so many POINTs more, and of nothing behind them until its wire is another one. */
  passPoints(points: number): void {
    this.#pointsPassed = points;
  }

  /** Tells what was kept, up to so many answers of points. */
  tell(points = Infinity): void {
    let left = points;
    while (left > 0) {
      const next = this.#kept.shift();
      if (!next) return;
      next.pass(next.frame);
      if (next.frame[0] === frameType.committed) left -= 1;
    }
  }

  /** Tells the next answers of points as one, as after they were merged: only the last goes out. */
  tellMerged(points: number): void {
    for (let left = points - 1; left > 0; left -= 1) {
      const at = this.#kept.findIndex(({ frame }) => frame[0] === frameType.committed);
      this.#kept.splice(at, 1);
    }
    this.tell(1);
  }

  /** From now on answers come as they are given. */
  intime(): void {
    this.late = false;
    this.tell();
  }

  /** A frame nobody sent. */
  say(frame: Uint8Array): void {
    this.#toAgent?.(Buffer.from(frame));
  }

  /** Makes a cut and waits until its POINT is on its way. */
  async send(): Promise<void> {
    const before = this.waiting;
    this.#site.agent?.agent.requestCycle();
    await this.#site.until(() => this.waiting > before, 'one more point in flight');
  }

  /** Cut times of the answers that are kept. */
  get cuts(): number[] {
    const committed = this.#kept.filter(({ frame }) => frame[0] === frameType.committed);
    return committed.map(({ frame }) => decodeCommitted(decodeFrame(frame).body).cutTimeMs);
  }

  #tellUpTo(last: Kept): void {
    const at = this.#kept.indexOf(last);
    for (const { frame, pass } of this.#kept.splice(0, at + 1)) pass(frame);
  }

  #towardsTarget(frame: Buffer): 'kept' | undefined {
    if (frame[0] === frameType.hello) {
      [this.#blocked, this.#pointsPassed] = [false, Infinity];
      return undefined;
    }
    if (this.#blocked) return 'kept';
    if (frame[0] !== frameType.point) return undefined;
    this.#blocked = this.#pointsPassed === 0;
    this.#pointsPassed -= 1;
    return this.#blocked ? 'kept' : undefined;
  }
}

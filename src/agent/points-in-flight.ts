/**
 * The POINTs of one session that wait for their answers (PROTOCOL.md, "Points in flight"): what each was made of, and when it passed each stage.
 *
 * Invariants:
 *  1. They are answered in the order they were sent. COMMITTED names the cut of one of them, and answers all up to that one: those before it were
 *     merged into it on the way.
 *  2. The cuts that wait rise, so that "up to its own" says one thing: a cut that the wall clock dates earlier waits for the others' answers first.
 *  3. Bounded by `limits.wire.pointsInFlightMax`, or 1 where the process server takes no more.
 */
import type { CutReport } from '../capture/contract.ts';
import type { Clock } from '../kit/clock.ts';
import type { Problem } from '../kit/problem.ts';
import { protocolError } from '../wire/codes.ts';
import type { Committed } from '../wire/committed.ts';
import type { AgentCounters } from './counters.ts';
import type { PointStages } from './flow.ts';

export interface SentPoint {
  readonly cut: CutReport;
  readonly payloadBytes: number;
  /** Whether it claims to be app-consistent. */
  readonly app: boolean;
}

interface Waiting extends SentPoint {
  readonly sentMs: number;
  /** The newest layer begun before it. */
  readonly upToSeq: number;
  durableMs: number | null;
}

/** What one COMMITTED answered. */
export interface Answered {
  readonly point: number;
  /** Of the cut that became the point. */
  readonly sent: SentPoint;
  readonly stages: PointStages;
  /** Points before it that were merged into it. */
  readonly merged: number;
}

const ignore = (): void => undefined;

export class PointsInFlight {
  readonly #clock: Clock;
  readonly #counters: AgentCounters;
  readonly #waiting: Waiting[] = [];
  /** Of these, from the oldest on: all batches are durable. */
  #durable = 0;
  /** Monotonic, since when the time that points wait is not counted yet. */
  #countedMs = 0;
  #over = false;
  #empty = Promise.withResolvers<undefined>();

  constructor(clock: Clock, counters: AgentCounters) {
    this.#clock = clock;
    this.#counters = counters;
    this.#empty.resolve(undefined);
  }

  get count(): number {
    return this.#waiting.length;
  }

  /** Whether every POINT that was sent got its answer. */
  get allAnswered(): boolean {
    return this.#waiting.length === 0 && !this.#over;
  }

  /** Of the oldest one, or null. */
  get open(): PointStages | null {
    const [oldest] = this.#waiting;
    return oldest ? stagesOf(oldest, null) : null;
  }

  /** Whether one that claims to be app-consistent waits. */
  get app(): boolean {
    return this.#waiting.some(({ app }) => app);
  }

  /** Whether a POINT of this cut may wait behind those that do (invariant 2). */
  mayFollow(cutTimeMs: number): boolean {
    return cutTimeMs > (this.#waiting.at(-1)?.cut.cutTimeMs ?? -Infinity);
  }

  /** Resolves when none waits; rejects when the session ends before. */
  answered(): Promise<undefined> {
    return this.#empty.promise;
  }

  /** To be called right before POINT is sent. `upToSeq`: the newest layer begun. */
  sending(point: SentPoint, upToSeq: number): void {
    const nowMs = this.#clock.monotonicMs();
    if (this.#waiting.length === 0) {
      this.#countedMs = nowMs;
      this.#empty = Promise.withResolvers();
      this.#empty.promise.catch(ignore);
    }
    const sentMs = Math.max(point.cut.cutTimeMs, this.#clock.wallMs());
    this.#waiting.push({ ...point, sentMs, upToSeq, durableMs: null });
  }

  /** All layers below `oldestSeq` are durable; null: all there are. */
  durableBelow(oldestSeq: number | null): void {
    for (;;) {
      const next = this.#waiting[this.#durable];
      if (!next || (oldestSeq !== null && next.upToSeq >= oldestSeq)) return;
      next.durableMs = Math.max(next.sentMs, this.#clock.wallMs());
      this.#durable += 1;
    }
  }

  /** @throws Problem `protocol-error`: nobody asked for this point. */
  committed({ point, cutTimeMs }: Committed): Answered {
    const at = this.#waiting.findIndex(({ cut }) => cut.cutTimeMs === cutTimeMs);
    if (at === -1) throw protocolError(`COMMITTED of a cut at ${cutTimeMs}, for which no POINT waits`);
    this.#countTime();
    const sent = this.#waiting.splice(0, at + 1).at(-1);
    if (!sent) throw protocolError('COMMITTED without a POINT');
    this.#durable = Math.max(0, this.#durable - at - 1);
    if (this.#waiting.length === 0) this.#empty.resolve(undefined);
    return { point, sent, stages: stagesOf(sent, this.#clock.wallMs()), merged: at };
  }

  /** @throws Problem `protocol-error`: no POINT waits. */
  rejected(): void {
    if (this.#waiting.length === 0) throw protocolError('REJECTED without a POINT');
  }

  /** The session is over: what waits is not answered any more. */
  end(reason: Problem): void {
    this.#countTime();
    this.#over = true;
    this.#waiting.length = 0;
    this.#durable = 0;
    this.#empty.reject(reason);
  }

  /** So that the counter tells the time in which at least one waited, however many there are. */
  #countTime(): void {
    if (this.#waiting.length === 0) return;
    const nowMs = this.#clock.monotonicMs();
    this.#counters.stageMs.commit += nowMs - this.#countedMs;
    this.#countedMs = nowMs;
  }
}

function stagesOf({ cut, sentMs, durableMs }: Waiting, committedMs: number | null): PointStages {
  if (committedMs === null) return { cutMs: cut.cutTimeMs, sentMs, durableMs, committedMs };
  const durable = durableMs ?? committedMs;
  return { cutMs: cut.cutTimeMs, sentMs, durableMs: durable, committedMs: Math.max(committedMs, durable, sentMs) };
}

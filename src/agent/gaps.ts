/**
 * Points that were due and were not made, each with its reason, until the target was told (GAP in PROTOCOL.md).
 *
 * Two sources. What the agent knows at once is noted as it happens: a cut given up, hooks that failed. The rest is found at the next point:
 * between two accounted cuts lie as many due points as intervals fit in, less one; as many of them as intervals fit into the time without a
 * session were missed for that, the others because sending took so long. The first cut accounted for is the target's newest point, so
 * that what an agent missed while it did not run, or forgot when it was killed, is found by the next.
 *
 * Invariants:
 *  1. The sum of `points` of what is told and what is kept never loses one: a full list merges entries of one reason.
 *  2. A gap counts as told once a point that was asked for after it was committed; before, a lost session brings it back, unless the next one
 *     says that the point is there. It may then be told twice, never not at all.
 *  3. Only cuts whose points were committed are accounted for, in their order, each with what happened before it: of points in flight the target may
 *     have made none, some or all. One that the process server merged into a later one counts as made: who merged it tells of it.
 *
 * Rejected: a file of gaps. What it would add over the second source is the reason, for an agent that is killed while it is offline.
 */
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import { gapReasons, type Gap } from '../wire/gap.ts';

export type GapReason = Gap['reason'];

/** What lay between a cut and the one before it. */
interface Before {
  /** Time without a session, milliseconds. */
  awayMs: number;
  /** For the resync window. */
  waited: boolean;
  paused: boolean;
}

/** A cut whose POINT was sent and not answered, or the failure of one behind such. */
interface Pending {
  readonly failed: boolean;
  /** Of the cut, or when it failed. */
  readonly atMs: number;
  readonly intervalMs: number;
  readonly before: Before;
  /** Told since the POINT before it. */
  readonly gaps: readonly Gap[];
}

const nothingBefore = (): Before => ({ awayMs: 0, waited: false, paused: false });

export class Gaps {
  #waiting: Gap[] = [];
  /** Told behind the newest POINT. */
  #told: Gap[] = [];
  /** Oldest first; of a session that was lost until the next one says what became of them. */
  #sent: Pending[] = [];
  readonly #totals = new Map<GapReason, number>(gapReasons.map((reason) => [reason, 0]));
  /** Wall clock of the last cut that was committed or whose failure was noted; null: no point was ever due. */
  #accountedMs: number | null = null;
  /** Since when there is no session; null: there is one. 0: since before this agent started. */
  #awaySinceMs: number | null = 0;
  /** Since the newest cut. */
  #before = nothingBefore();

  /** Points missed since the start, by reason. */
  get totals(): ReadonlyMap<GapReason, number> {
    return this.#totals;
  }

  /** Points that the target may not have been told of. */
  get untold(): number {
    const sent = this.#sent.flatMap(({ gaps }) => gaps);
    return [...sent, ...this.#told, ...this.#waiting].reduce((sum, gap) => sum + gap.points, 0);
  }

  /** `newestCutMs`: of the target's newest point, null if there is none. */
  sessionOpened(atMs: number, newestCutMs: number | null): void {
    if (newestCutMs !== null) this.committed(newestCutMs);
    const lost = this.#sent.splice(0);
    this.#waiting = merged([...lost.flatMap(({ gaps }) => gaps), ...this.#waiting]);
    const since = this.#takeBefore();
    for (const { failed, atMs: thenMs, intervalMs, before } of lost) {
      this.#also(before);
      if (failed) this.#accountAll(thenMs, intervalMs);
    }
    this.#also(since);
    this.#accountedMs ??= newestCutMs;
    if (this.#awaySinceMs !== null && this.#accountedMs !== null)
      this.#before.awayMs += Math.max(0, atMs - Math.max(this.#awaySinceMs, this.#accountedMs));
    this.#awaySinceMs = null;
  }

  sessionEnded(atMs: number): void {
    this.#awaySinceMs ??= atMs;
    this.#waiting = merged([...this.#told, ...this.#waiting]);
    this.#told = [];
  }

  /** A cut was given up, or its point rejected. */
  cutFailed(atMs: number, reason: GapReason, detail: string, intervalMs: number): void {
    if (this.#sent.length === 0) this.#accountAll(atMs, intervalMs);
    else this.#sent.push({ failed: true, atMs, intervalMs, before: this.#takeBefore(), gaps: [] });
    this.#note({ atMs, points: 1, reason, detail: detail.slice(0, 1024) });
  }

  /** The point was made; the app-consistent one that was due was not. */
  hooksFailed(atMs: number, detail: string): void {
    this.#note({ atMs, points: 1, reason: 'hooks', detail: detail.slice(0, 1024) });
  }

  /** POINT goes out for a cut; what was told before it is confirmed with it. */
  pointSent(cutTimeMs: number, intervalMs: number): void {
    const before = this.#takeBefore();
    this.#sent.push({ failed: false, atMs: cutTimeMs, intervalMs, before, gaps: this.#told });
    this.#told = [];
  }

  /** The point of this cut is committed, and with it those of the cuts before it. */
  committed(cutTimeMs: number): void {
    for (;;) {
      const next = this.#sent[0];
      // A failure is final, whatever becomes of what was sent behind it.
      if (!next || (!next.failed && next.atMs > cutTimeMs)) return;
      this.#sent.shift();
      this.#account(next.atMs, next.intervalMs, next.before);
    }
  }

  /** A resync waits for its window, and with it the points of all disks of the machine. */
  waitedForWindow(): void {
    this.#before.waited = true;
  }

  /** An operator wants no points now. */
  wasPaused(): void {
    this.#before.paused = true;
  }

  /** What is to be sent now; it is kept until it is confirmed. */
  take(): readonly Gap[] {
    const gaps = this.#waiting;
    this.#told = merged([...this.#told, ...gaps]);
    this.#waiting = [];
    return gaps;
  }

  #takeBefore(): Before {
    const before = this.#before;
    this.#before = nothingBefore();
    return before;
  }

  #also({ awayMs, waited, paused }: Before): void {
    this.#before.awayMs += awayMs;
    this.#before.waited ||= waited;
    this.#before.paused ||= paused;
  }

  #accountAll(atMs: number, intervalMs: number): void {
    this.#account(atMs, intervalMs, this.#takeBefore());
  }

  /** Notes what was due between the accounted cut and one at `atMs`. */
  #account(atMs: number, intervalMs: number, { awayMs, waited, paused }: Before): void {
    const sinceMs = this.#accountedMs;
    this.#accountedMs = atMs;
    if (sinceMs === null) return;
    const missed = Math.floor((atMs - sinceMs) / intervalMs) - 1;
    if (missed < 1) return;
    const away = Math.min(missed, Math.floor(awayMs / intervalMs));
    const firstMs = sinceMs + intervalMs;
    if (away > 0) {
      const detail = `without a session for ${Math.round(awayMs / 1000)} s`;
      this.#note({ atMs: firstMs, points: away, reason: 'disconnected', detail });
    }
    if (missed > away) {
      const what = paused
        ? 'paused, and then sending one point: together'
        : waited
          ? 'a resync waited for its window and was sent, in'
          : 'sending one point took';
      const detail = `${what} ${Math.round((atMs - sinceMs - awayMs) / 1000)} s`;
      this.#note({ atMs: firstMs, points: missed - away, reason: paused ? 'paused' : 'other', detail });
    }
  }

  #note(gap: Gap): void {
    this.#totals.set(gap.reason, (this.#totals.get(gap.reason) ?? 0) + gap.points);
    this.#waiting = merged([...this.#waiting, gap]);
  }
}

/** At most `gapsKeptMax`: the oldest entry whose reason comes again is merged into the next of that reason. */
function merged(gaps: readonly Gap[]): Gap[] {
  const kept = [...gaps];
  while (kept.length > limits.agent.gapsKeptMax) {
    const index = kept.findIndex(({ reason }, at) => kept.slice(at + 1).some((later) => later.reason === reason));
    const [older] = kept.splice(index, 1);
    const heir = kept.findIndex(({ reason }, at) => at >= index && reason === older?.reason);
    const newer = kept[heir];
    invariant(older && newer, 'more gaps than reasons');
    const atMs = Math.min(older.atMs, newer.atMs);
    kept[heir] = { ...newer, atMs, points: older.points + newer.points };
  }
  return kept;
}

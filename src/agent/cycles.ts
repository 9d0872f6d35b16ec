/**
 * The cycles of one session: what is due before a cut, the cut, and the rest until the next one.
 *
 * Invariants:
 *  1. Leaf files and change logs follow (`fold`) only between cycles, when every POINT is answered and nothing was sent behind the newest. So a cycle
 *     begins before the answer only when the answer is late, and costs nothing more when it is not.
 *  2. Answers that are always late are waited for now and then (`pointsPerWait`), so that what has to be hashed again after a lost session, and what
 *     the leaf files do not know, stay small beside what the waiting costs: one point in so many.
 *  3. What needs another session, or another kind of cycle, waits for the answers first: the POINTs of an initial replication or a resync too.
 */
import type { Logger } from '../observe/logger.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { AppAttempt } from './app-consistency.ts';
import type { AppSchedule } from './app-schedule.ts';
import type { AgentCounters } from './counters.ts';
import { runCycle, type CycleOutcome } from './cycle.ts';
import type { FlightLog } from './flight-log.ts';
import type { Gaps } from './gaps.ts';
import type { BlockHasher } from './hash-blocks.ts';
import type { AgentOptions } from './options.ts';
import type { Pauses } from './pauses.ts';
import { restMs } from './plan.ts';
import type { PointsInFlight } from './points-in-flight.ts';
import { resyncDisk } from './resync-disk.ts';
import type { ResyncGate } from './resync-gate.ts';
import { lookAnew } from './scan-disk.ts';
import type { BuilderPool, LayerResult } from './sender.ts';
import type { Session } from './session.ts';
import { untroubled, type Standing } from './standing.ts';

/** What outlives a session. */
export interface CycleParts {
  readonly options: AgentOptions;
  readonly standing: Standing;
  readonly counters: AgentCounters;
  readonly flight: FlightLog;
  readonly builders: BuilderPool;
  readonly gaps: Gaps;
  readonly appSchedule: AppSchedule;
  readonly gate: ResyncGate;
  readonly hasher: BlockHasher;
  readonly pauses: Pauses;
}

const again = (why: string): Problem => new Problem('closed', why, { retryable: true });

export class Cycles {
  readonly #parts: CycleParts;
  readonly #session: Session;
  readonly #points: PointsInFlight;
  readonly #logger: Logger;
  /** Points sent since leaf files and change logs followed. */
  #unfolded = 0;

  constructor(parts: CycleParts, session: Session, points: PointsInFlight) {
    this.#parts = parts;
    this.#session = session;
    this.#points = points;
    this.#logger = parts.options.logger;
  }

  /** Until the session ends, or has to; resolves or rejects with the reason. */
  async run(): Promise<Problem> {
    const { disks } = this.#parts.options;
    while (!this.#session.isOver) {
      await this.#whileHeld(() => this.#fold());
      if (disks.some((disk) => disk.resyncRequested)) await this.#allAnswered();
      for (const disk of disks) disk.beginRequested();
      if (disks.some((disk) => disk.reopeningDue)) return again('opened anew, so that disks are compared');
      this.#parts.pauses.requested = false;
      this.#begins();
      const unreadable = await this.#lookAnew();
      if (disks.some((disk) => disk.reopeningDue)) return again('opened anew, because a disk grew');
      const outcome: CycleOutcome =
        unreadable === null ? await this.#cycle() : { kind: 'given-up', cause: 'other', reason: unreadable };
      this.#note(outcome);
      if (this.#session.wantsRecycling) {
        await this.#allAnswered();
        return again('the connection carried its share and is opened anew');
      }
      await this.#rest(outcome);
    }
    return this.#session.ended;
  }

  #begins(): void {
    this.#parts.standing.state = 'cycling';
    this.#parts.standing.nextCutMs = null;
  }

  async #cycle(): Promise<CycleOutcome> {
    const { options, counters, flight, builders, gaps, appSchedule } = this.#parts;
    const { disks, cutAll, app, definition = () => null, clock, intervalMs } = options;
    const [session, points] = [this.#session, this.#points];
    const ahead = await this.#resync();
    this.#begins();
    for (const gap of gaps.take()) await session.sendGap(gap);
    const attempt = app && appSchedule.isDue ? app.attempt(cutAll) : null;
    const outcome = await runCycle({
      session,
      points,
      sending: (point) => {
        gaps.pointSent(point.cut.cutTimeMs, intervalMs());
        points.sending(point, session.newestSeq);
        this.#unfolded += 1;
      },
      disks,
      ahead,
      cutAll: attempt?.cutAll ?? cutAll,
      evidence: () => attempt?.evidence ?? null,
      definition,
      counters,
      flight,
      clock,
      builders,
      pace: this.#pace,
    }).finally(() => {
      if (attempt) this.#noteAttempt(attempt);
    });
    if (attempt && outcome.kind === 'sent') appSchedule.tried(attempt.evidence !== null);
    return outcome;
  }

  /** Whatever became of its cycle; one whose cut was not reached was none. */
  #noteAttempt(attempt: AppAttempt): void {
    const { appSchedule, gaps, options } = this.#parts;
    if (attempt.failure === null && attempt.evidence === null) return;
    appSchedule.tried(false);
    if (attempt.failure === null) return;
    this.#logger.warn({ reason: attempt.failure }, 'a point is not app-consistent');
    gaps.hooksFailed(options.clock.wallMs(), attempt.failure);
  }

  #note(outcome: CycleOutcome): void {
    if (outcome.kind === 'sent') return;
    const { standing, gaps, options } = this.#parts;
    this.#logger.warn({ reason: outcome.reason }, 'cut given up');
    standing.trouble = { reason: outcome.reason, remedy: '' };
    gaps.cutFailed(options.clock.wallMs(), outcome.cause, outcome.reason, options.intervalMs());
  }

  // ---- between cycles -------------------------------------------------------------------------------------------------------

  /** Until the next cycle is due or asked for, and may begin. */
  async #rest(outcome: CycleOutcome): Promise<void> {
    const { options, standing, pauses } = this.#parts;
    const { clock, intervalMs } = options;
    const cutMs = outcome.kind === 'sent' ? outcome.cutTimeMs : undefined;
    const pauseMs = restMs(intervalMs(), cutMs, clock.wallMs());
    const dueMs = clock.monotonicMs() + pauseMs;
    standing.nextCutMs = clock.wallMs() + pauseMs;
    for (;;) {
      await this.#fold();
      if (this.#session.isOver) return;
      const free = this.#mayGoOn;
      standing.state = free ? 'idle' : 'cycling';
      const leftMs = dueMs - clock.monotonicMs();
      if (free && (pauses.requested || leftMs <= 0)) return;
      const woken = await pauses.pause(free ? leftMs : null, this.#isOver);
      if (woken === 'asked') pauses.requested = true;
    }
  }

  /** Whether a cycle may begin though POINTs may wait for their answers (invariants 2 and 3). */
  get #mayGoOn(): boolean {
    const { count } = this.#points;
    if (count === 0) return true;
    if (count >= this.#session.pointsMax || !this.#parts.options.disks.every((disk) => disk.isSteady)) return false;
    return this.#unfolded < Math.min(limits.wire.pointsInFlightMax, limits.agent.pointsPerWait * count);
  }

  /** Invariant 1: does nothing while it may not. */
  async #fold(): Promise<void> {
    const { disks } = this.#parts.options;
    if (!this.#points.allAnswered || this.#unfolded === 0 || disks.some((disk) => disk.layers !== null)) return;
    for (const disk of disks) await disk.fold();
    this.#unfolded = 0;
  }

  async #allAnswered(): Promise<void> {
    await this.#points.answered();
    await this.#fold();
  }

  /** Until nothing holds replication, or the session is over. `meanwhile` is called between looks. */
  async #whileHeld(meanwhile?: () => Promise<void>): Promise<void> {
    const { options, standing, gaps, pauses } = this.#parts;
    const before = standing.state;
    const { hold = () => null } = options;
    for (let reason = hold(); reason !== null && !this.#session.isOver; reason = hold()) {
      standing.state = 'paused';
      standing.trouble = { reason, remedy: '' };
      standing.nextCutMs = null;
      gaps.wasPaused();
      await meanwhile?.();
      await pauses.pause(limits.agent.holdPollMs, this.#isOver);
      standing.trouble = untroubled;
      standing.state = before;
    }
  }

  readonly #isOver = (): boolean => this.#session.isOver;

  readonly #pace = (bytes: number): Promise<void> => this.#whileHeld().then(() => this.#parts.options.pace?.(bytes));

  // ---- before a cut ---------------------------------------------------------------------------------------------------------

  /** Why the source of a disk can not be read at present, or null. */
  async #lookAnew(): Promise<string | null> {
    const { options, hasher, counters } = this.#parts;
    const { disks, clock } = options;
    const context = { session: this.#session, hasher, clock, pace: this.#pace, counters };
    try {
      for (const disk of disks) await lookAnew(context, disk);
      return null;
    } catch (error) {
      if (this.#session.isOver || !isProblem(error) || !error.retryable) throw error;
      for (const disk of disks) disk.capture.giveUp();
      return `${error.message}${error.remedy ? `: ${error.remedy}` : ''}`;
    }
  }

  /** Until cycles may go on; by disk, what was sent. */
  async #resync(): Promise<LayerResult[]> {
    const { options, hasher, gate, counters, flight, builders } = this.#parts;
    const { disks, clock, resyncAtDirtyRatio } = options;
    const ratio = resyncAtDirtyRatio?.() ?? 0.5;
    if (disks.some((disk) => disk.changedMoreThan(ratio))) await this.#allAnswered();
    for (const disk of disks) if (disk.changedMoreThan(ratio)) disk.exceedLimit();
    const logger = this.#logger;
    const parts = { hasher, gate, counters, flight, builders };
    const context = { session: this.#session, ...parts, clock, logger, pace: this.#pace };
    const ahead: LayerResult[] = [];
    for (const [index, disk] of disks.entries()) ahead.push(await resyncDisk(context, index, disk));
    return ahead;
  }
}

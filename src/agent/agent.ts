/**
 * The agent: keeps a session to a process server while it runs, and makes a recovery point every interval or on demand.
 *
 * Its life is one loop: connect (jittered back-off) → open disks → cycles until the session ends → put the sets back → again. Capture
 * never depends on it: writes go on, marked, whatever happens here.
 */
import { Backoff } from '../kit/backoff.ts';
import type { Clock } from '../kit/clock.ts';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { Connection } from '../transport/connection.ts';
import type { OpenDisk } from '../wire/open-disk.ts';
import type { AppAttempt, AppConsistency } from './app-consistency.ts';
import { AppSchedule } from './app-schedule.ts';
import { FlightLog, newCounters, type AgentCounters } from './counters.ts';
import { runCycle, type CycleContext, type CycleOutcome } from './cycle.ts';
import { Gaps, type GapReason } from './gaps.ts';
import { inlineHasher, type BlockHasher } from './hash-blocks.ts';
import { restMs } from './plan.ts';
import { resyncDisk } from './resync-disk.ts';
import { ResyncGate } from './resync-gate.ts';
import type { ResyncReport, ResyncRequest, ResyncWindow } from './resync.ts';
import { BuilderPool } from './sender.ts';
import { lookAnew } from './scan-disk.ts';
import { Session } from './session.ts';

export interface AgentOptions extends Pick<CycleContext, 'disks' | 'cutAll' | 'definition'> {
  readonly machine: string;
  readonly version: string;
  readonly connect: (signal: AbortSignal) => Promise<Connection>;
  /** From one cut to the next, milliseconds: a cycle that took longer is followed at once. After one without a point, all of it is waited. */
  readonly intervalMs: () => number;
  readonly compression: () => OpenDisk['compression'];
  /** What freezes and thaws around the cut of an app-consistent point; default: nothing does, and none is made. */
  readonly app?: AppConsistency;
  /** From one app-consistent point to the next, milliseconds; default and null: only when asked for. */
  readonly appEveryMs?: () => number | null;
  /** When a resync may read the disk and send; default: always. */
  readonly resyncWindow?: () => ResyncWindow;
  /** Share of a disk (0 to 1) above which the changes of a cycle wait for the resync window; default 0.5, Infinity: never. */
  readonly resyncAtDirtyRatio?: () => number;
  /** Why no points are to be made now, or null (the default); what changes is captured all the same. Looked at again every second. */
  readonly hold?: () => string | null;
  /** Called between pieces of hashing and sending with their bytes; resolves when the next may begin. Default: at once. */
  readonly pace?: (bytes: number) => Promise<void>;
  /** Hashes what has to be compared; default: on this thread. */
  readonly hasher?: BlockHasher;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

export interface DiskReport {
  readonly disk: string;
  readonly size: number;
  /** Changed and not committed, by page masks. Null: not known, because nobody tells what changes on a disk that is captured by comparison. */
  readonly lagBytes: number | null;
  readonly newestPoint: number | null;
  /** Null: none is due. From the moment it is due until its point is committed. */
  readonly resync: ResyncReport | null;
  /** Why there is no change log now, or null: a crash costs a comparison by checksum. */
  readonly logFailure: string | null;
}

export interface AgentReport {
  readonly machine: string;
  readonly state: 'connecting' | 'opening' | 'idle' | 'cycling' | 'paused' | 'stopped' | 'critical';
  /** Why it is critical or paused, or why the last attempt failed; and what can be done about it, where that is known. */
  readonly reason: string;
  readonly remedy: string;
  readonly lastPoint: { readonly point: number; readonly cutTimeMs: number; readonly writes: readonly number[] } | null;
  readonly disks: readonly DiskReport[];
  /** Payload sent and not known to be durable. */
  readonly inFlightBytes: number;
  readonly counters: AgentCounters;
  /** Points that were due and not made, by reason, since the agent started. */
  readonly gaps: ReadonlyMap<GapReason, number>;
}

const untroubled: Pick<AgentReport, 'reason' | 'remedy'> = { reason: '', remedy: '' };

export class Agent {
  readonly #options: AgentOptions;
  readonly #counters = newCounters();
  readonly #flight = new FlightLog(this.#counters);
  readonly #builders = new BuilderPool();
  readonly #gaps = new Gaps();
  readonly #appSchedule: AppSchedule;
  readonly #stop = new AbortController();
  readonly #instance: string;
  #state: AgentReport['state'] = 'connecting';
  #trouble = untroubled;
  #lastPoint: AgentReport['lastPoint'] = null;
  #session: Session | null = null;
  #wake: (() => void) | null = null;
  /** A cycle was asked for while one ran. */
  #requested = false;
  readonly #resyncGate: ResyncGate;
  readonly #hasher: BlockHasher;
  readonly #pace: NonNullable<AgentOptions['pace']>;
  readonly #backoff: Backoff;

  constructor(options: AgentOptions) {
    this.#options = options;
    this.#appSchedule = new AppSchedule(options.clock, options.appEveryMs ?? (() => null));
    this.#pace = (bytes) => this.#whileHeld().then(() => options.pace?.(bytes));
    this.#resyncGate = new ResyncGate({
      window: options.resyncWindow ?? (() => ({ open: true })),
      clock: options.clock,
      pause: async (ms) => {
        this.#state = 'idle';
        this.#gaps.waitedForWindow();
        if (this.#session) await this.#pause(this.#session, ms);
        this.#state = 'cycling';
      },
    });
    this.#hasher = options.hasher ?? inlineHasher(options.clock);
    this.#instance = options.random.bytes(16).toString('hex');
    const { reconnectBaseMs, reconnectMaxMs } = limits.agent;
    this.#backoff = new Backoff({ baseMs: reconnectBaseMs, maxMs: reconnectMaxMs, random: options.random });
  }

  /**
   * Runs until `stop`. A final refusal (authentication, another replica's geometry, …) makes it `critical`: it goes on capturing, and asks
   * again only every few minutes, because the reason may be mended at the other end and a restart would take the machine's disk away.
   */
  async run(): Promise<void> {
    const { clock, logger } = this.#options;
    while (!this.#stopped()) {
      const ended = await this.#runSession();
      if (this.#stopped()) break;
      this.#trouble = { reason: `${ended.code}: ${ended.message}`, remedy: ended.remedy };
      this.#state = ended.retryable ? 'connecting' : 'critical';
      const delayMs = ended.retryable ? this.#backoff.nextMs() : limits.agent.criticalRetryMs;
      const facts = { code: ended.code, remedy: ended.remedy, delayMs: Math.round(delayMs) };
      if (ended.retryable) logger.warn(facts, `session ended: ${ended.message}`);
      else logger.error(facts, `replication stopped: ${ended.message}`);
      await clock.sleep(delayMs, this.#stop.signal).catch(() => undefined);
    }
    this.#state = 'stopped';
  }

  /** Makes the next point now, or right after the cycle that runs; app-consistent, if asked for and possible. */
  requestCycle(want: { readonly app?: boolean } = {}): void {
    if (want.app === true) this.#appSchedule.ask();
    if (this.#wake) this.#wake();
    else this.#requested = true;
  }

  /**
   * Compares every block of these disks with their replicas, in the resync window or now. Done when no disk reports a resync any more. One that is
   * due or under way is not begun again; `now` lets it go on at once.
   */
  requestResync({ disks, now }: ResyncRequest): void {
    const chosen = this.#options.disks.filter(({ name }) => disks === undefined || disks.includes(name));
    for (const disk of chosen) disk.requestResync();
    this.#resyncGate.override ||= now;
    this.requestCycle();
  }

  /** Ends the session and the loop; `run` resolves. Idempotent. */
  stop(): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    this.#options.app?.stop();
    this.#session?.end(new Problem('shutting-down', 'the agent is stopping', { retryable: true }));
    this.#wake?.();
  }

  report(): AgentReport {
    return {
      machine: this.#options.machine,
      state: this.#state,
      ...this.#trouble,
      lastPoint: this.#lastPoint,
      disks: this.#options.disks.map((disk) => ({
        disk: disk.name,
        size: disk.capture.geometry.size,
        lagBytes: disk.capture.tracking === 'scan' ? null : disk.capture.uncommittedBytes,
        newestPoint: disk.committedPoint,
        resync: disk.resync,
        logFailure: disk.capture.logFailure,
      })),
      inFlightBytes: this.#flight.payloadBytes,
      counters: this.#counters,
      gaps: this.#gaps.totals,
    };
  }

  #stopped(): boolean {
    return this.#stop.signal.aborted;
  }

  /** One session from connect to its end; resolves with why it ended. */
  async #runSession(): Promise<Problem> {
    const { clock, connect, disks, machine, version, compression, logger } = this.#options;
    try {
      for (const disk of disks) await disk.mend();
      const connection = await connect(this.#stop.signal);
      if (this.#state !== 'critical') this.#state = 'opening';
      const session = await Session.open({
        connection,
        machine,
        version,
        instance: this.#instance,
        disks,
        compression: compression(),
        clock,
        signal: this.#stop.signal,
        events: {
          durable: (disk, message) => {
            this.#flight.durable(disk, message);
          },
          surprise: (disk, reason) => {
            logger.error({ disk }, `${reason}; the disk is compared with its replica`);
          },
        },
      });
      this.#session = session;
      if (this.#stopped()) throw new Problem('shutting-down', 'the agent is stopping', { retryable: true });
      this.#counters.sessions += 1;
      this.#gaps.sessionOpened(clock.wallMs(), session.newestCutMs);
      logger.info({ epoch: session.epoch, disks: disks.map((disk) => disk.name) }, 'session open');
      return await this.#cycles(session);
    } catch (error) {
      if (isProblem(error)) return error;
      logger.error({ error: error instanceof Error ? error.stack : String(error) }, 'a cycle failed unexpectedly');
      return new Problem('internal', messageOf(error), { retryable: true, cause: error });
    } finally {
      this.#session?.end(new Problem('shutting-down', 'the session is over', { retryable: true }));
      this.#session = null;
      this.#flight.sessionEnded();
      this.#gaps.sessionEnded(clock.wallMs());
      for (const disk of disks) disk.sessionEnded();
    }
  }

  async #cycles(session: Session): Promise<Problem> {
    const { disks, cutAll, clock, app, definition = () => null, resyncAtDirtyRatio } = this.#options;
    // Once per session: a race with `ended` per pause would leave a reaction behind each time.
    void session.ended.then(() => this.#wake?.());
    while (!session.isOver) {
      await this.#whileHeld();
      for (const disk of disks) disk.beginRequested();
      if (disks.some((disk) => disk.reopeningDue))
        return new Problem('closed', 'opened anew, so that disks are compared', { retryable: true });
      this.#requested = false;
      this.#state = 'cycling';
      const unreadable = await this.#lookAnew(session);
      if (disks.some((disk) => disk.reopeningDue))
        return new Problem('closed', 'opened anew, because a disk grew', { retryable: true });
      if (unreadable !== null) {
        this.#note({ kind: 'given-up', cause: 'other', reason: unreadable });
        await this.#rest(session);
        continue;
      }
      const ratio = resyncAtDirtyRatio?.() ?? 0.5;
      for (const disk of disks) if (disk.changedMoreThan(ratio)) disk.exceedLimit();
      await this.#resync(session);
      this.#state = 'cycling';
      for (const gap of this.#gaps.take()) await session.sendGap(gap);
      const attempt = app && this.#appSchedule.isDue ? app.attempt(cutAll) : null;
      const outcome = await runCycle({
        session,
        disks,
        cutAll: attempt?.cutAll ?? cutAll,
        evidence: () => attempt?.evidence ?? null,
        definition,
        counters: this.#counters,
        flight: this.#flight,
        clock,
        builders: this.#builders,
        pace: this.#pace,
      }).finally(() => {
        if (attempt) this.#noteAttempt(attempt);
      });
      if (attempt && outcome.kind === 'committed') this.#appSchedule.tried(attempt.evidence !== null);
      const end = this.#note(outcome);
      if (end) return end;
      if (session.wantsRecycling)
        return new Problem('closed', 'the connection carried its share and is opened anew', { retryable: true });
      await this.#rest(session);
    }
    return session.ended;
  }

  /** Whatever became of its cycle; one whose cut was not reached was none. */
  #noteAttempt(attempt: AppAttempt): void {
    const { clock, logger } = this.#options;
    if (attempt.failure === null && attempt.evidence === null) return;
    this.#appSchedule.tried(false);
    if (attempt.failure === null) return;
    logger.warn({ reason: attempt.failure }, 'a point is not app-consistent');
    this.#gaps.hooksFailed(clock.wallMs(), attempt.failure);
  }

  /** Until the next cycle is due or asked for. */
  async #rest(session: Session): Promise<void> {
    this.#state = 'idle';
    const { clock, intervalMs } = this.#options;
    const cutMs = this.#trouble === untroubled ? this.#lastPoint?.cutTimeMs : undefined;
    if (!this.#requested) await this.#pause(session, restMs(intervalMs(), cutMs, clock.wallMs()));
  }

  /** Why the source of a disk can not be read at present, or null. */
  async #lookAnew(session: Session): Promise<string | null> {
    const { disks, clock } = this.#options;
    const context = { session, hasher: this.#hasher, clock, pace: this.#pace, counters: this.#counters };
    try {
      for (const disk of disks) await lookAnew(context, disk);
      return null;
    } catch (error) {
      if (session.isOver || !isProblem(error) || !error.retryable) throw error;
      for (const disk of disks) disk.capture.giveUp();
      return `${error.message}${error.remedy ? `: ${error.remedy}` : ''}`;
    }
  }

  /** Until cycles may go on. */
  async #resync(session: Session): Promise<void> {
    const { disks, clock, logger } = this.#options;
    const context = {
      session,
      hasher: this.#hasher,
      gate: this.#resyncGate,
      clock,
      logger,
      pace: this.#pace,
      counters: this.#counters,
    };
    for (const [index, disk] of disks.entries()) await resyncDisk(context, index, disk);
  }

  /** Logs the outcome; a Problem when the session has to end. */
  #note(outcome: CycleOutcome): Problem | null {
    const { clock, intervalMs, logger } = this.#options;
    switch (outcome.kind) {
      case 'committed':
        this.#gaps.committed(outcome.cut.cutTimeMs, intervalMs());
        this.#trouble = untroubled;
        this.#backoff.reset();
        if (this.#options.disks.every((disk) => disk.resync === null)) this.#resyncGate.override = false;
        this.#lastPoint = { point: outcome.point, cutTimeMs: outcome.cut.cutTimeMs, writes: outcome.cut.writes };
        logger.info(
          {
            point: outcome.point,
            cutTimeMs: outcome.cut.cutTimeMs,
            writes: outcome.cut.writes,
            heldMs: outcome.cut.heldMs,
            payloadBytes: outcome.payloadBytes,
          },
          'point committed',
        );
        return null;
      case 'given-up':
        logger.warn({ reason: outcome.reason }, 'cut given up');
        this.#trouble = { reason: outcome.reason, remedy: '' };
        this.#gaps.cutFailed(clock.wallMs(), outcome.cause, outcome.reason, intervalMs());
        return null;
      case 'rejected':
        this.#gaps.cutFailed(clock.wallMs(), 'other', `rejected: ${outcome.reason}`, intervalMs());
        return new Problem(
          outcome.retryable ? 'store-failed' : outcome.reason,
          `point rejected (${outcome.reason}, disk ${outcome.disk}): ${outcome.detail}`,
          { retryable: outcome.retryable },
        );
    }
  }

  /** Until nothing holds replication, or the session is over. */
  async #whileHeld(): Promise<void> {
    const [session, before] = [this.#session, this.#state];
    const { hold = () => null } = this.#options;
    for (let reason = hold(); reason !== null && session?.isOver === false; reason = hold()) {
      this.#state = 'paused';
      this.#trouble = { reason, remedy: '' };
      this.#gaps.wasPaused();
      await this.#pause(session, limits.agent.holdPollMs);
      this.#trouble = untroubled;
      this.#state = before;
    }
  }

  async #pause(session: Session, ms: number): Promise<void> {
    const { clock } = this.#options;
    const woken = Promise.withResolvers<undefined>();
    this.#wake = () => {
      woken.resolve(undefined);
    };
    const timer = clock.after(ms, () => {
      woken.resolve(undefined);
    });
    if (session.isOver) woken.resolve(undefined);
    await woken.promise;
    timer.cancel();
    this.#wake = null;
  }
}

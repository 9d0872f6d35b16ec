/**
 * The agent: keeps a session to a process server while it runs, and makes a recovery point every interval or on demand.
 *
 * Its life is one loop: connect (quick tries, then longer and longer pauses) → open disks → cycles (`cycles.ts`) until the session ends → put the
 * sets back → again. Capture never depends on it: writes go on, marked, whatever happens here.
 */
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import { RetrySchedule } from '../kit/retry-schedule.ts';
import { limits } from '../limits.ts';
import type { Rejected } from '../wire/rejected.ts';
import { AppSchedule } from './app-schedule.ts';
import { newCounters, type AgentCounters } from './counters.ts';
import { Cycles, type CycleParts } from './cycles.ts';
import { FlightLog } from './flight-log.ts';
import { FlowMeter, type AgentFlow } from './flow.ts';
import { Gaps, type GapReason } from './gaps.ts';
import { inlineHasher } from './hash-blocks.ts';
import type { AgentOptions } from './options.ts';
import { Pauses } from './pauses.ts';
import { PointsInFlight, type Answered } from './points-in-flight.ts';
import { ResyncGate } from './resync-gate.ts';
import type { ResyncReport, ResyncRequest } from './resync.ts';
import { BuilderPool } from './sender.ts';
import { Session } from './session.ts';
import { Standing, untroubled, type AgentState, type LastPoint } from './standing.ts';

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
  readonly state: AgentState;
  /** Why it is critical or paused, or why the last attempt failed; and what can be done about it, where that is known. */
  readonly reason: string;
  readonly remedy: string;
  readonly lastPoint: LastPoint | null;
  readonly disks: readonly DiskReport[];
  /** Payload sent and not known to be durable. */
  readonly inFlightBytes: number;
  readonly counters: AgentCounters;
  readonly flow: AgentFlow;
  /** Points that were due and not made, by reason, since the agent started. */
  readonly gaps: ReadonlyMap<GapReason, number>;
}

export class Agent {
  readonly #options: AgentOptions;
  readonly #parts: CycleParts;
  readonly #standing = new Standing();
  readonly #counters = newCounters();
  readonly #flight: FlightLog;
  readonly #flow: FlowMeter;
  readonly #gaps = new Gaps();
  readonly #appSchedule: AppSchedule;
  readonly #pauses: Pauses;
  readonly #gate: ResyncGate;
  readonly #stop = new AbortController();
  /** Ends the pause before the next try. */
  #tryNow: AbortController | null = null;
  readonly #instance: string;
  #session: Session | null = null;
  #points: PointsInFlight;
  /** What the session ended with. */
  #rejected: Rejected | null = null;
  readonly #retries: RetrySchedule;
  #retry: AgentFlow['retry'] = null;

  constructor(options: AgentOptions) {
    const { clock, random } = options;
    this.#options = options;
    this.#appSchedule = new AppSchedule(clock, options.appEveryMs ?? (() => null));
    this.#flight = new FlightLog(this.#counters, clock);
    this.#flow = new FlowMeter(options.disks, this.#flight, this.#counters);
    this.#pauses = new Pauses(clock);
    this.#points = new PointsInFlight(clock, this.#counters);
    this.#gate = new ResyncGate({
      window: options.resyncWindow ?? (() => ({ open: true })),
      clock,
      pause: async (ms) => {
        this.#standing.state = 'idle';
        this.#gaps.waitedForWindow();
        const session = this.#session;
        if (session) await this.#pauses.pause(ms, () => session.isOver);
        this.#standing.state = 'cycling';
      },
    });
    this.#parts = {
      options,
      standing: this.#standing,
      counters: this.#counters,
      flight: this.#flight,
      builders: new BuilderPool(),
      gaps: this.#gaps,
      appSchedule: this.#appSchedule,
      gate: this.#gate,
      hasher: options.hasher ?? inlineHasher(clock),
      pauses: this.#pauses,
    };
    this.#instance = random.bytes(16).toString('hex');
    const { reconnectBaseMs, reconnectMaxMs, reconnectQuicklyMs, retryMinutesDefault } = limits.agent;
    this.#retries = new RetrySchedule({
      quickBaseMs: reconnectBaseMs,
      quickMaxMs: reconnectMaxMs,
      quickForMs: reconnectQuicklyMs,
      slowMs: (options.retryMinutes ?? retryMinutesDefault).map((minutes) => minutes * 60_000),
      random,
    });
  }

  /**
   * Runs until `stop`. A final refusal (authentication, another replica's geometry, …) makes it `critical`: it goes on capturing, and asks
   * again only every few minutes, because the reason may be mended at the other end and a restart would take the machine's disk away.
   */
  async run(): Promise<void> {
    while (!this.#stopped()) {
      const ended = await this.#runSession();
      if (this.#stopped()) break;
      this.#options.onEnded?.(ended);
      await this.#pauseAfter(ended);
    }
    this.#standing.state = 'stopped';
  }

  /** Makes the next point now, or right after the cycle that runs; app-consistent, if asked for and possible. Who waits for his next try tries now. */
  requestCycle(want: { readonly app?: boolean } = {}): void {
    if (want.app === true) this.#appSchedule.ask();
    this.#pauses.ask();
    this.#tryNow?.abort();
  }

  /**
   * Compares every block of these disks with their replicas, in the resync window or now. Done when no disk reports a resync any more. One that is
   * due or under way is not begun again; `now` lets it go on at once.
   */
  requestResync({ disks, now }: ResyncRequest): void {
    const chosen = this.#options.disks.filter(({ name }) => disks === undefined || disks.includes(name));
    for (const disk of chosen) disk.requestResync();
    this.#gate.override ||= now;
    this.requestCycle();
  }

  /** Ends the session and the loop; `run` resolves. Idempotent. */
  stop(): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    this.#options.app?.stop();
    this.#session?.end(new Problem('shutting-down', 'the agent is stopping', { retryable: true }));
    this.#pauses.news();
    this.#tryNow?.abort();
  }

  report(): AgentReport {
    const { clock, disks, machine } = this.#options;
    const { state, trouble, lastPoint, stages, nextCutMs } = this.#standing;
    const nextAppMs = this.#appSchedule.dueInMs;
    return {
      machine,
      state,
      ...trouble,
      lastPoint,
      disks: disks.map((disk) => ({
        disk: disk.name,
        size: disk.capture.geometry.size,
        lagBytes: disk.capture.tracking === 'scan' ? null : disk.capture.uncommittedBytes,
        newestPoint: disk.committedPoint,
        resync: disk.resync,
        logFailure: disk.capture.logFailure,
      })),
      inFlightBytes: this.#flight.payloadBytes,
      counters: this.#counters,
      flow: {
        pointsInFlight: this.#points.count,
        cycle: stages,
        open: this.#points.open,
        ...this.#flow.measured(clock.monotonicMs()),
        retry: this.#retry,
        nextCutMs,
        nextAppPointMs: nextAppMs === null ? null : clock.wallMs() + nextAppMs,
      },
      gaps: this.#gaps.totals,
    };
  }

  #stopped(): boolean {
    return this.#stop.signal.aborted;
  }

  async #pauseAfter(ended: Problem): Promise<void> {
    const { clock, logger } = this.#options;
    const { criticalRetryMs } = limits.agent;
    const critical = `${ended.remedy ? `${ended.remedy}; ` : ''}it is asked again every ${criticalRetryMs / 60_000} minutes`;
    const remedy = ended.retryable ? ended.remedy : critical;
    this.#standing.trouble = { reason: `${ended.code}: ${ended.message}`, remedy };
    this.#standing.state = ended.retryable ? 'connecting' : 'critical';
    const { delayMs, phase } = ended.retryable
      ? this.#retries.next()
      : { delayMs: criticalRetryMs, phase: 'critical' as const };
    const facts = { code: ended.code, remedy, delayMs: Math.round(delayMs) };
    if (ended.retryable) logger.warn(facts, `session ended: ${ended.message}`);
    else logger.error(facts, `replication stopped: ${ended.message}`);
    this.#retry = { atMs: clock.wallMs() + delayMs, class: phase };
    this.#tryNow = new AbortController();
    await clock.sleep(delayMs, this.#tryNow.signal).catch(() => undefined);
    this.#tryNow = null;
    this.#retry = null;
  }

  /** One session from connect to its end; resolves with why it ended. */
  async #runSession(): Promise<Problem> {
    const { clock, disks, logger } = this.#options;
    let openedMs: number | null = null;
    try {
      for (const disk of disks) await disk.mend();
      const session = await this.#openSession();
      openedMs = clock.monotonicMs();
      return await new Cycles(this.#parts, session, this.#points).run();
    } catch (error) {
      if (isProblem(error)) return error;
      logger.error({ error: error instanceof Error ? error.stack : String(error) }, 'a cycle failed unexpectedly');
      return new Problem('internal', messageOf(error), { retryable: true, cause: error });
    } finally {
      this.#session?.end(new Problem('shutting-down', 'the session is over', { retryable: true }));
      this.#session = null;
      if (openedMs !== null && clock.monotonicMs() - openedMs >= limits.agent.sessionGoodMs) this.#retries.reset();
      this.#standing.nextCutMs = null;
      this.#flight.sessionEnded();
      this.#gaps.sessionEnded(clock.wallMs());
      for (const disk of disks) disk.sessionEnded();
      if (this.#rejected?.reason === 'root-mismatch') disks[this.#rejected.disk]?.distrustLeaves();
      this.#rejected = null;
    }
  }

  async #openSession(): Promise<Session> {
    const { clock, connect, disks, machine, version, compression, logger } = this.#options;
    const connection = await connect(this.#stop.signal);
    if (this.#standing.state !== 'critical') this.#standing.state = 'opening';
    const points = new PointsInFlight(clock, this.#counters);
    this.#points = points;
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
        durable: (message) => {
          this.#flight.durable(message);
          points.durableBelow(this.#flight.oldestSeq);
        },
        committed: (message) => this.#committed(points.committed(message)),
        rejected: (message) => {
          points.rejected();
          return this.#refused(message);
        },
        surprise: (disk, reason) => {
          logger.error({ disk }, `${reason}; the disk is compared with its replica`);
        },
      },
    });
    this.#session = session;
    // Once per session: a race with `ended` per pause would leave a reaction behind each time.
    void session.ended.then((why) => {
      if (points.app) this.#appSchedule.lost();
      points.end(why);
      this.#pauses.news();
    });
    if (this.#stopped()) throw new Problem('shutting-down', 'the agent is stopping', { retryable: true });
    this.#counters.sessions += 1;
    this.#gaps.sessionOpened(clock.wallMs(), session.newestCutMs);
    logger.info({ epoch: session.epoch, disks: disks.map((disk) => disk.name) }, 'session open');
    return session;
  }

  /** May come at any time, also while the next cycle runs. */
  #committed({ point, sent, stages, merged }: Answered): void {
    const { disks, logger } = this.#options;
    const { cut, payloadBytes } = sent;
    const { cutTimeMs, writes, heldMs } = cut;
    for (const disk of disks) disk.committed(point);
    if (disks.every((disk) => disk.resync === null)) this.#gate.override = false;
    this.#counters.pointsCommitted += 1;
    this.#gaps.committed(cutTimeMs);
    this.#standing.trouble = untroubled;
    this.#standing.lastPoint = { point, cutTimeMs, writes };
    this.#standing.stages = stages;
    this.#retries.reset();
    logger.info({ point, cutTimeMs, writes, heldMs, payloadBytes, merged }, 'point committed');
    this.#pauses.news();
  }

  /** Why the session is over. */
  #refused(message: Rejected): Problem {
    const { clock, disks, intervalMs } = this.#options;
    const { reason, disk, detail, retryable } = message;
    this.#rejected = message;
    this.#counters.pointsRejected += 1;
    this.#gaps.cutFailed(clock.wallMs(), 'other', `rejected: ${reason}`, intervalMs());
    const text = `point rejected (${reason}, disk ${disks[disk]?.name ?? disk}): ${detail}`;
    return new Problem(retryable ? 'store-failed' : reason, text, { retryable });
  }
}

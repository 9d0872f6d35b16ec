/**
 * A process server: takes agent connections from a listener, keeps one session per machine, and what they share: the pool, the slabs,
 * the budget. It holds no truth (DESIGN §1): killing it loses nothing that was acknowledged.
 */
import type { Clock } from '../kit/clock.ts';
import { Credit } from '../kit/credit.ts';
import { Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { Connection } from '../transport/connection.ts';
import { wireCodeOf } from '../wire/codes.ts';
import { Budget } from './budget.ts';
import { addCounters, newCounters, type SessionCounters } from './counters.ts';
import type { Delivery } from './delivery.ts';
import type { DeliveryParts } from './delivery-parts.ts';
import { Drains } from './drains.ts';
import type { Sealer } from './pool.ts';
import { Session, type SessionOptions, type SessionPhase } from './session.ts';
import { Slabs } from './slabs.ts';
import { Spool, type SpoolOptions } from './spool.ts';
import { worse, type MachineSpoolReport, type SpoolReport } from './spool-report.ts';
import type { Admission, ConnectTarget } from './target-link.ts';
import { unthrottled, type Throttle } from './throttle.ts';
import type { HeadWaits } from './waits.ts';

export interface ProcessServerOptions {
  readonly connectTarget: ConnectTarget;
  readonly sealer: Sealer;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly version: string;
  readonly budget?: Budget;
  readonly comparisonRoom?: Credit;
  /** Default: none, and a session ends with its target. */
  readonly spool?: SpoolOptions | null;
  /** Default: no leases. */
  readonly admission?: Admission;
  /** Default: no limits. */
  readonly throttle?: Throttle;
}

/** The newest attempt to reach the target, which failed. */
export interface TargetFailure {
  /** Wall clock. */
  readonly atMs: number;
  readonly problem: Problem;
}

export interface SessionReport {
  readonly machine: string;
  readonly session: string;
  readonly phase: SessionPhase;
  readonly windowBytes: number;
  readonly counters: Readonly<SessionCounters>;
}

const instanceBytes = 16;

export class ProcessServer {
  readonly #options: ProcessServerOptions;
  readonly #sessionOptions: SessionOptions;
  readonly #budget: Budget;
  readonly #spool: Spool | null;
  readonly #drains: Drains;
  readonly #sessions = new Set<Session>();
  /** The session of each machine that said HELLO. */
  readonly #byMachine = new Map<string, Session>();
  /** Sums over ended sessions, least recently ended first. Bounded by `machinesRememberedMax`. */
  readonly #past = new Map<string, SessionCounters>();
  readonly #ended = new Map<string, number>();
  #targetFailure: TargetFailure | null = null;
  #closing = false;

  constructor(options: ProcessServerOptions) {
    this.#options = options;
    this.#budget = options.budget ?? new Budget();
    const { connectTarget, sealer, clock, random, logger, version } = options;
    this.#spool = options.spool ? new Spool(options.spool, { clock, random, logger }) : null;
    const delivery: DeliveryParts = {
      connectTarget,
      admission: options.admission ?? (() => Promise.resolve(null)),
      throttle: options.throttle ?? unthrottled,
      spool: this.#spool,
      slabs: new Slabs(),
      clock,
      random,
      logger,
      version,
      instance: random.bytes(instanceBytes).toString('hex'),
      onTarget: (problem) => {
        this.#targetFailure = problem && { atMs: clock.wallMs(), problem };
      },
    };
    this.#drains = new Drains(delivery, (machine, counters) => this.#remember(machine, counters));
    this.#sessionOptions = {
      delivery,
      sealer,
      comparisonRoom: options.comparisonRoom ?? new Credit(limits.processServer.comparisonBytesMax),
      budget: this.#budget,
      onNamed: (session) => this.#onNamed(session),
      admitted: (machine) => this.#drains.admitted(machine),
      onEnded: (session, reason, way) => this.#onEnded(session, reason, way),
    };
  }

  /** Takes over a connection a listener authenticated. Call it synchronously from the listener's callback. */
  accept(connection: Connection): void {
    const session = new Session(connection, this.#sessionOptions);
    this.#sessions.add(session);
    if (this.#closing) session.end(shuttingDown());
  }

  get sessions(): SessionReport[] {
    return [...this.#sessions].map((session) => ({
      machine: session.machine,
      session: session.id,
      phase: session.phase,
      windowBytes: session.windowBytes,
      counters: session.counters,
    }));
  }

  /** Bytes granted to all agents together, in use or not. */
  get grantedBytes(): number {
    return this.#budget.inUseBytes;
  }

  /** What `grantedBytes` never exceeds. */
  get windowLimitBytes(): number {
    return this.#budget.limitBytes;
  }

  /** Set while the newest attempt to reach the target failed; null also while there was none. */
  get targetFailure(): TargetFailure | null {
    return this.#targetFailure;
  }

  /** For `/readyz`: an agent that comes now would be turned away as long as the target can not be reached. */
  get readiness(): { readonly ready: boolean; readonly reasons: readonly string[] } {
    const failure = this.#targetFailure;
    if (!failure) return { ready: true, reasons: [] };
    return { ready: false, reasons: [`since ${new Date(failure.atMs).toISOString()}: ${failure.problem.message}`] };
  }

  /** Batches with the pool. */
  get poolPending(): number {
    return this.#options.sealer.pending;
  }

  /** Sessions ended so far by reason; `left`: the agent went on its own. */
  get endedByReason(): ReadonlyMap<string, number> {
    return this.#ended;
  }

  /** Per machine: everything its sessions counted, ended ones included. */
  totals(): Map<string, SessionCounters> {
    const totals = new Map<string, SessionCounters>();
    const add = (machine: string, counters: SessionCounters): void => {
      const sum = totals.get(machine) ?? newCounters();
      addCounters(sum, counters);
      totals.set(machine, sum);
    };
    for (const [machine, counters] of this.#past) add(machine, counters);
    for (const session of this.#sessions)
      if (this.#byMachine.get(session.machine) === session) add(session.machine, session.counters);
    for (const [machine, counters] of this.#drains.counters) add(machine, counters);
    return totals;
  }

  /** Ends what there is of a machine, and drops what is spooled of it: its lease was lost. */
  endMachine(machine: string, reason: Problem): void {
    const session = this.#byMachine.get(machine);
    void session?.delivery?.end(reason, 'dropped');
    session?.end(reason);
    this.#drains.end(machine, reason, 'dropped');
  }

  spoolReport(): SpoolReport {
    const machines = this.#deliveries()
      .map(({ report }) => report)
      .filter(isWorthTelling);
    const { usedBytes, limitBytes, level } = this.#spool ?? { usedBytes: 0, limitBytes: 0, level: 'ok' as const };
    return {
      usedBytes,
      limitBytes,
      level: machines.reduce((worst, each) => worse(worst, each.level), level),
      machines,
    };
  }

  /** What the head of the machine's session waited for; null: it has none. */
  waits(machine: string): HeadWaits | null {
    const delivery = this.#deliveries().find((each) => each.machine === machine);
    return delivery?.waits.report() ?? null;
  }

  /**
   * Ends all sessions, retryable: agents go to another process server or come back. What is spooled stays for the next start. New connections are turned
   * away. Idempotent.
   */
  close(): void {
    this.#closing = true;
    for (const session of this.#sessions) session.end(shuttingDown());
    this.#drains.close(shuttingDown());
    this.#spool?.close();
  }

  /** Resolves when no file of the spool is in use any more; after `close`, or before it, of machines that were ended. */
  settled(): Promise<void> {
    return this.#drains.settled();
  }

  /** Of the sessions, then those without an agent. */
  #deliveries(): Delivery[] {
    const ofSessions = [...this.#byMachine.values()].flatMap(({ delivery }) => (delivery ? [delivery] : []));
    return [...ofSessions, ...this.#drains.deliveries];
  }

  #onNamed(session: Session): void {
    const older = this.#byMachine.get(session.machine);
    this.#byMachine.set(session.machine, session);
    older?.end(new Problem('superseded', 'the same machine connected again', { retryable: true }));
  }

  #onEnded(session: Session, reason: Problem | null, delivery: Delivery | null): void {
    this.#sessions.delete(session);
    // A peer's code could be anything; a metric's label may not.
    const name = reason === null ? 'left' : wireCodeOf(reason);
    this.#ended.set(name, (this.#ended.get(name) ?? 0) + 1);
    const { machine, counters } = session;
    if (this.#byMachine.get(machine) === session) this.#byMachine.delete(machine);
    if (delivery) {
      const why = reason ?? new Problem('closed', 'the agent left', { retryable: true });
      this.#drains.take(delivery, why, this.#closing ? 'kept' : 'dropped');
    }
    this.#remember(machine, counters);
  }

  #remember(machine: string, counters: SessionCounters): void {
    if (counters.targetBytesOut === 0) return;
    const sum = this.#past.get(machine) ?? newCounters();
    this.#past.delete(machine);
    addCounters(sum, { ...counters, inFlightBytes: 0, sealing: 0 });
    this.#past.set(machine, sum);
    if (this.#past.size <= limits.processServer.machinesRememberedMax) return;
    const oldest = this.#past.keys().next();
    if (oldest.done !== true) this.#past.delete(oldest.value);
  }
}

/** Something is on disk, or its target is away. */
function isWorthTelling({ bytes, targetSinceMs, failure }: MachineSpoolReport): boolean {
  return bytes > 0 || targetSinceMs === null || failure !== null;
}

function shuttingDown(): Problem {
  return new Problem('shutting-down', 'the process server is shutting down', { retryable: true });
}

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
import type { Files } from '../posix/files.ts';
import type { Connection } from '../transport/connection.ts';
import { wireCodeOf } from '../wire/codes.ts';
import { Budget } from './budget.ts';
import { addCounters, newCounters, type SessionCounters } from './counters.ts';
import type { Sealer } from './pool.ts';
import { Session, type ConnectTarget, type SessionOptions, type SessionPhase } from './session.ts';
import { Slabs } from './slabs.ts';
import type { SpoolReport } from './spool-report.ts';
import type { Throttle } from './throttle.ts';
import type { HeadWaits } from './waits.ts';

/** Where what targets do not take waits on disk (SPOOL.md). One process server has a directory for itself. */
export interface SpoolOptions {
  readonly directory: string;
  readonly bytesMax: number;
  readonly files: Files;
}

/**
 * Whose epoch a machine's connection to its target claims (HELLO `lease`); null: there are no leases. Asked before each attempt. Rejects with Problem
 * `not-owner` when another process server holds the machine.
 */
export type Admission = (machine: string) => Promise<{ readonly epoch: number } | null>;

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
    this.#sessionOptions = {
      connectTarget,
      sealer,
      clock,
      random,
      logger,
      version,
      slabs: new Slabs(),
      comparisonRoom: options.comparisonRoom ?? new Credit(limits.processServer.comparisonBytesMax),
      budget: this.#budget,
      instance: random.bytes(instanceBytes).toString('hex'),
      onNamed: (session) => this.#onNamed(session),
      onEnded: (session, reason) => this.#onEnded(session, reason),
      onTarget: (problem) => {
        this.#targetFailure = problem && { atMs: clock.wallMs(), problem };
      },
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
    return totals;
  }

  /** Ends what there is of a machine, and drops what is spooled of it: its lease was lost. */
  endMachine(machine: string, reason: Problem): void {
    this.#byMachine.get(machine)?.end(reason);
  }

  spoolReport(): SpoolReport {
    return { usedBytes: 0, limitBytes: 0, level: 'ok', machines: [] };
  }

  /** What the head of the machine's session waited for; null: it has none. */
  waits(machine: string): HeadWaits | null {
    return this.#byMachine.has(machine) ? null : null;
  }

  /** Ends all sessions, retryable: agents go to another process server or come back. New connections are turned away. Idempotent. */
  close(): void {
    this.#closing = true;
    for (const session of this.#sessions) session.end(shuttingDown());
  }

  #onNamed(session: Session): void {
    const older = this.#byMachine.get(session.machine);
    this.#byMachine.set(session.machine, session);
    older?.end(new Problem('superseded', 'the same machine connected again', { retryable: true }));
  }

  #onEnded(session: Session, reason: Problem | null): void {
    this.#sessions.delete(session);
    // A peer's code could be anything; a metric's label may not.
    const name = reason === null ? 'left' : wireCodeOf(reason);
    this.#ended.set(name, (this.#ended.get(name) ?? 0) + 1);
    const { machine, counters } = session;
    if (this.#byMachine.get(machine) === session) this.#byMachine.delete(machine);
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

function shuttingDown(): Problem {
  return new Problem('shutting-down', 'the process server is shutting down', { retryable: true });
}

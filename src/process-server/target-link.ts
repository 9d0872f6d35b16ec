/**
 * The connection to a machine's target, in that machine's name, made again as often as its owner wants.
 *
 *   idle ──► connecting ──► welcoming ──WELCOME──► open
 *    ▲  try       │ lost        │ lost              │ lost
 *    └────────────┴── waiting ──┴───────────────────┘              end: from any state, once
 *
 * Invariants:
 *  1. One state; what waits (timer, attempt, connection) lives on it. What a connection says after its state was left is not heard.
 *  2. Each attempt asks for admission anew: a lease may have been lost, or renewed, since (C9).
 *  3. How an attempt or a connection ended is told once, through `lost` or `faulted`; whether to try again is the owner's to say.
 */
import { Backoff } from '../kit/backoff.ts';
import type { Clock, Timer } from '../kit/clock.ts';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import { closeCodes, type Connection } from '../transport/connection.ts';
import { Heartbeat } from '../transport/heartbeat.ts';
import { isWireCode } from '../wire/codes.ts';
import { decodeErrorMessage } from '../wire/error.ts';
import { decodeFrame, frameType, type Frame } from '../wire/frame.ts';
import { encodeHello, protocolVersion } from '../wire/hello.ts';
import { decodeWelcome, type Welcome } from '../wire/welcome.ts';
import { targetFault } from './lane.ts';

/** Opens a connection to the machine's target. Rejects with a Problem, or with the signal's reason. */
export type ConnectTarget = (machine: string, signal: AbortSignal) => Promise<Connection>;

/**
 * Whose epoch a machine's connection to its target claims (HELLO `lease`); null: there are no leases. Asked before each attempt. Rejects with Problem
 * `not-owner` when another process server holds the machine.
 */
export type Admission = (machine: string) => Promise<Lease | null>;

export interface Lease {
  readonly epoch: number;
  /** To be told that the target refused it, and the newest epoch it knows: the next one is to be higher. */
  readonly refused?: (newest: number) => void;
}

export interface TargetLinkOptions {
  readonly machine: string;
  /** 16 random bytes in hex: of the process whose epoch is meant. */
  readonly instance: string;
  readonly features: readonly string[];
  readonly connectTarget: ConnectTarget;
  readonly admission: Admission;
  readonly clock: Clock;
  readonly random: Random;
  /** Of this program. */
  readonly version: string;
  readonly opened: (connection: Connection, welcome: Welcome) => void;
  readonly heard: (frame: Frame) => void;
  /** An attempt failed, the connection closed, or the target said ERROR. */
  readonly lost: (reason: Problem) => void;
  /** What the target said can not be understood, or its owner could make no sense of it. Instead of `lost`. */
  readonly faulted: (error: unknown) => void;
  /** How an attempt to reach the target ended; null: it answered. Who was not admitted made none. */
  readonly onTarget: (failure: Problem | null) => void;
}

type State =
  | { readonly kind: 'idle' }
  | { readonly kind: 'connecting'; readonly abort: AbortController; readonly timer: Timer }
  | { readonly kind: 'welcoming'; readonly connection: Connection; readonly lease: Lease | null; readonly timer: Timer }
  | { readonly kind: 'open'; readonly connection: Connection; readonly sinceMs: number }
  | { readonly kind: 'waiting'; readonly timer: Timer }
  | { readonly kind: 'ended' };

const letGo = new Problem('closed', 'the process server connects anew', { retryable: true });
const unreachable = (message: string): Problem => new Problem('unreachable', message, { retryable: true });

export class TargetLink {
  readonly #options: TargetLinkOptions;
  readonly #backoff: Backoff;
  #state: State = { kind: 'idle' };
  /** Of connections that ended. */
  #past = { in: 0, out: 0 };

  constructor(options: TargetLinkOptions) {
    this.#options = options;
    const { targetRetryBaseMs: baseMs, targetRetryMaxMs: maxMs } = limits.processServer;
    this.#backoff = new Backoff({ baseMs, maxMs, random: options.random });
  }

  get phase(): State['kind'] {
    return this.#state.kind;
  }

  get connection(): Connection | null {
    return this.#state.kind === 'open' ? this.#state.connection : null;
  }

  /** Since when the target is connected, wall clock. */
  get sinceMs(): number | null {
    return this.#state.kind === 'open' ? this.#state.sinceMs : null;
  }

  /** All that went over its connections, bytes. */
  get carried(): { readonly in: number; readonly out: number } {
    const { bytesIn, bytesOut } = 'connection' in this.#state ? this.#state.connection : { bytesIn: 0, bytesOut: 0 };
    return { in: this.#past.in + bytesIn, out: this.#past.out + bytesOut };
  }

  /** Tries at once. */
  connect(): void {
    if (this.#state.kind === 'ended') return;
    const { machine, connectTarget, admission, clock } = this.#options;
    const abort = new AbortController();
    const timer = clock.after(limits.wire.authenticationMs, () =>
      this.#unreached(unreachable('the target did not answer in time')),
    );
    const state: State = { kind: 'connecting', abort, timer };
    this.#enter(state);
    // A connector that throws at once is the same failure as one that rejects.
    const admitted = Promise.resolve().then(() => admission(machine)); // 2
    admitted
      .then(async (lease) => ({ lease, connection: await connectTarget(machine, abort.signal) }))
      .then(
        ({ lease, connection }) => {
          if (this.#state === state) this.#greet(connection, lease, timer);
          else connection.close(closeCodes.normal, 'the agent left');
        },
        async (error: unknown) => {
          // Who was not admitted knows nothing of the target.
          const asked = await admitted.then(
            () => true,
            () => false,
          );
          if (this.#state !== state) return;
          const known = isProblem(error) && isWireCode(error.code);
          const problem = known ? error : unreachable(`the target can not be reached: ${messageOf(error)}`);
          if (asked) this.#unreached(problem);
          else this.#lose(problem);
        },
      );
  }

  /** Tries after a pause that doubles until a connection was opened. */
  retry(): void {
    if (this.#state.kind === 'ended') return;
    this.#enter({ kind: 'waiting', timer: this.#options.clock.after(this.#backoff.nextMs(), () => this.connect()) });
  }

  /** Its owner waits for nothing more from this connection: told as lost, like one that closed. */
  giveUp(reason: Problem): void {
    this.#lose(reason);
  }

  /** It served its purpose: the pauses begin anew. */
  succeeded(): void {
    this.#backoff.reset();
  }

  /** Idempotent. */
  end(reason: Error): void {
    this.#enter({ kind: 'ended' }, reason);
  }

  #enter(next: State, why: Error = letGo): void {
    const state = this.#state;
    if (state.kind === 'ended') return;
    const keeps = 'connection' in next ? next.connection : null;
    this.#state = next;
    if ('timer' in state && !('timer' in next && next.timer === state.timer)) state.timer.cancel();
    if (state.kind === 'connecting' && next.kind !== 'welcoming') state.abort.abort(why);
    if ('connection' in state && state.connection !== keeps) {
      this.#past.in += state.connection.bytesIn;
      this.#past.out += state.connection.bytesOut;
      state.connection.close(closeCodes.normal, why.message);
    }
  }

  #unreached(reason: Problem): void {
    this.#options.onTarget(reason);
    this.#lose(reason);
  }

  #lose(reason: Problem): void {
    if (this.#state.kind === 'ended') return;
    this.#enter({ kind: 'idle' }, reason);
    this.#options.lost(reason); // 3
  }

  #greet(connection: Connection, lease: Lease | null, timer: Timer): void {
    const { machine, instance, features, version, clock } = this.#options;
    this.#enter({ kind: 'welcoming', connection, lease, timer });
    const heartbeat = new Heartbeat(connection, clock);
    connection.onFrame((message) => this.#receive(connection, message, heartbeat));
    void connection.closed.then(({ reason }) => {
      if (!this.#isAt(connection)) return;
      const problem = unreachable(`the target closed the connection: ${reason}`);
      if (this.#state.kind === 'welcoming') this.#unreached(problem);
      else this.#lose(problem);
    });
    const hello = { protocol: [protocolVersion], role: 'process-server' as const, machine, version, instance };
    // A refused send means the target is gone, which `closed` tells.
    connection
      .send(encodeHello({ ...hello, features: [...features], ...(lease ? { lease: { epoch: lease.epoch } } : {}) }))
      .catch(() => undefined);
  }

  #isAt(connection: Connection): boolean {
    return 'connection' in this.#state && this.#state.connection === connection;
  }

  /** What can not be understood, and what its owner can not make sense of, ends the connection. */
  #receive(connection: Connection, message: Buffer, heartbeat: Heartbeat): void {
    if (!this.#isAt(connection)) return; // 1
    try {
      const frame = understood(() => decodeFrame(message));
      if (heartbeat.take(frame)) return;
      understood(() => this.#frame(frame, connection));
    } catch (error) {
      if (!this.#isAt(connection)) return;
      this.#enter({ kind: 'idle' }, error instanceof Error ? error : letGo);
      this.#options.faulted(error);
    }
  }

  #frame(frame: Frame, connection: Connection): void {
    const state = this.#state;
    if (frame.type === frameType.error) {
      if (state.kind === 'welcoming') this.#options.onTarget(null); // Also when it refuses this machine.
      const { code, message, retryable, epoch } = decodeErrorMessage(frame.body);
      if (state.kind === 'welcoming' && epoch !== undefined) state.lease?.refused?.(epoch);
      this.#lose(new Problem(code, message, { retryable }));
      return;
    }
    if (state.kind !== 'welcoming') {
      this.#options.heard(frame);
      return;
    }
    this.#options.onTarget(null);
    if (frame.type !== frameType.welcome) throw targetFault(`type ${frame.type} instead of WELCOME`);
    const welcome = decodeWelcome(frame.body);
    this.#enter({ kind: 'open', connection, sinceMs: this.#options.clock.wallMs() });
    this.#options.opened(connection, welcome);
  }
}

/** What the target sent and can not be understood is not the agent's fault: it may try again. */
function understood<T>(decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    throw isProblem(error) && error.code === 'protocol-error' ? targetFault(error.message) : error;
  }
}

/**
 * One agent connection and the target connection opened for it, in that machine's name.
 *
 *   greeting ──HELLO──► connecting ──connection──► welcoming ──WELCOME──► open ──► ended
 *
 * Invariants:
 *  1. One state; whatever waits (timer, attempt to connect, target, relay) lives on it. `end` is the one way out, from any state,
 *     and does its work once.
 *  2. The certificate decides whose disks these are; a HELLO that says otherwise is refused `not-authorised` (C8).
 *  3. Neither side outlives the other: when one goes, the other is told and closed, retryable.
 *  4. A frame that can not be understood ends the session; nothing of it is acted upon.
 */
import type { Clock, Timer } from '../kit/clock.ts';
import type { Credit } from '../kit/credit.ts';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import { closeCodes, type Connection } from '../transport/connection.ts';
import { Heartbeat } from '../transport/heartbeat.ts';
import { isWireCode, protocolError, wireCodeOf, wireCodes } from '../wire/codes.ts';
import { decodeErrorMessage, encodeErrorMessage } from '../wire/error.ts';
import { decodeFrame, frameHeaderBytes, frameType, type Frame } from '../wire/frame.ts';
import { common } from '../wire/features.ts';
import { decodeHello, encodeHello, protocolVersion, type Hello } from '../wire/hello.ts';
import { decodeWelcome, encodeWelcome, type Welcome } from '../wire/welcome.ts';
import type { Budget, Window } from './budget.ts';
import { newCounters, type SessionCounters } from './counters.ts';
import { targetFault } from './lane.ts';
import type { Sealer } from './pool.ts';
import { Relay } from './relay.ts';
import type { Slabs } from './slabs.ts';

/** Opens a connection to the machine's target. Rejects with a Problem, or with the signal's reason. */
export type ConnectTarget = (machine: string, signal: AbortSignal) => Promise<Connection>;

export interface SessionOptions {
  readonly connectTarget: ConnectTarget;
  readonly sealer: Sealer;
  readonly slabs: Slabs;
  /** Bytes of checksums that may be asked for or compared, all sessions together. */
  readonly comparisonRoom: Credit;
  readonly budget: Budget;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** Version of this program. */
  readonly version: string;
  /** 16 random bytes in hex, made when the process started. */
  readonly instance: string;
  /** The machine said HELLO and may: older sessions of it end now. */
  readonly onNamed: (session: Session) => void;
  readonly onEnded: (session: Session, reason: Problem | null) => void;
  /** How an attempt to reach the target ended; null: it answered. */
  readonly onTarget: (failure: Problem | null) => void;
}

type State =
  | { readonly kind: 'greeting'; readonly timer: Timer }
  | {
      readonly kind: 'connecting';
      readonly hello: Hello;
      readonly abort: AbortController;
      readonly timer: Timer;
      readonly window: Window;
    }
  | {
      readonly kind: 'welcoming';
      readonly hello: Hello;
      readonly target: Connection;
      readonly timer: Timer;
      readonly window: Window;
    }
  | { readonly kind: 'open'; readonly target: Connection; readonly relay: Relay; readonly window: Window }
  | { readonly kind: 'ended'; readonly reason: Problem | null };

export type SessionPhase = State['kind'];

const sessionIdBytes = 8;
/** What both hops can do through here: nothing yet. */
const features: readonly string[] = [];

export class Session {
  readonly machine: string;
  readonly id: string;
  readonly #counters = newCounters();
  readonly #agent: Connection;
  readonly #agentHeartbeat: Heartbeat;
  readonly #options: SessionOptions;
  readonly #logger: Logger;
  #state: State;

  /** Takes over the connection; to be made synchronously by whoever receives it. */
  constructor(agent: Connection, options: SessionOptions) {
    const { clock, logger, random } = options;
    this.#agent = agent;
    this.#options = options;
    this.machine = agent.peer.name;
    this.id = random.bytes(sessionIdBytes).toString('hex');
    this.#logger = logger.child({ machine: this.machine, session: this.id });
    const late = (): void => this.end(new Problem('timeout', 'no HELLO in time', { retryable: true }));
    this.#state = { kind: 'greeting', timer: clock.after(limits.wire.firstFrameMs, late) };
    this.#agentHeartbeat = new Heartbeat(agent, clock);
    const fromAgent = (message: Buffer): void => this.#guard(() => this.#fromAgent(message));
    agent.onFrame(fromAgent, options.slabs.takeFrame, () => this.#frameBytesMax);
    void agent.closed.then(() => this.end(null)); // 3
  }

  get counters(): SessionCounters {
    this.#countConnections();
    return this.#counters;
  }

  get phase(): SessionPhase {
    return this.#state.kind;
  }

  /** Bytes this session may have in flight. */
  get windowBytes(): number {
    return 'window' in this.#state ? this.#state.window.size : 0;
  }

  /** Ends the session and both connections. Idempotent; the first reason counts. Null: the agent left. */
  end(reason: Problem | null): void {
    const state = this.#state;
    if (state.kind === 'ended') return;
    this.#countConnections();
    this.#state = { kind: 'ended', reason };
    const why = reason ?? new Problem('closed', 'the agent left', { retryable: true });
    if ('timer' in state) state.timer.cancel();
    if (state.kind === 'connecting') state.abort.abort(why);
    if (state.kind === 'open') state.relay.end(why);
    if ('target' in state) state.target.close(closeCodes.normal, why.message);
    if ('window' in state) state.window.leave();
    this.#tellAgent(reason);
    this.#logger.info({ code: why.code, reason: why.message, phase: state.kind }, 'the session of a machine ended');
    this.#options.onEnded(this, reason);
  }

  /** Of the longest frame the agent may send now. */
  get #frameBytesMax(): number {
    const state = this.#state;
    return frameHeaderBytes + (state.kind === 'open' ? state.relay.bodyBytesMax : limits.wire.controlBytesMax);
  }

  #countConnections(): void {
    // From when there is a target: what a refused session cost is forgotten with it, and a total never falls.
    if (!('target' in this.#state)) return;
    this.#counters.agentBytesIn = this.#agent.bytesIn;
    this.#counters.agentBytesOut = this.#agent.bytesOut;
    this.#counters.targetBytesIn = this.#state.target.bytesIn;
    this.#counters.targetBytesOut = this.#state.target.bytesOut;
  }

  #tellAgent(reason: Problem | null): void {
    if (!reason) {
      this.#agent.close(closeCodes.normal, 'good-bye');
      return;
    }
    const code = wireCodeOf(reason);
    const message = code === 'internal' ? 'an internal error; the log of the process server says more' : reason.message;
    const retryable = isWireCode(reason.code) ? reason.retryable : wireCodes[code].retryable;
    // Goes out before the close; if it can not, the agent is gone and knows.
    this.#agent.send(encodeErrorMessage({ code, message: message.slice(0, 1024), retryable })).catch(() => undefined);
    this.#agent.close(wireCodes[code].close, message);
  }

  /** Runs what a frame causes; whatever it throws ends the session (invariant 4). */
  #guard(action: () => void): void {
    if (this.#state.kind === 'ended') return;
    try {
      action();
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    if (isProblem(error)) {
      this.end(error);
      return;
    }
    this.#logger.error({ error }, 'a bug ended a session');
    this.end(new Problem('internal', messageOf(error), { retryable: true, cause: error }));
  }

  #fromAgent(message: Buffer): void {
    const frame = decodeFrame(message);
    if (this.#agentHeartbeat.take(frame)) return;
    if (this.#state.kind === 'open') this.#state.relay.fromAgent(frame);
    else if (this.#state.kind === 'greeting') this.#onHello(frame);
    else if (frame.type === frameType.error) this.end(null);
    else throw protocolError(`a frame of type ${frame.type} before WELCOME`);
  }

  #onHello(frame: Frame): void {
    if (frame.type !== frameType.hello) throw protocolError(`the first frame is a HELLO, not type ${frame.type}`);
    const hello = decodeHello(frame.body);
    const { role, name } = this.#agent.peer;
    if (role !== 'agent' || hello.role !== 'agent' || hello.machine !== name) {
      throw new Problem(
        'not-authorised',
        `the certificate of ${role} ${name} does not speak for ${hello.role} ${hello.machine}`,
        {
          remedy: 'enroll the agent under the name of its machine',
        },
      ); // 2
    }
    if (!hello.protocol.includes(protocolVersion)) {
      throw new Problem(
        'version',
        `the agent speaks protocol ${hello.protocol.join(', ')}, this process server ${protocolVersion}`,
        {
          remedy: 'run versions that share a protocol',
        },
      );
    }
    this.#options.onNamed(this);
    this.#connect(hello, this.#options.budget.join());
  }

  #connect(hello: Hello, window: Window): void {
    const { clock, connectTarget } = this.#options;
    if (this.#state.kind === 'greeting') this.#state.timer.cancel();
    const abort = new AbortController();
    const unreachable = (message: string): Problem => new Problem('unreachable', message, { retryable: true });
    const late = (): void => this.#unreached(unreachable('the target did not answer in time'));
    const timer = clock.after(limits.wire.authenticationMs, late);
    this.#state = { kind: 'connecting', hello, abort, timer, window };
    // A connector that throws at once is the same failure as one that rejects.
    Promise.resolve()
      .then(() => connectTarget(this.machine, abort.signal))
      .then(
        (target) => this.#onTarget(target),
        (error: unknown) => {
          if (isProblem(error) && isWireCode(error.code)) this.#unreached(error);
          else this.#unreached(unreachable(`the target can not be reached: ${messageOf(error)}`));
        },
      );
  }

  /** The attempt to reach the target failed, unless it was given up before because the agent went. */
  #unreached(reason: Problem): void {
    if (this.#state.kind === 'connecting' || this.#state.kind === 'welcoming') this.#options.onTarget(reason);
    this.end(reason);
  }

  #onTarget(target: Connection): void {
    const state = this.#state;
    if (state.kind !== 'connecting') {
      target.close(closeCodes.normal, 'the agent left');
      return;
    }
    const { clock, version, instance } = this.#options;
    const { hello, timer, window } = state;
    this.#state = { kind: 'welcoming', hello, target, timer, window };
    const heartbeat = new Heartbeat(target, clock);
    target.onFrame((message) => this.#guard(() => this.#fromTarget(message, heartbeat)));
    void target.closed.then(({ reason }) =>
      this.#unreached(new Problem('unreachable', `the target closed the connection: ${reason}`, { retryable: true })),
    ); // 3
    const offered = common(hello.features, features);
    const greeting: Hello = {
      protocol: [protocolVersion],
      role: 'process-server',
      machine: this.machine,
      version,
      features: offered,
      instance,
    };
    // A refused send means the target is gone, which `closed` tells.
    target.send(encodeHello(greeting)).catch(() => undefined);
  }

  #fromTarget(message: Buffer, heartbeat: Heartbeat): void {
    const frame = understood(() => decodeFrame(message));
    if (heartbeat.take(frame)) return;
    const state = this.#state;
    if (state.kind === 'open') understood(() => state.relay.fromTarget(frame));
    else if (state.kind === 'welcoming') this.#onWelcome(frame, state);
  }

  #onWelcome(frame: Frame, state: Extract<State, { kind: 'welcoming' }>): void {
    this.#options.onTarget(null); // Also when it refuses this machine.
    if (frame.type === frameType.error) {
      const { code, message, retryable } = understood(() => decodeErrorMessage(frame.body));
      this.end(new Problem(code, message, { retryable }));
      return;
    }
    if (frame.type !== frameType.welcome) throw targetFault(`type ${frame.type} instead of WELCOME`);
    const welcome = understood(() => decodeWelcome(frame.body));
    const { hello, target, timer, window } = state;
    const { sealer, slabs, comparisonRoom, clock, random, version } = this.#options;
    timer.cancel();
    const relay = new Relay({
      agent: this.#agent,
      target,
      window,
      sealer,
      slabs,
      comparisonRoom,
      counters: this.#counters,
      clock,
      random,
      end: (reason) => this.end(reason),
      onFailure: (error) => this.#fail(error),
    });
    this.#state = { kind: 'open', target, relay, window };
    const answer: Welcome = {
      protocol: protocolVersion,
      version,
      features: common(hello.features, welcome.features),
      session: this.id,
    };
    this.#agent.send(encodeWelcome(answer)).catch(() => undefined);
    this.#logger.info({ target: target.peer.name, remote: this.#agent.remote }, 'the session of a machine began');
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

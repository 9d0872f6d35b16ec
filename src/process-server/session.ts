/**
 * One agent connection, and the way to its target (`delivery.ts`) in that machine's name.
 *
 *   greeting ──HELLO──► connecting ──WELCOME of the target──► open ──► ended
 *
 * Invariants:
 *  1. One state; whatever waits (timer, delivery, relay) lives on it. `end` is the one way out, from any state, and does its work once.
 *  2. The certificate decides whose disks these are; a HELLO that says otherwise is refused `not-authorised` (C8).
 *  3. The session does not outlive its delivery. What was spooled may outlive the session: whoever ends it says what becomes of that.
 *  4. A frame that can not be understood ends the session; nothing of it is acted upon.
 */
import type { Timer } from '../kit/clock.ts';
import type { Credit } from '../kit/credit.ts';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import { closeCodes, type Connection } from '../transport/connection.ts';
import { Heartbeat } from '../transport/heartbeat.ts';
import { isWireCode, protocolError, wireCodeOf, wireCodes } from '../wire/codes.ts';
import { encodeErrorMessage } from '../wire/error.ts';
import { common, features } from '../wire/features.ts';
import { decodeFrame, frameHeaderBytes, frameType, type Frame } from '../wire/frame.ts';
import { decodeHello, protocolVersion, type Hello } from '../wire/hello.ts';
import { encodeWelcome, type Welcome } from '../wire/welcome.ts';
import type { Budget, Window } from './budget.ts';
import { newCounters, type SessionCounters } from './counters.ts';
import { Delivery } from './delivery.ts';
import type { DeliveryOwner, DeliveryParts } from './delivery-parts.ts';
import type { Sealer } from './pool.ts';
import { Relay } from './relay.ts';

export interface SessionOptions {
  /** What all ways to targets share. */
  readonly delivery: DeliveryParts;
  readonly sealer: Sealer;
  /** Bytes of checksums that may be asked for or compared, all sessions together. */
  readonly comparisonRoom: Credit;
  readonly budget: Budget;
  /** The machine said HELLO and may: older sessions of it end now. */
  readonly onNamed: (session: Session) => void;
  /** Resolves when nothing of the machine is in the way; null: nothing is. Rejects with Problem `draining`. */
  readonly admitted: (machine: string) => Promise<void> | null;
  /** @param delivery how it got to its target, if it had got so far: it is to be ended, or goes on by itself. */
  readonly onEnded: (session: Session, reason: Problem | null, delivery: Delivery | null) => void;
}

type State =
  | { readonly kind: 'greeting'; readonly timer: Timer }
  | { readonly kind: 'connecting'; readonly hello: Hello; readonly delivery: Delivery; readonly window: Window }
  | { readonly kind: 'open'; readonly delivery: Delivery; readonly relay: Relay; readonly window: Window }
  | { readonly kind: 'ended'; readonly reason: Problem | null };

export type SessionPhase = State['kind'] | 'welcoming';

const sessionIdBytes = 8;

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
    const { clock, logger, random, slabs } = options.delivery;
    this.#agent = agent;
    this.#options = options;
    this.machine = agent.peer.name;
    this.id = random.bytes(sessionIdBytes).toString('hex');
    this.#logger = logger.child({ machine: this.machine, session: this.id });
    const late = (): void => this.end(new Problem('timeout', 'no HELLO in time', { retryable: true }));
    this.#state = { kind: 'greeting', timer: clock.after(limits.wire.firstFrameMs, late) };
    this.#agentHeartbeat = new Heartbeat(agent, clock);
    const fromAgent = (message: Buffer): void => this.#guard(() => this.#fromAgent(message));
    agent.onFrame(fromAgent, slabs.takeFrame, () => this.#frameBytesMax);
    void agent.closed.then(() => this.end(null));
  }

  get counters(): SessionCounters {
    this.#countConnections();
    return this.#counters;
  }

  get phase(): SessionPhase {
    const state = this.#state;
    return state.kind === 'connecting' && state.delivery.link.phase === 'welcoming' ? 'welcoming' : state.kind;
  }

  /** The way to its target, once there is one. */
  get delivery(): Delivery | null {
    return 'delivery' in this.#state ? this.#state.delivery : null;
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
    if (state.kind === 'open') state.relay.end(why);
    if ('window' in state) state.window.leave();
    this.#tellAgent(reason);
    this.#logger.info({ code: why.code, reason: why.message, phase: state.kind }, 'the session of a machine ended');
    this.#options.onEnded(this, reason, 'delivery' in state ? state.delivery : null); // 3
  }

  /** Of the longest frame the agent may send now. */
  get #frameBytesMax(): number {
    const state = this.#state;
    return frameHeaderBytes + (state.kind === 'open' ? state.relay.bodyBytesMax : limits.wire.controlBytesMax);
  }

  #countConnections(): void {
    // From when there is a target: what a refused session cost is forgotten with it, and a total never falls.
    if (!('delivery' in this.#state)) return;
    const { carried } = this.#state.delivery.link;
    if (carried.out === 0) return;
    this.#counters.agentBytesIn = this.#agent.bytesIn;
    this.#counters.agentBytesOut = this.#agent.bytesOut;
    this.#counters.targetBytesIn = carried.in;
    this.#counters.targetBytesOut = carried.out;
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
    if (this.#state.kind === 'greeting') this.#state.timer.cancel();
    const owner: DeliveryOwner = {
      welcomed: () => this.#onWelcomed(),
      heard: (frame) => {
        if (this.#state.kind === 'open') this.#state.relay.heard(frame);
      },
      freed: (entry, by) => {
        if (this.#state.kind === 'open') this.#state.relay.freed(entry, by);
      },
      room: () => this.#agent.resume(),
      tick: () => {
        if (this.#state.kind === 'open') this.#state.relay.tick();
      },
      resumable: () => this.#state.kind === 'open' && this.#state.relay.isSettled,
      isOutOfCredit: () => this.#state.kind === 'open' && this.#state.relay.isOutOfCredit,
      failed: (error) => this.#fail(error),
    };
    const { machine } = this;
    const delivery = new Delivery(this.#options.delivery, owner, { machine, counters: this.#counters });
    this.#state = { kind: 'connecting', hello, delivery, window };
    const waiting = this.#options.admitted(machine);
    if (!waiting) delivery.start();
    else {
      waiting.then(
        () => {
          if (this.delivery === delivery) delivery.start();
        },
        (error: unknown) => this.#fail(error),
      );
    }
  }

  #onWelcomed(): void {
    const state = this.#state;
    if (state.kind !== 'connecting') return;
    const { sealer, comparisonRoom, delivery: parts } = this.#options;
    const { hello, delivery, window } = state;
    const relay = new Relay({
      agent: this.#agent,
      delivery,
      throttle: parts.throttle,
      window,
      sealer,
      slabs: parts.slabs,
      comparisonRoom,
      counters: this.#counters,
      clock: parts.clock,
      random: parts.random,
      end: (reason) => this.end(reason),
      onFailure: (error) => this.#fail(error),
    });
    this.#state = { kind: 'open', delivery, relay, window };
    const known = delivery.keeps ? [features.pointsInFlight] : [];
    const answer: Welcome = {
      protocol: protocolVersion,
      version: parts.version,
      features: common(hello.features, known),
      session: this.id,
    };
    this.#agent.send(encodeWelcome(answer)).catch(() => undefined);
    const fields = { target: delivery.link.connection?.peer.name, remote: this.#agent.remote, spool: delivery.keeps };
    this.#logger.info(fields, 'the session of a machine began');
  }
}

/**
 * One connection to a process server, from HELLO to its end. It knows the protocol, not what is replicated.
 *
 * Invariants:
 *  1. One state value; `#end` is the one way out and is idempotent. Everyone who waits is told the reason.
 *  2. A batch is sent only against credit (C5); nothing is queued here beyond the one batch that waits.
 *  3. At most `limits.wire.comparisonsMax` CHECKSUMS wait for their answers, and as many POINTs as `pointsMax` says: their answers go to who keeps them.
 */
import type { Clock } from '../kit/clock.ts';
import { Credit } from '../kit/credit.ts';
import { invariant } from '../kit/invariant.ts';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Connection, SendOptions } from '../transport/connection.ts';
import { Heartbeat } from '../transport/heartbeat.ts';
import { protocolError, remedyFor, wireCodeOf, wireCodes } from '../wire/codes.ts';
import type { ChecksumBounds, Checksums, Difference } from '../wire/checksums.ts';
import { decodeCommitted, type Committed } from '../wire/committed.ts';
import { decodeCredit } from '../wire/credit.ts';
import { encodeCycle, type Cycle } from '../wire/cycle.ts';
import { type MachineDefinition, sameDefinition } from '../wire/definition.ts';
import { decodeDurable, type Durable } from '../wire/durable.ts';
import { decodeErrorMessage, encodeErrorMessage } from '../wire/error.ts';
import { decodeFrame, frameHeaderBytes, frameType, type Frame } from '../wire/frame.ts';
import { features } from '../wire/features.ts';
import { encodeGap, type Gap } from '../wire/gap.ts';
import { encodeHello, protocolVersion } from '../wire/hello.ts';
import { decodeLeaves } from '../wire/leaves.ts';
import { encodeOpenDisk, type OpenDisk } from '../wire/open-disk.ts';
import { decodeOpened, type Opened } from '../wire/opened.ts';
import { encodePointMessage, type PointMessage } from '../wire/point.ts';
import { decodeRejected, type Rejected } from '../wire/rejected.ts';
import { decodeRepair } from '../wire/repair.ts';
import { seqOf } from '../wire/seq.ts';
import { decodeWelcome } from '../wire/welcome.ts';
import { Comparisons } from './comparisons.ts';
import type { ReplicaDisk } from './replica-disk.ts';

type Waiting<T> = PromiseWithResolvers<T>;

type State =
  | { readonly kind: 'greeting'; readonly welcomed: Waiting<undefined> }
  | {
      readonly kind: 'opening';
      readonly disk: ReplicaDisk;
      readonly index: number;
      opened: Opened | null;
      readonly done: Waiting<Opened>;
    }
  | { readonly kind: 'ready' }
  | { readonly kind: 'ended'; readonly reason: Problem };

export interface SessionEvents {
  durable(message: Durable): void;
  /** @throws Problem `protocol-error`: no POINT waits for it. */
  committed(message: Committed): void;
  /** Answers why the session is over now. @throws Problem `protocol-error`. */
  rejected(message: Rejected): Problem;
  /** The target is not where this agent was told it is; the disk is compared with it. */
  surprise(disk: string, reason: string): void;
}

export class Session {
  readonly credit = new Credit(0);
  /** Resolves with the reason when the session is over. */
  readonly ended: Promise<Problem>;
  epoch = 0;
  /** Cut time of the newest point the target has of these disks, milliseconds since the Unix epoch; null: it has none. */
  newestCutMs: number | null = null;
  /** POINTs that may wait for their answers at a time. */
  pointsMax = 1;
  #nextCounter = 1;
  /** As it was told with a point of this session. */
  #definition: MachineDefinition | null = null;
  #state: State;
  readonly #ended = Promise.withResolvers<Problem>();
  readonly #connection: Connection;
  readonly #disks: readonly ReplicaDisk[];
  readonly #events: SessionEvents;
  readonly #clock: Clock;
  readonly #heartbeat: Heartbeat;
  readonly #comparisons = new Comparisons((frame) => this.#send(frame));

  private constructor(options: {
    connection: Connection;
    disks: readonly ReplicaDisk[];
    events: SessionEvents;
    clock: Clock;
  }) {
    this.#connection = options.connection;
    this.#disks = options.disks;
    this.#events = options.events;
    this.#clock = options.clock;
    this.ended = this.#ended.promise;
    this.#state = { kind: 'greeting', welcomed: Promise.withResolvers<undefined>() };
    this.#heartbeat = new Heartbeat(this.#connection, this.#clock);
    this.#connection.onFrame((message) => {
      this.#receive(message);
    });
    void this.#connection.closed.then((closed) => {
      this.#end(
        new Problem('closed', `the process server closed the connection: ${closed.reason || closed.by}`, {
          retryable: true,
        }),
      );
    });
  }

  /** HELLO, then OPEN_DISK for each disk. Rejects with the Problem that ended it. */
  static async open(options: {
    connection: Connection;
    machine: string;
    version: string;
    instance: string;
    disks: readonly ReplicaDisk[];
    compression: OpenDisk['compression'];
    events: SessionEvents;
    clock: Clock;
    /** Ends the session while it opens. */
    signal: AbortSignal;
  }): Promise<Session> {
    const { signal } = options;
    const session = new Session(options);
    const stop = (): void => {
      session.end(new Problem('shutting-down', 'the agent is stopping', { retryable: true }));
    };
    signal.addEventListener('abort', stop);
    try {
      if (signal.aborted) stop();
      await session.#greet(options.machine, options.version, options.instance);
      for (const [index, disk] of options.disks.entries()) await session.#openDisk(index, disk, options.compression);
      return session;
    } catch (error) {
      session.end(
        isProblem(error) ? error : new Problem('internal', messageOf(error), { retryable: true, cause: error }),
      );
      throw await session.ended;
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  get isOver(): boolean {
    return this.#state.kind === 'ended';
  }

  /** Whether the connection has carried so much that it should be opened anew between cycles (key usage bound). */
  get wantsRecycling(): boolean {
    return this.#carriedBytes >= limits.wire.connectionBytesMax * 0.9;
  }

  get #carriedBytes(): number {
    return Math.max(this.#connection.bytesIn, this.#connection.bytesOut);
  }

  /** Of the layers begun in this session; before the first, of those before it. */
  get newestSeq(): number {
    return seqOf(this.epoch, this.#nextCounter - 1);
  }

  /** Begins the disk's next layer and returns its seq. */
  async beginLayer(index: number, cycle: Pick<Cycle, 'kind' | 'base'>): Promise<number> {
    this.#assertReady();
    this.#nextCounter += 1;
    const seq = this.newestSeq;
    await this.#send(encodeCycle({ disk: index, seq, kind: cycle.kind, base: cycle.base }));
    return seq;
  }

  /** Sends a BATCH frame, with `frameRoomBytes` before it, against credit; resolves when the socket took it. A cycle longer than one connection may carry goes on in the next. */
  async sendBatch(frame: Uint8Array): Promise<void> {
    if (this.#carriedBytes >= limits.wire.connectionBytesMax - 2 * limits.wire.frameBytesMax) {
      this.end(
        new Problem('shutting-down', 'the connection carried its share and is opened anew', { retryable: true }),
      );
    }
    await this.credit.take(frame.byteLength - frameHeaderBytes);
    await this.#send(frame, { room: true });
  }

  /** Tells of points that were due and not made; not answered. */
  async sendGap(gap: Gap): Promise<void> {
    this.#assertReady();
    await this.#send(encodeGap(gap));
  }

  /** Sends POINT; the answer comes as an event. The definition goes out with the first point of the session, and when it changed. */
  async sendPoint({
    definition = null,
    ...message
  }: Omit<PointMessage, 'definition'> & { readonly definition?: MachineDefinition | null }): Promise<void> {
    this.#assertReady();
    const news = definition !== null && !sameDefinition(definition, this.#definition);
    this.#definition = definition;
    await this.#send(encodePointMessage(news ? { ...message, definition } : message));
  }

  /** What of these checksums differs at the target. Answers come in order. */
  compare(disk: number, message: Checksums, bounds: ChecksumBounds): Promise<Difference> {
    this.#assertReady();
    return this.#comparisons.compare(disk, message, bounds);
  }

  /** Ends the session from this side, telling the peer why. Idempotent. */
  end(reason: Problem): void {
    if (this.#state.kind !== 'ended' && reason.code !== 'closed') {
      const code = wireCodeOf(reason);
      const frame = encodeErrorMessage({ code, message: reason.message.slice(0, 1024), retryable: reason.retryable });
      this.#connection.send(frame).catch(() => undefined);
      this.#connection.close(wireCodes[code].close, code);
    }
    this.#end(reason);
  }

  #assertReady(): void {
    this.#refuseEnded();
    invariant(this.#state.kind === 'ready', `ready, not ${this.#state.kind}`);
  }

  #refuseEnded(): void {
    if (this.#state.kind === 'ended') throw this.#state.reason;
  }

  async #send(frame: Uint8Array, options?: SendOptions): Promise<void> {
    this.#refuseEnded();
    try {
      await this.#connection.send(frame, options);
    } catch (error) {
      this.#end(new Problem('closed', `sending failed: ${messageOf(error)}`, { retryable: true, cause: error }));
      throw await this.ended;
    }
  }

  async #greet(machine: string, version: string, instance: string): Promise<void> {
    invariant(this.#state.kind === 'greeting', 'greeting comes first');
    const { welcomed } = this.#state;
    const late = this.#clock.after(limits.wire.authenticationMs, () => {
      welcomed.reject(new Problem('timeout', 'the process server sent no WELCOME', { retryable: true }));
    });
    try {
      const offered = [features.pointsInFlight];
      await this.#send(
        encodeHello({ protocol: [protocolVersion], role: 'agent', machine, version, features: offered, instance }),
      );
      await welcomed.promise;
    } finally {
      late.cancel();
    }
  }

  async #openDisk(index: number, disk: ReplicaDisk, compression: OpenDisk['compression']): Promise<void> {
    this.#refuseEnded();
    const done = Promise.withResolvers<Opened>();
    this.#state = { kind: 'opening', disk, index, opened: null, done };
    await this.#send(
      encodeOpenDisk({
        disk: index,
        name: disk.name,
        size: disk.capture.geometry.size,
        blockSize: disk.capture.geometry.blockSize,
        compression,
        knownPoint: disk.knownPoint,
      }),
    );
    const opened = await done.promise;
    // What came in the same read may have ended the session meanwhile.
    this.#refuseEnded();
    this.epoch = opened.epoch;
    if (opened.committed) this.newestCutMs = Math.max(this.newestCutMs ?? 0, opened.committed.cutTimeMs);
    this.#nextCounter = Math.max(this.#nextCounter, opened.nextCounter);
    this.#state = { kind: 'ready' };
  }

  #receive(message: Uint8Array): void {
    if (this.#state.kind === 'ended') return;
    try {
      const frame = decodeFrame(message);
      if (!this.#heartbeat.take(frame)) this.#dispatch(frame);
    } catch (error) {
      this.end(isProblem(error) ? error : new Problem('internal', messageOf(error), { retryable: true, cause: error }));
    }
  }

  #dispatch(frame: Frame): void {
    switch (frame.type) {
      case frameType.credit:
        this.credit.give(decodeCredit(frame.body));
        return;
      case frameType.durable:
        this.#events.durable(decodeDurable(frame.body));
        return;
      case frameType.welcome:
        if (this.#state.kind !== 'greeting') throw protocolError('WELCOME twice');
        if (decodeWelcome(frame.body).features.includes(features.pointsInFlight))
          this.pointsMax = limits.wire.pointsInFlightMax;
        this.#state.welcomed.resolve(undefined);
        return;
      case frameType.opened:
      case frameType.leaves:
        this.#receiveOpening(frame);
        return;
      case frameType.repair:
        this.#diskOf(frame).requestRepair(decodeRepair(frame.body, this.#diskOf(frame).capture.geometry.blockCount));
        return;
      case frameType.committed:
        this.#events.committed(decodeCommitted(frame.body));
        return;
      case frameType.different:
        this.#comparisons.answered(frame);
        return;
      case frameType.rejected:
        this.#end(this.#events.rejected(decodeRejected(frame.body)));
        return;
      case frameType.error: {
        const told = decodeErrorMessage(frame.body);
        this.#end(new Problem(told.code, told.message, { retryable: told.retryable, remedy: remedyFor(told.code) }));
        this.#connection.close(1000, 'told of an error');
        return;
      }
      case frameType.hello:
      case frameType.openDisk:
      case frameType.cycle:
      case frameType.batch:
      case frameType.sealed:
      case frameType.point:
      case frameType.checksums:
      case frameType.ask:
      case frameType.gap:
      case frameType.ping:
      case frameType.pong:
        throw protocolError(`frame type ${frame.type} is not for an agent`);
    }
  }

  #receiveOpening(frame: Frame): void {
    const state = this.#state;
    if (state.kind !== 'opening' || frame.disk !== state.index) throw protocolError('OPENED or LEAVES out of turn');
    if (frame.type === frameType.opened) {
      if (state.opened) throw protocolError('OPENED twice');
      state.opened = decodeOpened(frame.body);
      const surprise = state.disk.opened(state.opened);
      if (surprise !== null) this.#events.surprise(state.disk.name, surprise);
      return;
    }
    if (!state.opened) throw protocolError('LEAVES before OPENED');
    const leaves = decodeLeaves(frame.body, state.disk.capture.geometry.blockCount);
    state.disk.lay(leaves);
    if (leaves.last) state.done.resolve(state.opened);
  }

  #diskOf(frame: Frame): ReplicaDisk {
    const disk = this.#disks[frame.disk];
    if (!disk) throw protocolError(`disk ${frame.disk} is not open`);
    return disk;
  }

  #end(reason: Problem): void {
    const state = this.#state;
    if (state.kind === 'ended') return;
    this.#state = { kind: 'ended', reason };
    this.credit.end(reason);
    this.#comparisons.end(reason);
    this.#connection.close(1000, reason.code);
    switch (state.kind) {
      case 'greeting':
        state.welcomed.reject(reason);
        state.welcomed.promise.catch(() => undefined);
        break;
      case 'opening':
        state.done.reject(reason);
        state.done.promise.catch(() => undefined);
        break;
      case 'ready':
        break;
    }
    this.#ended.resolve(reason);
  }
}

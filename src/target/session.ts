/**
 * One session of a process server, in the name of one machine, from HELLO to its end. It checks, hands to the machine's store, and
 * answers; all truth is in the store.
 *
 * Invariants:
 *  1. One state value, one idempotent `end`. A session that ended answers nothing more.
 *  2. Frames are handled in the order they came. Batches are pipelined: the next is taken before the last is durable; everything else
 *     waits for what came before it.
 *  3. DURABLE for a batch goes out only after its bytes were synced and indexed (C1). COMMITTED only after the point's record is durable.
 *  4. What waits, for its turn or until it is durable, is bounded: sealed bytes by credit, all else by `controlQueueBytesMax`, above which nothing
 *     more is read.
 *  5. The peer never has more sealed bytes outstanding than it was granted (C5); one that sends more is closed.
 *  6. Nothing is written for a session whose epoch is no longer the newest (C9), also of what waited for its turn: the store refuses it in the step
 *     that would write it, and the session ends with the evidence.
 */
import type { Clock } from '../kit/clock.ts';
import type { FrameMemory } from '../kit/frame-memory.ts';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import { Serial } from '../kit/serial.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { DiskStore } from '../store/disk-store.ts';
import { StaleEpoch } from '../store/epochs.ts';
import type { MachineStore } from '../store/machine-store.ts';
import type { Connection } from '../transport/connection.ts';
import { Heartbeat } from '../transport/heartbeat.ts';
import { decodeAsk } from '../wire/checksums.ts';
import { protocolError, wireCodeOf, wireCodes } from '../wire/codes.ts';
import { encodeCommitted } from '../wire/committed.ts';
import { encodeCredit } from '../wire/credit.ts';
import { decodeCycle, type Cycle } from '../wire/cycle.ts';
import { encodeDurable } from '../wire/durable.ts';
import { decodeErrorMessage, encodeErrorMessage } from '../wire/error.ts';
import { common, features } from '../wire/features.ts';
import { decodeFrame, frameHeaderBytes, frameType, type Frame } from '../wire/frame.ts';
import { decodeGap, type Gap } from '../wire/gap.ts';
import { decodeHello, protocolVersion, type Hello } from '../wire/hello.ts';
import { encodeLeaves, type LeafPair } from '../wire/leaves.ts';
import { decodeOpenDisk, type OpenDisk } from '../wire/open-disk.ts';
import { encodeOpened } from '../wire/opened.ts';
import { decodePointMessage, type PointMessage } from '../wire/point.ts';
import { encodeRejected } from '../wire/rejected.ts';
import { encodeRepair } from '../wire/repair.ts';
import { encodeWelcome } from '../wire/welcome.ts';
import { answerAsk, boundsOf } from './comparison.ts';
import type { TargetCounters } from './counters.ts';

const { controlQueueBytesMax, queuedFrameBytes } = limits.target;
const offered = [features.continueLayers];

export interface SessionHost {
  readonly version: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly counters: TargetCounters;
  readonly memory: FrameMemory;
  /** The machine's store, and the epoch to write it under; every older session of the machine has ended. @throws StaleEpoch, and none has. */
  admit(hello: Hello, session: TargetSession): Promise<{ readonly store: MachineStore; readonly epoch: number }>;
  /** A point was committed: prove it. */
  committed(store: MachineStore): void;
  /** Points were due and not made. */
  gap(store: MachineStore, gap: Gap): void;
  ended(session: TargetSession): void;
}

type State =
  | { readonly kind: 'greeting' }
  | {
      readonly kind: 'open';
      readonly store: MachineStore;
      readonly hello: Hello;
      readonly epoch: number;
      /** What both sides can. */
      readonly features: readonly string[];
      readonly disks: (DiskStore | undefined)[];
    }
  | { readonly kind: 'ended'; readonly reason: Problem };

type OpenState = State & { kind: 'open' };

export class TargetSession {
  readonly connection: Connection;
  #state: State = { kind: 'greeting' };
  readonly #host: SessionHost;
  readonly #inOrder = new Serial();
  readonly #firstFrame: { cancel(): void };
  readonly #heartbeat: Heartbeat;
  #granted = 0;
  /** Control bytes that wait for their turn, with what each frame costs beside its bytes; that of a batch until it is durable. */
  #queuedBytes = 0;

  constructor(connection: Connection, host: SessionHost) {
    this.connection = connection;
    this.#host = host;
    this.#firstFrame = host.clock.after(limits.wire.firstFrameMs, () => {
      if (this.#state.kind === 'greeting') this.end(new Problem('timeout', 'no HELLO in time', { retryable: true }));
    });
    this.#heartbeat = new Heartbeat(connection, host.clock);
    const bytesMax = (): number => frameHeaderBytes + Math.max(limits.wire.controlBytesMax, this.#granted);
    connection.onFrame((message) => this.#receive(message), host.memory.take, bytesMax);
    void connection.closed.then((closed) => {
      this.end(new Problem('closed', `connection closed: ${closed.reason || closed.by}`, { retryable: true }));
    });
  }

  /** The machine this session speaks for, once it said so. */
  get machine(): string | null {
    return this.#state.kind === 'open' ? this.#state.hello.machine : null;
  }

  isOver(): boolean {
    return this.#state.kind === 'ended';
  }

  /** Blocks of `disk` whose stored bytes failed a check: asks the source for them. */
  requestRepair(store: DiskStore, blocks: readonly number[]): void {
    if (this.#state.kind !== 'open') return;
    const index = this.#state.disks.indexOf(store);
    if (index >= 0) this.#sendRepairs(index, blocks);
  }

  /** Ends the session and tells the peer why. Idempotent. */
  end(reason: Problem): void {
    if (this.#state.kind === 'ended') return;
    this.#state = { kind: 'ended', reason };
    this.#firstFrame.cancel();
    if (reason.code === 'closed') {
      this.connection.close(1000, 'closed');
    } else {
      const code = wireCodeOf(reason);
      if (code === 'protocol-error' || code === 'not-authorised') this.#host.counters.refused += 1;
      if (code === 'stale-epoch') this.#host.counters.staleRefused += 1;
      const told = encodeErrorMessage({
        code,
        message: reason.message.slice(0, 1024),
        retryable: wireCodes[code].retryable,
        ...(reason instanceof StaleEpoch && { epoch: reason.epoch }),
      });
      this.connection.send(told).catch(() => undefined);
      this.connection.close(wireCodes[code].close, code);
    }
    this.#host.ended(this);
  }

  #answer(frame: Uint8Array): void {
    if (this.#state.kind === 'ended') return;
    this.connection.send(frame).catch((error: unknown) => {
      this.end(new Problem('closed', messageOf(error), { retryable: true }));
    });
  }

  #fail(error: unknown): void {
    if (this.#state.kind === 'ended') return;
    if (!isProblem(error)) this.#host.logger.error({ error }, 'a session failed unexpectedly');
    this.end(isProblem(error) ? error : new Problem('internal', messageOf(error), { retryable: true, cause: error }));
  }

  #receive(message: Uint8Array): void {
    if (this.#state.kind === 'ended') return;
    try {
      const frame = decodeFrame(message);
      if (!this.#heartbeat.take(frame)) this.#queue(frame);
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Invariants 2 and 4. Credit is checked on arrival. */
  #queue(frame: Frame): void {
    if (frame.type === frameType.sealed) {
      this.#granted -= frame.body.byteLength;
      if (this.#granted < 0) throw protocolError('more sealed bytes than were granted');
    } else if (frame.body.byteLength > limits.wire.controlBytesMax) {
      throw protocolError(`a control frame of ${frame.body.byteLength} bytes`);
    }
    const bytes = queuedFrameBytes + (frame.type === frameType.sealed ? 0 : frame.body.byteLength);
    this.#waits(bytes);
    this.#inOrder
      .run(async () => {
        if (this.#state.kind !== 'ended') await this.#dispatch(frame);
      })
      .catch((error: unknown) => {
        this.#fail(error);
      })
      .finally(() => this.#waitsNoMore(bytes));
  }

  #waits(bytes: number): void {
    this.#queuedBytes += bytes;
    if (!this.connection.paused && this.#queuedBytes > controlQueueBytesMax) this.connection.pause();
  }

  #waitsNoMore(bytes: number): void {
    this.#queuedBytes -= bytes;
    if (this.connection.paused && this.#queuedBytes <= controlQueueBytesMax / 2) this.connection.resume();
  }

  async #dispatch(frame: Frame): Promise<void> {
    if (this.#state.kind === 'greeting') {
      if (frame.type !== frameType.hello) throw protocolError('the first frame is not HELLO');
      // The peer has spoken in time; opening the store may take as long as it takes.
      this.#firstFrame.cancel();
      await this.#hello(decodeHello(frame.body));
      return;
    }
    const state = this.#open();
    // Invariant 6; whatever the frame says about itself.
    state.store.refuseStale(state.epoch);
    switch (frame.type) {
      case frameType.openDisk:
        await this.#openDisk(state, decodeOpenDisk(frame.body));
        return;
      case frameType.cycle:
        await this.#cycle(state, decodeCycle(frame.body));
        return;
      case frameType.sealed:
        this.#sealed(this.#disk(state, frame.disk), frame);
        return;
      case frameType.point:
        await this.#point(state, decodePointMessage(frame.body));
        return;
      case frameType.ask: {
        const disk = this.#disk(state, frame.disk);
        const range = decodeAsk(frame.body, boundsOf(disk.geometry));
        await this.connection.send(await answerAsk(frame.disk, disk.leaves, range, this.#host.clock));
        return;
      }
      case frameType.gap:
        this.#host.gap(state.store, decodeGap(frame.body));
        return;
      case frameType.error: {
        const told = decodeErrorMessage(frame.body);
        this.end(new Problem('closed', `the process server said ${told.code}: ${told.message}`, { retryable: true }));
        return;
      }
      default:
        throw protocolError(`frame type ${frame.type} is not for a target`);
    }
  }

  #open(): OpenState {
    if (this.#state.kind !== 'open') throw protocolError('not open');
    return this.#state;
  }

  #disk(state: OpenState, index: number): DiskStore {
    const disk = state.disks[index];
    if (!disk) throw protocolError(`disk ${index} is not open`);
    return disk;
  }

  async #hello(hello: Hello): Promise<void> {
    if (!hello.protocol.includes(protocolVersion))
      throw new Problem('version', 'no common protocol version', { remedy: 'upgrade the older side' });
    if (hello.role !== 'process-server') throw new Problem('not-authorised', `${hello.role} may not speak to a target`);
    const { store, epoch } = await this.#host.admit(hello, this);
    if (this.isOver()) return;
    const can = common(hello.features, offered);
    this.#state = { kind: 'open', store, hello, epoch, features: can, disks: [] };
    const session = `${hello.machine}/${epoch}`;
    this.#answer(encodeWelcome({ protocol: protocolVersion, version: this.#host.version, features: can, session }));
  }

  async #openDisk(state: OpenState, message: OpenDisk): Promise<void> {
    if (state.disks[message.disk]) throw protocolError(`disk ${message.disk} is open already`);
    const { name, size, blockSize } = message;
    const disk = await state.store.openDisk({ name, size, blockSize, epoch: state.epoch });
    if (state.disks.some((each) => each?.no === disk.no)) throw protocolError(`disk ${message.name} is open already`);
    state.disks[message.disk] = disk;
    const since = message.knownPoint === null ? null : state.store.maxSeqAt(disk.no, message.knownPoint);
    this.#answer(
      encodeOpened({
        disk: message.disk,
        diskId: disk.id,
        epoch: state.epoch,
        nextCounter: state.store.nextCounter(state.epoch),
        committed: disk.committed,
        layers: disk.pending,
        // Also where nothing is held of the disk: the agent sees that, and has nothing to compare unless its leaf file says otherwise.
        leaves: since === null ? 'compare' : 'since',
        leafKey: Buffer.from(disk.keys.leafKey).toString('hex'),
        diskKey: Buffer.from(disk.keys.diskKey).toString('hex'),
        keyVersion: disk.keys.version,
      }),
    );
    await this.#sendLeaves(message.disk, since === null ? [] : disk.leavesSince(since));
    // Before any CHECKSUMS: a comparison speaks of what the leaves say, and these blocks are not what theirs say.
    this.#sendRepairs(message.disk, disk.blocksToRepair());
    const firstDisk = state.disks.filter((each) => each !== undefined).length === 1;
    if (firstDisk) this.#grant(limits.target.sessionWindowBytes);
  }

  async #cycle(state: OpenState, cycle: Cycle): Promise<void> {
    const { salt, keyVersion } = cycle;
    if (salt === undefined || keyVersion === undefined) throw protocolError('a CYCLE without salt and key version');
    const layer = { ...cycle, salt: Buffer.from(salt, 'hex'), keyVersion, epoch: state.epoch };
    const continues = state.features.includes(features.continueLayers);
    const had = await this.#disk(state, cycle.disk).beginLayer(layer, continues);
    if (had !== null) this.#answer(encodeDurable(cycle.disk, { seq: cycle.seq, batches: had }));
  }

  /** In frames the agent takes. */
  #sendRepairs(index: number, blocks: readonly number[]): void {
    const step = limits.wire.repairsPerFrameMax;
    for (let from = 0; from < blocks.length; from += step) {
      this.#answer(encodeRepair(index, blocks.slice(from, from + step)));
    }
  }

  async #sendLeaves(index: number, leaves: AsyncIterable<LeafPair> | readonly LeafPair[]): Promise<void> {
    let pairs: LeafPair[] = [];
    for await (const pair of leaves) {
      pairs.push(pair);
      if (pairs.length < limits.wire.leavesPerFrameMax) continue;
      await this.connection.send(encodeLeaves(index, { last: false, pairs }));
      pairs = [];
    }
    await this.connection.send(encodeLeaves(index, { last: true, pairs }));
  }

  #grant(bytes: number): void {
    this.#granted += bytes;
    this.#answer(encodeCredit(bytes));
  }

  #sealed(disk: DiskStore, frame: Frame): void {
    const { counters, clock } = this.#host;
    const arrivedMs = clock.monotonicMs();
    const { byteLength } = frame.body;
    const accepted = disk.appendBatch(frame.body);
    this.#waits(queuedFrameBytes);
    counters.sealedBytesIn += byteLength;
    counters.queuedBytes += byteLength;
    counters.recordsIn += accepted.records;
    counters.plainBytesIn += accepted.plainBytes;
    const done = accepted.durable.then(
      () => {
        if (accepted.records > 0) counters.batchesDurable += 1;
        counters.queuedBytes -= byteLength;
        counters.stageMs.batch += clock.monotonicMs() - arrivedMs;
        this.#answer(encodeDurable(frame.disk, { seq: accepted.seq, batches: accepted.batches }));
        if (this.#state.kind !== 'ended') this.#grant(byteLength);
        // In the segment and in the index now: the memory goes back at once, not at the next collection.
        this.#host.memory.free(frame.body);
      },
      (error: unknown) => {
        counters.queuedBytes -= byteLength;
        this.#fail(error);
      },
    );
    void done.finally(() => this.#waitsNoMore(queuedFrameBytes));
  }

  async #point(state: OpenState, message: PointMessage): Promise<void> {
    const disks = message.disks.map((each) => ({ ...each, store: this.#disk(state, each.disk) }));
    const arrivedMs = this.#host.clock.monotonicMs();
    const outcome = await state.store.commit({ ...message, epoch: state.epoch, disks });
    this.#host.counters.stageMs.commit += this.#host.clock.monotonicMs() - arrivedMs;
    if (outcome.kind === 'rejected') {
      this.#host.counters.pointsRejected += 1;
      this.#host.logger.error({ machine: state.hello.machine, ...outcome }, 'point rejected');
      const index = message.disks.find((_, at) => disks[at]?.store === outcome.disk)?.disk ?? 0;
      this.#answer(
        encodeRejected({ reason: outcome.reason, disk: index, detail: outcome.detail, retryable: outcome.retryable }),
      );
      return;
    }
    this.#host.counters.pointsCommitted += 1;
    this.#host.logger.info({ machine: state.hello.machine, point: outcome.point }, 'point committed');
    for (const { store } of disks) {
      if (store.leavesFailure === null) continue;
      const fields = { machine: state.hello.machine, disk: store.name, error: store.leavesFailure };
      this.#host.logger.warn(fields, 'the leaf file could not be written; it is a cache, the point stands');
    }
    this.#answer(
      encodeCommitted({
        point: outcome.point,
        cutTimeMs: message.cutTimeMs,
        disks: message.disks.map(({ disk, root }) => ({ disk, root })),
      }),
    );
    this.#host.committed(state.store);
  }
}

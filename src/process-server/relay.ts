/**
 * The working life of a session: what the agent sends goes on to the target (batches through the pool), what the target answers
 * goes back (without the disk key). `session.ts` holds the life around it, `delivery.ts` the way to the target.
 *
 * Invariants:
 *  1. Everything for the target leaves in the order it came (`backlog.ts`).
 *  2. The agent never has more in flight than its window: a byte too many is a protocol error (C5).
 *  3. Disk keys stay here: OPENED goes on to the agent without `diskKey` and `keyVersion` (DESIGN §4).
 *  4. Layers rise over the whole session, all disks alike.
 */
import type { Clock } from '../kit/clock.ts';
import { Credit } from '../kit/credit.ts';
import { invariant } from '../kit/invariant.ts';
import type { Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { saltBytes } from '../kernels/keys.ts';
import { limits } from '../limits.ts';
import type { Connection } from '../transport/connection.ts';
import { checksumsBytesMax } from '../wire/checksums.ts';
import { protocolError } from '../wire/codes.ts';
import { encodeCredit } from '../wire/credit.ts';
import { decodeCycle } from '../wire/cycle.ts';
import { encodeFrame, frameType, type Frame } from '../wire/frame.ts';
import { decodeOpenDisk } from '../wire/open-disk.ts';
import { decodeOpened, encodeOpened } from '../wire/opened.ts';
import { decodeGap } from '../wire/gap.ts';
import { decodePointMessage } from '../wire/point.ts';
import type { Backlog } from './backlog.ts';
import type { Window } from './budget.ts';
import { Comparison } from './comparison.ts';
import type { SessionCounters } from './counters.ts';
import type { Delivery } from './delivery.ts';
import { HeldCredit } from './held-credit.ts';
import type { Kept } from './kept.ts';
import { Lane, targetFault, type PlannedBatch } from './lane.ts';
import type { Sealer } from './pool.ts';
import { ReturnPath } from './return-path.ts';
import { sealingRoom, type SealOutcome } from './seal-batch.ts';
import type { Slabs } from './slabs.ts';
import { layerStartOf, type LayerStart } from './spool-log.ts';
import type { AgentThrottle, Throttle } from './throttle.ts';

export interface RelayOptions {
  readonly agent: Connection;
  readonly delivery: Delivery;
  readonly throttle: Throttle;
  readonly window: Window;
  readonly sealer: Sealer;
  readonly slabs: Slabs;
  /** `ComparisonOptions.room`. */
  readonly comparisonRoom: Credit;
  readonly counters: SessionCounters;
  readonly clock: Clock;
  readonly random: Random;
  /** Ends the session; null: the agent left on its own. */
  readonly end: (reason: Problem | null) => void;
  readonly onFailure: (error: unknown) => void;
}

export class Relay {
  readonly #options: RelayOptions;
  readonly #backlog: Backlog;
  readonly #throttle: AgentThrottle;
  readonly #held: HeldCredit;
  readonly #back: ReturnPath;
  readonly #comparison: Comparison;
  readonly #lanes = new Map<number, Lane>();
  /** By disk: its layer. */
  readonly #layers = new Map<number, LayerStart>();
  readonly #tasks = new Credit(limits.processServer.sessionTasksMax);
  #highestSeq = 0;
  /** Bytes of BATCH bodies the agent may still send. */
  #grantedBytes = 0;
  #firstGrantDone = false;
  /** Of the window, and not granted again yet. */
  #freedBytes = 0;
  #ticks = 0;

  constructor(options: RelayOptions) {
    const { agent, delivery, sealer, counters, comparisonRoom: room, onFailure } = options;
    this.#options = options;
    this.#backlog = delivery.backlog;
    this.#throttle = options.throttle.agent(delivery.machine, (bytes) => this.#pass(bytes));
    delivery.waits.isThrottled = () => this.#throttle.holds;
    const release = (bytes: number): void => {
      this.#freedBytes += bytes;
      this.#grant();
    };
    this.#held = new HeldCredit(() => delivery.level, release);
    this.#back = new ReturnPath(agent, delivery);
    this.#comparison = new Comparison({
      backlog: delivery.backlog,
      back: this.#back,
      sealer,
      counters,
      room,
      onFailure,
    });
  }

  /** Of the longest frame body the agent may send now. */
  get bodyBytesMax(): number {
    return Math.max(checksumsBytesMax, this.#grantedBytes);
  }

  /** @throws Problem: the agent broke the protocol. */
  fromAgent(frame: Frame): void {
    switch (frame.type) {
      case frameType.batch: {
        this.#onBatch(frame);
        return;
      }
      case frameType.cycle: {
        this.#onCycle(frame);
        return;
      }
      case frameType.openDisk: {
        this.#onOpenDisk(frame);
        return;
      }
      case frameType.point: {
        this.#onPoint(frame);
        return;
      }
      case frameType.checksums: {
        this.#comparison.ask(frame, this.#laneOfAgent(frame.disk).checksumBounds);
        this.#options.slabs.free(frame.body);
        this.#relieve();
        return;
      }
      case frameType.gap: {
        decodeGap(frame.body);
        this.#backlog.gap(encodeFrame(frame.type, frame.disk, frame.body));
        this.#relieve();
        return;
      }
      case frameType.error: {
        this.#options.end(null);
        return;
      }
      default:
        throw protocolError(`an agent does not send frames of type ${frame.type} here`);
    }
  }

  /** @throws Problem: the target broke the protocol. */
  heard(frame: Frame): void {
    switch (frame.type) {
      case frameType.durable: {
        this.#laneOfTarget(frame.disk);
        this.#forward(frame);
        this.#grant();
        return;
      }
      case frameType.opened: {
        this.#onOpened(frame);
        return;
      }
      case frameType.checksums: {
        this.#comparison.answer(frame, this.#laneOfTarget(frame.disk).checksumBounds);
        return;
      }
      case frameType.leaves: {
        const lane = this.#laneOfTarget(frame.disk);
        if (isLastLeaves(frame.body)) lane.leavesEnded();
        this.#forward(frame);
        return;
      }
      case frameType.repair: {
        this.#laneOfTarget(frame.disk);
        this.#forward(frame);
        return;
      }
      case frameType.committed:
      case frameType.rejected: {
        this.#forward(frame);
        return;
      }
      default:
        throw targetFault(`a target does not send frames of type ${frame.type}`);
    }
  }

  /** A batch takes nothing of the window any more, or has left the spool. */
  freed({ layer, plainBytes, place }: Kept, by: 'target' | 'spool'): void {
    if (by === 'target' && place) {
      this.#held.drained(plainBytes);
      return;
    }
    if (layer) this.#lanes.get(layer.disk)?.settled(layer.seq);
    this.#options.counters.inFlightBytes -= plainBytes;
    if (by === 'spool') this.#held.spooled(plainBytes);
    else this.#freedBytes += plainBytes;
  }

  /** Every half second. */
  tick(): void {
    this.#ticks += 1;
    if (this.#ticks % 2 === 0) this.#held.tick();
    this.#grant();
  }

  /** The agent may have to wait for more before it can send its next batch. */
  get isOutOfCredit(): boolean {
    return this.#grantedBytes < limits.wire.batchPayloadBytesMax;
  }

  /** Nothing is being opened or compared. */
  get isSettled(): boolean {
    return this.#lanes.size > 0 && this.#comparison.isIdle && [...this.#lanes.values()].every(({ isReady }) => isReady);
  }

  /** Drops what waits and wipes keys. Idempotent. */
  end(reason: Problem): void {
    this.#tasks.end(reason);
    this.#throttle.end();
    this.#comparison.end();
    for (const lane of this.#lanes.values()) lane.end();
    this.#options.counters.inFlightBytes = 0;
  }

  #onOpenDisk(frame: Frame): void {
    const open = decodeOpenDisk(frame.body);
    if (open.disk !== frame.disk) throw protocolError('OPEN_DISK names two disks');
    if (this.#lanes.has(open.disk)) throw protocolError(`disk ${open.disk} is opened twice`);
    this.#lanes.set(open.disk, new Lane(open));
    this.#backlog.control(encodeFrame(frame.type, frame.disk, frame.body));
    this.#relieve();
  }

  #onCycle(frame: Frame): void {
    const cycle = decodeCycle(frame.body);
    if (cycle.disk !== frame.disk) throw protocolError('CYCLE names two disks');
    if (cycle.seq <= this.#highestSeq) throw protocolError(`layer ${cycle.seq} after layer ${this.#highestSeq}`);
    const salted = this.#laneOfAgent(cycle.disk).begin(cycle, this.#options.random.bytes(saltBytes));
    this.#highestSeq = cycle.seq;
    const layer = layerStartOf(salted);
    this.#layers.set(cycle.disk, layer);
    this.#backlog.cycle(layer);
    this.#relieve();
  }

  #onBatch({ disk, body }: Frame): void {
    const { counters, slabs } = this.#options;
    if (body.byteLength > this.#grantedBytes) {
      throw protocolError(`a BATCH of ${body.byteLength} bytes, ${this.#grantedBytes} were granted`); // 2
    }
    const lane = this.#laneOfAgent(disk);
    const plan = lane.plan(body);
    this.#grantedBytes -= body.byteLength;
    const { byteLength } = body;
    const buffer = slabs.hold(body, sealingRoom(plan.count));
    counters.batches += 1;
    counters.batchBytesIn += byteLength;
    counters.inFlightBytes += byteLength;
    const layer = this.#layers.get(disk);
    invariant(layer?.seq === plan.seq, 'a batch has a layer');
    this.#throttle.used(byteLength, layer.kind);
    const outcome = this.#seal(lane, plan, buffer);
    this.#backlog.sealed({ layer, batch: plan.batch, plainBytes: byteLength, outcome });
    this.#relieve();
  }

  async #seal(lane: Lane, plan: PlannedBatch, buffer: ArrayBuffer): Promise<SealOutcome> {
    const { counters, sealer, clock } = this.#options;
    const receivedMs = clock.monotonicMs();
    await this.#tasks.take(1);
    counters.sealing += 1;
    try {
      const { payloadBytes, ...task } = plan;
      const outcome = await sealer.seal({ ...task, buffer, rawStreak: payloadBytes === 0 ? 0 : lane.rawStreak });
      if (outcome.outcome === 'sealed') {
        const { stats } = outcome;
        const { kernelMs } = stats;
        lane.rawStreak = stats.rawStreak;
        counters.plainBytes += stats.plainBytes;
        counters.storedBytes += stats.storedBytes;
        counters.records += stats.records;
        counters.zeroRecords += stats.zeroRecords;
        counters.leafCheckedRecords += stats.leafCheckedRecords;
        const kernels = kernelMs.check + kernelMs.seal + kernelMs.digest;
        counters.stageMs.queue += Math.max(0, clock.monotonicMs() - receivedMs - kernels);
        for (const stage of ['check', 'seal', 'digest'] as const) counters.stageMs[stage] += kernelMs[stage];
      }
      return outcome;
    } finally {
      counters.sealing -= 1;
      this.#tasks.give(1);
    }
  }

  #onPoint(frame: Frame): void {
    const message = decodePointMessage(frame.body);
    for (const { disk } of message.disks) this.#laneOfAgent(disk);
    this.#options.counters.points += 1;
    this.#backlog.point(encodeFrame(frame.type, frame.disk, frame.body), message);
    this.#relieve();
  }

  #onOpened(frame: Frame): void {
    const message = decodeOpened(frame.body);
    if (message.disk !== frame.disk) throw targetFault('OPENED names two disks');
    const lane = this.#laneOfTarget(message.disk);
    lane.opened(message);
    this.#options.delivery.facts.opened(lane.open, message);
    const { disk, diskId, epoch, nextCounter, committed, layers, leaves, leafKey } = message; // 3
    this.#back.send(encodeOpened({ disk, diskId, epoch, nextCounter, committed, layers, leaves, leafKey }));
    if (this.#firstGrantDone) return;
    this.#firstGrantDone = true;
    this.#grant();
  }

  #grant(): void {
    const { window } = this.#options;
    if (this.#freedBytes > 0) window.returned(this.#freedBytes);
    this.#freedBytes = 0;
    const bytes = window.grant();
    if (bytes > 0) this.#throttle.offer(bytes);
  }

  #pass(bytes: number): void {
    this.#grantedBytes += bytes;
    this.#back.send(encodeCredit(bytes));
  }

  /** Reads no more from the agent while too much waits for the target. */
  #relieve(): void {
    if (this.#backlog.full) this.#options.agent.pause();
  }

  /** Back to the agent as it came; copied, because a view would keep all that was read with it. */
  #forward(frame: Frame): void {
    this.#back.send(encodeFrame(frame.type, frame.disk, frame.body));
  }

  #laneOfAgent(disk: number): Lane {
    const lane = this.#lanes.get(disk);
    if (!lane) throw protocolError(`disk ${disk} was not opened`);
    return lane;
  }

  #laneOfTarget(disk: number): Lane {
    const lane = this.#lanes.get(disk);
    if (!lane) throw targetFault(`it speaks of disk ${disk}, which was not opened`);
    return lane;
  }
}

/** LEAVES: its first field is flags, of which the lowest bit says so. */
function isLastLeaves(body: Uint8Array): boolean {
  return ((body[0] ?? 0) & 1) === 1;
}

/**
 * The working life of a session: what the agent sends goes on to the target (batches through the pool), what the target answers
 * goes back (without the disk key). `session.ts` holds the life around it.
 *
 * Invariants:
 *  1. Everything for the target leaves in the order it came (`egress.ts`).
 *  2. The agent never has more in flight than its window: a byte too many is a protocol error (C5).
 *  3. Disk keys stay here: OPENED goes on to the agent without `diskKey` and `keyVersion` (DESIGN §4).
 *  4. Layers rise over the whole session, all disks alike.
 */
import type { Clock } from '../kit/clock.ts';
import { Credit } from '../kit/credit.ts';
import { Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { saltBytes } from '../kernels/keys.ts';
import { limits } from '../limits.ts';
import type { Connection } from '../transport/connection.ts';
import { mustRecycle } from '../transport/heartbeat.ts';
import { checksumsBytesMax } from '../wire/checksums.ts';
import { protocolError } from '../wire/codes.ts';
import { decodeCredit, encodeCredit } from '../wire/credit.ts';
import { decodeCycle, encodeCycle } from '../wire/cycle.ts';
import { decodeDurable } from '../wire/durable.ts';
import { decodeErrorMessage } from '../wire/error.ts';
import { encodeFrame, frameType, type Frame } from '../wire/frame.ts';
import { decodeOpenDisk } from '../wire/open-disk.ts';
import { decodeOpened, encodeOpened } from '../wire/opened.ts';
import { decodeGap } from '../wire/gap.ts';
import { decodePointMessage } from '../wire/point.ts';
import type { Window } from './budget.ts';
import { Comparison } from './comparison.ts';
import type { SessionCounters } from './counters.ts';
import { Egress } from './egress.ts';
import { Lane, targetFault, type PlannedBatch } from './lane.ts';
import type { Sealer } from './pool.ts';
import { ReturnPath } from './return-path.ts';
import { sealingRoom, type SealOutcome } from './seal-batch.ts';
import type { Slabs } from './slabs.ts';

export interface RelayOptions {
  readonly agent: Connection;
  readonly target: Connection;
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
  readonly #egress: Egress;
  readonly #back: ReturnPath;
  readonly #comparison: Comparison;
  readonly #lanes = new Map<number, Lane>();
  readonly #tasks = new Credit(limits.processServer.sessionTasksMax);
  #highestSeq = 0;
  /** Bytes of BATCH bodies the agent may still send. */
  #grantedBytes = 0;
  #firstGrantDone = false;

  constructor(options: RelayOptions) {
    const { agent, target, clock, sealer, slabs, counters, comparisonRoom: room, onFailure } = options;
    this.#options = options;
    this.#back = new ReturnPath(agent, target);
    const onRoom = (): void => agent.resume();
    const egress = new Egress({ connection: target, clock, slabs, counters, onFailure, onRoom });
    this.#egress = egress;
    this.#comparison = new Comparison({ egress, back: this.#back, sealer, counters, room, onFailure });
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
        this.#toTarget(encodeFrame(frame.type, frame.disk, frame.body));
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
  fromTarget(frame: Frame): void {
    switch (frame.type) {
      case frameType.durable: {
        this.#onDurable(frame);
        return;
      }
      case frameType.credit: {
        this.#egress.granted(decodeCredit(frame.body));
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
      case frameType.leaves:
      case frameType.repair:
        this.#laneOfTarget(frame.disk);
        {
          this.#forward(frame);
          return;
        }
      case frameType.committed: {
        this.#onCommitted(frame);
        return;
      }
      case frameType.rejected:
        this.#options.counters.pointsRejected += 1;
        {
          this.#forward(frame);
          return;
        }
      case frameType.error: {
        const { code, message, retryable } = decodeErrorMessage(frame.body);
        this.#options.end(new Problem(code, message, { retryable }));
        return;
      }
      default:
        throw targetFault(`a target does not send frames of type ${frame.type}`);
    }
  }

  /** Drops what waits and wipes keys. Idempotent. */
  end(reason: Problem): void {
    this.#tasks.end(reason);
    this.#egress.end(reason);
    this.#comparison.end();
    for (const lane of this.#lanes.values()) lane.end();
    this.#options.counters.inFlightBytes = 0;
  }

  #onOpenDisk(frame: Frame): void {
    const open = decodeOpenDisk(frame.body);
    if (open.disk !== frame.disk) throw protocolError('OPEN_DISK names two disks');
    if (this.#lanes.has(open.disk)) throw protocolError(`disk ${open.disk} is opened twice`);
    this.#lanes.set(open.disk, new Lane(open));
    this.#toTarget(encodeFrame(frame.type, frame.disk, frame.body));
  }

  #onCycle(frame: Frame): void {
    const cycle = decodeCycle(frame.body);
    if (cycle.disk !== frame.disk) throw protocolError('CYCLE names two disks');
    if (cycle.seq <= this.#highestSeq) throw protocolError(`layer ${cycle.seq} after layer ${this.#highestSeq}`);
    const salted = this.#laneOfAgent(cycle.disk).begin(cycle, this.#options.random.bytes(saltBytes));
    this.#highestSeq = cycle.seq;
    this.#toTarget(encodeCycle(salted));
  }

  #onBatch({ disk, body }: Frame): void {
    const { counters, slabs, clock } = this.#options;
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
    this.#egress.sealed(this.#seal(lane, plan, buffer), () => lane.sent(plan.seq, clock.monotonicMs()));
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
    for (const { disk } of decodePointMessage(frame.body).disks) this.#laneOfAgent(disk);
    this.#options.counters.points += 1;
    this.#toTarget(encodeFrame(frame.type, frame.disk, frame.body));
  }

  #onOpened(frame: Frame): void {
    const message = decodeOpened(frame.body);
    if (message.disk !== frame.disk) throw targetFault('OPENED names two disks');
    this.#laneOfTarget(message.disk).opened(message);
    const { disk, diskId, epoch, nextCounter, committed, layers, leaves, leafKey } = message; // 3
    this.#back.send(encodeOpened({ disk, diskId, epoch, nextCounter, committed, layers, leaves, leafKey }));
    if (this.#firstGrantDone) return;
    this.#firstGrantDone = true;
    this.#grant();
  }

  #onDurable(frame: Frame): void {
    const { counters, clock, window } = this.#options;
    const lane = this.#laneOfTarget(frame.disk);
    const { batches, bytes, waitedMs } = lane.durable(decodeDurable(frame.body), clock.monotonicMs());
    counters.batchesDurable += batches;
    counters.inFlightBytes -= bytes;
    counters.stageMs.durable += waitedMs;
    this.#forward(frame);
    if (bytes === 0) return;
    window.returned(bytes);
    this.#grant();
  }

  #onCommitted(frame: Frame): void {
    this.#options.counters.pointsCommitted += 1;
    this.#forward(frame);
    if (!mustRecycle(this.#options.target)) return;
    const why = 'the connection to the target carried as much as one key should; connect again';
    this.#options.end(new Problem('shutting-down', why, { retryable: true }));
  }

  #grant(): void {
    const bytes = this.#options.window.grant();
    if (bytes === 0) return;
    this.#grantedBytes += bytes;
    this.#back.send(encodeCredit(bytes));
  }

  #toTarget(frame: Uint8Array): void {
    this.#egress.control(frame);
    this.#relieve();
  }

  /** Reads no more from the agent while too much waits for the target. */
  #relieve(): void {
    if (this.#egress.full) this.#options.agent.pause();
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

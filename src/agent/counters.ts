/** What an agent counts, as plain numbers; `main` turns them into metrics and reports. */
import type { Durable } from '../wire/durable.ts';

export interface AgentCounters {
  blocksHashed: number;
  /** Of those: by surveys. */
  blocksSurveyed: number;
  blocksUnchanged: number;
  batchesSent: number;
  batchesDurable: number;
  payloadBytesSent: number;
  /** Payload of blocks that were sent before and not durable when their session ended. */
  payloadBytesResent: number;
  frameBytesSent: number;
  sessions: number;
  pointsCommitted: number;
  pointsRejected: number;
  cutsGivenUp: number;
  writersHeldMsMax: number;
  /** Milliseconds by stage, summed: waiting for reads of the disk, hashing, handing batches over (credit and socket), POINT to its answer. */
  readonly stageMs: { read: number; hash: number; send: number; commit: number };
}

export function newCounters(): AgentCounters {
  return {
    blocksHashed: 0,
    blocksSurveyed: 0,
    blocksUnchanged: 0,
    batchesSent: 0,
    batchesDurable: 0,
    payloadBytesSent: 0,
    payloadBytesResent: 0,
    frameBytesSent: 0,
    sessions: 0,
    pointsCommitted: 0,
    pointsRejected: 0,
    cutsGivenUp: 0,
    writersHeldMsMax: 0,
    stageMs: { read: 0, hash: 0, send: 0, commit: 0 },
  };
}

export interface BatchInFlight {
  readonly disk: number;
  readonly seq: number;
  readonly batch: number;
  readonly blocks: readonly number[];
  readonly payloadBytes: number;
}

/**
 * Batches sent and not known to be durable. Bounded by credit: each lies inside the session's window. When a session ends, what is
 * left here is what a reconnect may have to send again, and `payloadBytesResent` counts what really was.
 */
export class FlightLog {
  #inFlight: BatchInFlight[] = [];
  #lost = new Set<string>();
  readonly #counters: AgentCounters;

  constructor(counters: AgentCounters) {
    this.#counters = counters;
  }

  /** Bounded by the window the process server grants. */
  get payloadBytes(): number {
    return this.#inFlight.reduce((sum, batch) => sum + batch.payloadBytes, 0);
  }

  sending(disk: number, block: number, payloadBytes: number): void {
    if (this.#lost.size > 0 && this.#lost.delete(`${disk}:${block}`)) this.#counters.payloadBytesResent += payloadBytes;
  }

  sent(batch: BatchInFlight): void {
    this.#inFlight.push(batch);
  }

  durable(disk: number, message: Durable): void {
    const before = this.#inFlight.length;
    this.#inFlight = this.#inFlight.filter(
      (batch) => batch.disk !== disk || batch.seq !== message.seq || batch.batch >= message.batches,
    );
    this.#counters.batchesDurable += before - this.#inFlight.length;
  }

  sessionEnded(): void {
    for (const batch of this.#inFlight) for (const block of batch.blocks) this.#lost.add(`${batch.disk}:${block}`);
    this.#inFlight = [];
  }
}

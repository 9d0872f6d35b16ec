/** What an agent counts, as plain numbers; `main` turns them into metrics and reports. */

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
  /**
   * Milliseconds by stage, summed: waiting for reads of the disk, hashing, handing batches over (credit and socket), and the time in which at least
   * one POINT waited for its answer.
   */
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

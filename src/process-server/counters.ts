/** What a session counted so far: plain numbers, cheap on the hot path, read by metrics and status whenever someone asks. */
export interface SessionCounters {
  /** BATCH bodies received, bytes. */
  batchBytesIn: number;
  /** Raw bytes of pages sealed. */
  plainBytes: number;
  /** Sealed payload bytes. */
  storedBytes: number;
  /** SEALED bodies sent to the target, bytes. */
  sealedBytesOut: number;
  batches: number;
  /** Batches the target reported durable. */
  batchesDurable: number;
  records: number;
  zeroRecords: number;
  leafCheckedRecords: number;
  /** Checksums of the source compared with the target's, and how many of them differed. */
  checksums: number;
  checksumsDiffering: number;
  /** Checksums received from the agent, bytes. The target sends as many. */
  checksumBytesIn: number;
  /** Time workers compared, milliseconds. */
  compareMs: number;
  /** All that went over the two connections, TLS and WebSocket included, bytes. */
  agentBytesIn: number;
  agentBytesOut: number;
  targetBytesIn: number;
  targetBytesOut: number;
  points: number;
  pointsCommitted: number;
  pointsRejected: number;
  /** Left out because a later one waited, too (SPOOL.md, "Merging"). */
  pointsMerged: number;
  /** Frames written to the spool, bytes; SEALED bodies sent from there, bytes. */
  spooledBytes: number;
  drainedBytes: number;
  /** Times the target was lost and the session went on. */
  targetLosses: number;
  /** Times what was spooled was of no use any more. */
  spoolsDropped: number;
  /** Bytes of BATCH bodies taken in, and neither durable nor spooled. */
  inFlightBytes: number;
  /** Batches given to the pool and not back. */
  sealing: number;
  /** Sums in milliseconds, over all batches. */
  readonly stageMs: {
    /** From received to sealed, without the kernels: waiting for a thread. */
    queue: number;
    check: number;
    seal: number;
    digest: number;
    /** Waiting for batches before it, and for the target's credit. */
    credit: number;
    /** Until the socket to the target took it. */
    send: number;
    /** From sent to durable. */
    durable: number;
  };
}

export function newCounters(): SessionCounters {
  return {
    batchBytesIn: 0,
    plainBytes: 0,
    storedBytes: 0,
    sealedBytesOut: 0,
    batches: 0,
    batchesDurable: 0,
    records: 0,
    zeroRecords: 0,
    leafCheckedRecords: 0,
    checksums: 0,
    checksumsDiffering: 0,
    checksumBytesIn: 0,
    compareMs: 0,
    agentBytesIn: 0,
    agentBytesOut: 0,
    targetBytesIn: 0,
    targetBytesOut: 0,
    points: 0,
    pointsCommitted: 0,
    pointsRejected: 0,
    pointsMerged: 0,
    spooledBytes: 0,
    drainedBytes: 0,
    targetLosses: 0,
    spoolsDropped: 0,
    inFlightBytes: 0,
    sealing: 0,
    stageMs: { queue: 0, check: 0, seal: 0, digest: 0, credit: 0, send: 0, durable: 0 },
  };
}

/** Adds every number of `from` to `into`. */
export function addCounters(into: SessionCounters, from: SessionCounters): void {
  for (const name of Object.keys(from) as (keyof SessionCounters)[]) {
    if (name !== 'stageMs') into[name] += from[name];
  }
  for (const stage of Object.keys(from.stageMs) as (keyof SessionCounters['stageMs'])[]) {
    into.stageMs[stage] += from.stageMs[stage];
  }
}

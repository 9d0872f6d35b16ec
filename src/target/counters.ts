/** What a target counts, as plain numbers; `main` turns them into metrics and reports. */
export interface TargetCounters {
  sealedBytesIn: number;
  plainBytesIn: number;
  recordsIn: number;
  batchesDurable: number;
  pointsCommitted: number;
  pointsRejected: number;
  pointsProven: number;
  blocksProven: number;
  integrityErrors: number;
  /** Stored bytes read and checked in the background, and versions of blocks that were found damaged then. */
  scrubbedBytes: number;
  scrubDamage: number;
  /** Points no longer kept, records taken out of indexes, bytes copied out of segments, and bytes of segments removed. */
  pointsRetired: number;
  recordsFolded: number;
  bytesMoved: number;
  bytesRemoved: number;
  refused: number;
  /** Sessions of process servers that no longer had the machine, refused at their HELLO or at what they sent (C9). */
  staleRefused: number;
  /** Stores given up because their index could not be written, and opened again. */
  storesFailed: number;
  /** Sealed bytes received and not yet durable and indexed. */
  queuedBytes: number;
  /** Milliseconds by stage, summed: a batch from its arrival to durable, a commit from POINT to its answer, a proof per point. */
  readonly stageMs: { batch: number; commit: number; proof: number };
}

export function newTargetCounters(): TargetCounters {
  return {
    sealedBytesIn: 0,
    plainBytesIn: 0,
    recordsIn: 0,
    batchesDurable: 0,
    pointsCommitted: 0,
    pointsRejected: 0,
    pointsProven: 0,
    blocksProven: 0,
    integrityErrors: 0,
    scrubbedBytes: 0,
    scrubDamage: 0,
    pointsRetired: 0,
    recordsFolded: 0,
    bytesMoved: 0,
    bytesRemoved: 0,
    refused: 0,
    staleRefused: 0,
    storesFailed: 0,
    queuedBytes: 0,
    stageMs: { batch: 0, commit: 0, proof: 0 },
  };
}

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
  refused: number;
  /** Stores given up because their index could not be written, and opened again. */
  storesFailed: number;
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
    refused: 0,
    storesFailed: 0,
  };
}

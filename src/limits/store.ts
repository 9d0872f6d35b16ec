/** Bounds of the store (`limits.ts`). */
import { GiB, MiB } from '../kit/sizes.ts';

export const store = {
  /** Uncommitted leaves of one disk kept in memory; what is beyond goes to the overlay file beside the leaf file. */
  leafOverlayMemoryBytes: 8 * MiB,
  /** Records applied to an index and not yet in a transaction of its own; `room` waits above. */
  indexBacklogRecordsMax: 65_536,
  /** Address space reserved per index, not memory. */
  indexMapBytes: 64 * GiB,
  /** Times an index is opened without a clean close in between before it is taken for damaged and rebuilt. */
  indexStartsMax: 8,
  /** Records under one Merkle node whose history is told to an index begun anew, about 200 bytes each. */
  nodeRecordsMax: 1_000_000,
  indexStepEntries: 1024,
  segmentsOpenMax: 64,
  layerKeysMax: 1024,
  readerBuffersMax: 16,
  /** Free space is looked at after so many bytes written, and so often while there is too little. */
  freeCheckBytes: 4 * MiB,
  freeCheckMs: 1_000,
  replayReadBytes: 1 * MiB,
  pointsRecordBytesMax: 16 * MiB,
  damagedBlocksMax: 1_000,
  /** Records a fold looks at, and what compaction gathers into one MOVED, before ingest goes first. */
  foldStepRecords: 1_024,
  movedBytes: 1 * MiB,
  /** How long the file of a removed segment stays after `points.log` says so: who looked a record up before may still be about to read it. */
  removeAfterMs: 10_000,
  /** Dead bytes in hundredths of the live ones that compaction leaves where they are, all segments together. */
  deadPercentMax: 20,
  /** Runs of points one RETIRED record names at most; more follow in the next. */
  retiredRunsMax: 10_000,
} as const;

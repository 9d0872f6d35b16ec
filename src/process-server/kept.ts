/** One frame on its way to the target, kept until it is answered (`backlog.ts`). */
import { frameHeaderBytes, frameType } from '../wire/frame.ts';
import { decodePointMessage } from '../wire/point.ts';
import { decodeSealedHeader } from '../wire/sealed.ts';
import type { SealOutcome } from './seal-batch.ts';
import type { LayerStart, Place, ReadEntry } from './spool-log.ts';

export interface Kept {
  /** `control`: OPEN_DISK, ASK. They never go to the spool. */
  readonly kind: 'control' | 'cycle' | 'sealed' | 'point' | 'gap';
  /** Of CYCLE and SEALED. */
  readonly layer: LayerStart | null;
  readonly batch: number;
  /** Of POINT. */
  readonly cutTimeMs: number;
  /** Of the BATCH it was sealed from: what it takes of the window. */
  readonly plainBytes: number;
  /** What it counts as while it waits in memory. */
  readonly costBytes: number;
  /** May have to wait when its turn has come; what is behind waits too. */
  readonly ready?: () => Promise<void>;
  readonly outcome: Promise<SealOutcome> | null;
  /** Null: it is not sealed yet, or its memory was given back. */
  frame: Uint8Array | null;
  slab: ArrayBuffer | null;
  users: number;
  /** Where it is on disk. */
  place: Place | null;
  /** Its turn has come. */
  claimed: boolean;
  answered: boolean;
  /** It counts as waiting in memory; its plain bytes are in the window. */
  counts: boolean;
  takesWindow: boolean;
  sentAtMs: number;
}

export interface SealedBatch {
  readonly layer: LayerStart;
  readonly batch: number;
  /** Of the BATCH. */
  readonly plainBytes: number;
  readonly outcome: Promise<SealOutcome>;
}

export interface Durably {
  readonly batches: number;
  readonly waitedMs: number;
}

const blank = {
  layer: null,
  batch: 0,
  cutTimeMs: 0,
  plainBytes: 0,
  costBytes: 0,
  outcome: null,
  frame: null,
  slab: null,
  place: null,
  claimed: false,
  answered: false,
  sentAtMs: 0,
} as const;

/** In memory, which is the backlog's. */
export function newEntry(entry: Pick<Kept, 'kind'> & Partial<Kept>): Kept {
  return { ...blank, users: 1, counts: true, takesWindow: entry.kind === 'sealed', ...entry };
}

/** As it was read from the spool. @param slab where its frame lies. @throws Problem: it is no frame of the spool. */
export function entryOfDisk({ frame, place, plainBytes, layer }: ReadEntry, slab: ArrayBuffer | null): Kept {
  const base = { ...blank, users: 0, counts: false, takesWindow: false, frame, slab, place, plainBytes };
  const body = frame.subarray(frameHeaderBytes);
  switch (frame[0]) {
    case frameType.cycle:
      return { ...base, kind: 'cycle', layer };
    case frameType.sealed:
      return { ...base, kind: 'sealed', layer, batch: decodeSealedHeader(body).batch };
    case frameType.point:
      return { ...base, kind: 'point', cutTimeMs: decodePointMessage(body).cutTimeMs };
    default:
      return { ...base, kind: 'gap' };
  }
}

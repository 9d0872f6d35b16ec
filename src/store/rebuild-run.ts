/**
 * Rebuilding many blocks in one go, for worker threads: a task carries the index's own bytes of every record that is needed, so that the
 * thread needs no index; it reads the segments itself, synchronously, and rebuilds by the one kernel (`rebuild.ts`).
 *
 * A block that can not be rebuilt is zeros in the outcome and named beside it, with what is wrong as data: an error that is thrown across
 * threads loses its code. Every array of a task is memory of its own, because a view would be posted with all the memory behind it.
 */
import { isProblem, Problem } from '../kit/problem.ts';
import { readRecord, recordValueBytesMax, writeRecord, type IndexEntry } from './index-codec.ts';
import { seqsOf, type BlockRebuilder, type DiskToRebuild } from './rebuild.ts';

/** Numbers in `RebuildTask.records` per record: block, seq, where its value ends in `values`. */
const numbersPerRecord = 3;

export interface RebuildTask {
  /** Tells the images of a process apart: layer keys are kept per image. */
  readonly image: number;
  /** The directory of the machine's segments. */
  readonly segments: string;
  readonly disk: DiskToRebuild;
  /** LAYER bodies, by seq, of all records. */
  readonly layers: ReadonlyMap<number, Uint8Array>;
  readonly blocks: number;
  /** For the blocks, when there is memory to use again: blocks × blockSize bytes with anything in them. */
  readonly into?: ArrayBuffer;
  /** The first record of a block is the one it is read as of; those that hold other pages of it follow. */
  readonly records: Float64Array;
  /** Values as in the index (`index-codec.ts`). */
  readonly values: Uint8Array;
}

export interface RebuildFailure {
  /** Of the block in the task. */
  readonly index: number;
  readonly code: string;
  readonly message: string;
  readonly remedy: string;
  readonly retryable: boolean;
}

/** What the index says, for `planRebuild`. */
export interface RecordsOfDisk {
  get(block: number, seq: number): IndexEntry | undefined;
  layer(seq: number): Uint8Array | undefined;
}

/** The task that rebuilds these blocks, each as of its entry; blocks differ. */
export function planRebuild(
  at: Pick<RebuildTask, 'image' | 'segments' | 'disk'>,
  entries: readonly IndexEntry[],
  index: RecordsOfDisk,
): RebuildTask {
  const records: IndexEntry[] = [];
  for (const entry of entries) {
    records.push(entry);
    for (const seq of seqsOf(entry)) {
      const record = seq === entry.seq ? undefined : index.get(entry.block, seq);
      // One that is missing is found missing by the kernel, which says so.
      if (record) records.push(record);
    }
  }
  const layers = new Map<number, Uint8Array>();
  for (const { seq } of records) {
    const body = layers.has(seq) ? undefined : index.layer(seq);
    if (body) layers.set(seq, Uint8Array.from(body));
  }
  const slab = Buffer.allocUnsafeSlow(records.length * recordValueBytesMax);
  const numbers = new Float64Array(records.length * numbersPerRecord);
  let end = 0;
  records.forEach((record, number) => {
    end += writeRecord(slab, end, record, record, record.pages);
    numbers.set([record.block, record.seq, end], number * numbersPerRecord);
  });
  return { ...at, layers, blocks: entries.length, records: numbers, values: Uint8Array.from(slab.subarray(0, end)) };
}

/** The task's blocks, each with the other records of it. */
function* blocksOf(task: RebuildTask): Generator<{ entry: IndexEntry; others: Map<number, IndexEntry> }> {
  const { records, values } = task;
  const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  let current: { entry: IndexEntry; others: Map<number, IndexEntry> } | null = null;
  for (let at = 0, start = 0; at < records.length; at += numbersPerRecord) {
    const [block = 0, seq = 0, end = 0] = records.subarray(at, at + numbersPerRecord);
    const record = readRecord(block, seq, bytes.subarray(start, end));
    start = end;
    if (current?.entry.block === block) {
      current.others.set(seq, record);
      continue;
    }
    if (current) yield current;
    current = { entry: record, others: new Map() };
  }
  if (current) yield current;
}

/** The segments the task reads from. */
export function segmentsOf(task: RebuildTask): Set<number> {
  const segments = new Set<number>();
  for (const { entry, others } of blocksOf(task)) {
    for (const record of [entry, ...others.values()]) if (record.storedLength > 0) segments.add(record.segment);
  }
  return segments;
}

/**
 * Rebuilds the task's blocks into `into` (blocks × blockSize bytes), one after another. `readAt` fills `into` from `offset` of the segment, or
 * throws. Only what is no Problem is thrown.
 */
export function rebuildRun(
  task: RebuildTask,
  rebuilder: BlockRebuilder,
  readAt: (segment: number, into: Uint8Array, offset: number) => void,
  into: Uint8Array,
): RebuildFailure[] {
  const { blockSize } = task.disk;
  const failures: RebuildFailure[] = [];
  let index = 0;
  for (const { entry, others } of blocksOf(task)) {
    const block = into.subarray(index * blockSize, (index + 1) * blockSize);
    try {
      const rebuild = rebuilder.rebuild(entry, (seq) => others.get(seq), block);
      for (let step = rebuild.next(); step.done !== true;) {
        const { segment, into: payload, offset } = step.value;
        let failure: { error: unknown } | null = null;
        try {
          readAt(segment, payload, offset);
        } catch (error) {
          failure = { error };
        }
        step = failure === null ? rebuild.next() : rebuild.throw(failure.error);
      }
    } catch (error) {
      if (!isProblem(error)) throw error;
      const { code, message, remedy, retryable } = error;
      failures.push({ index, code, message, remedy, retryable });
    }
    index += 1;
  }
  return failures;
}

export function problemOf({ code, message, remedy, retryable }: RebuildFailure): Problem {
  return new Problem(code, message, { remedy, retryable });
}

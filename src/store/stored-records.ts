/**
 * All that is stored of a machine, for who checks it in place while it is in use (`target/scrubber.ts`): its segments entry by entry, which points read
 * a record, and whether what they read of it is whole. Never writes.
 *
 * Invariants:
 *  1. A record is checked as its points read it: by the index, page map and all, against its leaf. What the index says of it is held against the row in
 *     the segment beside, because the index is a cache, and who deletes it has the row alone.
 *  2. Only what committed points rely on is looked at: what lies above may be half written.
 *  3. Fold may move a record or remove a segment at any time. So what looks damaged is looked up again before it is called so.
 */
import { isProblem, Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import { decodeSealedRows, type SealedRow } from '../wire/sealed.ts';
import type { DiskStore } from './disk-store.ts';
import type { IndexEntry } from './index-codec.ts';
import { PointReader } from './point-reader.ts';
import { findRoot, type DiskAtRoot, type RootFinding } from './point-roots.ts';
import type { PointsView } from './points-view.ts';
import { seqsOf } from './rebuild.ts';
import { isMediumError } from './medium-error.ts';
import type { RecordIndex } from './record-index.ts';
import { readProgress, writeProgress, type ScrubProgress } from './scrub-progress.ts';
import { readEntry, type EntryContent } from './segment-entry-reader.ts';
import { entryHeaderBytes, sameBytes, segmentName, type Position } from './segment-format.ts';
import { decodeMoved } from './segment-moved.ts';
import type { SegmentReader } from './segment-reader.ts';
import { surveySegments, type LostRange, type SurveyedSegment } from './segment-survey.ts';
import { SegmentWindow } from './segment-window.ts';
import { walkSegment, type SegmentEnd, type WalkedEntry } from './segment-walk.ts';
import { readersOf, type KeptPoint } from './version-points.ts';

export interface StoredRecordsParts {
  readonly machine: string;
  readonly machineId: Uint8Array;
  readonly files: Files;
  readonly machineDirectory: string;
  /** The machine's directory of segments. */
  readonly directory: string;
  readonly points: PointsView;
  readonly index: RecordIndex;
  readonly reader: SegmentReader;
}

/** A row as it stands in a segment; `payloadOffset` is within the entry's body. */
export interface StoredRow extends SealedRow {
  readonly seq: number;
}

export interface StoredRecord {
  readonly disk: DiskStore;
  readonly entry: IndexEntry;
}

export class StoredRecords {
  readonly #parts: StoredRecordsParts;
  readonly #readers = new Map<number, PointReader>();
  /** By disk number, of so many repairs: block and healthy seq → damaged seqs. */
  readonly #healed = new Map<number, { readonly size: number; readonly seqs: Map<string, number[]> }>();
  #block = new Uint8Array(0);

  constructor(parts: StoredRecordsParts) {
    this.#parts = parts;
  }

  /** Bytes of each segment that points rely on. */
  lengths(): Map<number, number> {
    const lengths = new Map<number, number>();
    for (const { segment, length } of this.#parts.points.extents)
      lengths.set(segment, Math.max(length, lengths.get(segment) ?? 0));
    return lengths;
  }

  /** The segments points rely on, from this one on, each as far as they do (invariant 2). Reads headers only. */
  async segments(from: number): Promise<SurveyedSegment[]> {
    const { files, directory, machineId, points } = this.#parts;
    const { extents, removed } = points;
    const { segments } = await surveySegments({ files, directory, machineId, extents, removed, from });
    return segments.flatMap((segment) => {
      const relied = segment.extents.at(-1)?.length ?? 0;
      return relied === 0 ? [] : [{ ...segment, knownEnd: relied, closed: true }];
    });
  }

  /** Every byte of the segment, checked. Views are valid until the next step. */
  walk(segment: SurveyedSegment, ended: (end: SegmentEnd) => void): AsyncGenerator<WalkedEntry, void, void> {
    const { files, machineId } = this.#parts;
    const options = { files, machineId, whole: true, readBytes: limits.store.replayReadBytes, tailBytes: 0 };
    return walkSegment(options, segment, ended);
  }

  /** Fold has taken it away. */
  isRemoved(segment: number): boolean {
    return this.#parts.points.removed.has(segment);
  }

  /** What the index says of the record; null: it is of no point, was dropped, or folded away. */
  entry(diskNo: number, block: number, seq: number): IndexEntry | null {
    if (seq > this.#parts.points.listedSeq(diskNo)) return null;
    return this.#parts.index.get(diskNo, block, seq) ?? null;
  }

  /** The kept points that read the block as of this record; ascending. */
  pointsReading(kept: readonly KeptPoint[], diskNo: number, block: number, seq: number): readonly KeptPoint[] {
    return readersOf(this.#parts.index, kept, { diskNo, block, seq });
  }

  /** The listed records that lie in the range, by the index; all of it is gone through, a step at a time. */
  async *recordsIn(disks: readonly DiskStore[], range: LostRange): AsyncGenerator<StoredRecord[], void, void> {
    const index = await this.#parts.index.reader();
    const end = range.offset + range.length;
    for (const disk of disks) {
      const listed = this.#parts.points.listedSeq(disk.no);
      // An entry's payloads lie behind its headers, so a zero record's place may be where its entry ends, and never where it begins.
      const isIn = ({ seq, segment, payloadOffset: at }: IndexEntry): boolean =>
        segment === range.segment && at > range.offset && at <= end && seq <= listed;
      let [step, seen]: [StoredRecord[], number] = [[], 0];
      for (const entry of index.versionsOf(disk.no)) {
        if (isIn(entry)) step.push({ disk, entry });
        seen += 1;
        if (seen % limits.store.indexStepEntries > 0) continue;
        yield step;
        step = [];
      }
      yield step;
    }
  }

  /** The listed records whose rows stand in the entry there; in one step. */
  async *recordsAt(disks: readonly DiskStore[], position: Position): AsyncGenerator<StoredRecord[], void, void> {
    const rows = await this.rowsAt(position, disks);
    const bodyAt = position.offset + entryHeaderBytes;
    const recordOf = (disk: DiskStore, row: StoredRow): StoredRecord[] => {
      const entry = rows.get(rowKey(disk, row)) === row ? this.entry(disk.no, row.block, row.seq) : null;
      const isHere = entry?.segment === position.segment && entry.payloadOffset === bodyAt + row.payloadOffset;
      return isHere ? [{ disk, entry }] : [];
    };
    yield disks.flatMap((disk) => [...rows.values()].flatMap((row) => recordOf(disk, row)));
  }

  /** Records of the block that hold pages of this one as of theirs; itself first. */
  leaningOn(diskNo: number, { block, seq }: IndexEntry): IndexEntry[] {
    const { index } = this.#parts;
    const leaning: IndexEntry[] = [];
    for (
      let entry = index.lookup(diskNo, block, Number.MAX_SAFE_INTEGER);
      entry && entry.seq >= seq;
      entry = index.lookup(diskNo, block, entry.seq - 1)
    )
      if (seqsOf(entry).has(seq)) leaning.unshift(entry);
    return [...this.healedBy(diskNo, block, seq), ...leaning];
  }

  /** Older versions that were damaged and take their pages from this record (`repairs.ts`). */
  healedBy(diskNo: number, block: number, seq: number): IndexEntry[] {
    const repaired = this.#parts.points.repaired(diskNo);
    let healed = this.#healed.get(diskNo);
    if (healed?.size !== repaired.length) {
      healed = { size: repaired.length, seqs: new Map() };
      for (const { block: each, healthySeq, damagedSeq } of repaired) {
        const key = `${each}/${healthySeq}`;
        healed.seqs.set(key, [...(healed.seqs.get(key) ?? []), damagedSeq]);
      }
      this.#healed.set(diskNo, healed);
    }
    const entries = (healed.seqs.get(`${block}/${seq}`) ?? []).flatMap((each) => this.entry(diskNo, block, each) ?? []);
    return entries.filter((entry) => seqsOf(entry).has(seq));
  }

  /** Steps to whether the index has what makes the root of the disk at the point. */
  async findRoot(at: DiskAtRoot): Promise<Generator<void, RootFinding>> {
    return findRoot(await this.#parts.index.reader(), at);
  }

  readProgress(): Promise<ScrubProgress> {
    return readProgress(this.#parts.files, this.#parts.machineDirectory);
  }

  writeProgress(progress: ScrubProgress): Promise<void> {
    return writeProgress(this.#parts.files, this.#parts.machineDirectory, progress);
  }

  /** The rows of the entry there, whatever its digest says: by disk number, block and seq (`rowKey`). None when no entry's header stands there. */
  async rowsAt(position: Position, disks: readonly DiskStore[]): Promise<Map<string, StoredRow>> {
    const { files, machineId, directory } = this.#parts;
    const rows = new Map<string, StoredRow>();
    try {
      const file = await files.open(`${directory}/${segmentName(position.segment)}`, 'read');
      try {
        const window = new SegmentWindow(file, limits.store.replayReadBytes);
        const reading = await readEntry(window, { position, machineId }, false);
        const disk = reading.kind === 'entry' ? disks.find(({ no }) => no === reading.header.diskNo) : undefined;
        if (!disk || reading.kind !== 'entry') return rows;
        for (const row of rowsOf(reading.content, disk)) rows.set(rowKey(disk, row), row);
      } finally {
        await file.close();
      }
    } catch (error) {
      if (!isProblem(error) && !isMediumError(error) && systemCode(error) !== 'ENOENT') throw error;
    }
    return rows;
  }

  /** What the index knows of the records of a layer, where they were first. */
  async recordsOfLayer(disk: DiskStore, seq: number): Promise<StoredRecord[]> {
    const records: StoredRecord[] = [];
    for (const batch of (await this.#parts.index.reader()).batchesOf(disk.no, seq)) {
      for (const block of batch.blocks) {
        const entry = this.entry(disk.no, block, seq);
        if (entry?.segment === batch.segment) records.push({ disk, entry });
      }
    }
    return records;
  }

  /**
   * Rebuilds the block as its points read it, and matches its leaf. Null: it is whole. Problem `damaged`: it is not.
   * @throws Problem `read-failed`, `no-key`.
   */
  async check(disk: DiskStore, entry: IndexEntry): Promise<Problem | null> {
    const problem = await this.#rebuild(disk, entry);
    if (problem === null) return null;
    const now = this.#parts.index.get(disk.no, entry.block, entry.seq);
    // Invariant 3. Also what was wrong in memory alone is not found wrong twice.
    return now === undefined ? null : this.#rebuild(disk, now);
  }

  async #rebuild(disk: DiskStore, entry: IndexEntry): Promise<Problem | null> {
    const { blockSize } = disk.geometry;
    if (this.#block.byteLength !== blockSize) this.#block = new Uint8Array(blockSize);
    try {
      await this.#readerOf(disk).readRecord(disk.no, entry, this.#block);
      return null;
    } catch (error) {
      if (isProblem(error) && error.code === 'damaged') return error;
      throw error;
    }
  }

  #readerOf(disk: DiskStore): PointReader {
    const known = this.#readers.get(disk.no);
    if (known) return known;
    const { machine, index, reader } = this.#parts;
    const { no, name, keys, geometry } = disk;
    const id = Buffer.from(disk.id, 'hex');
    const at = { no, id, name, blockSize: geometry.blockSize, maxSeq: 0, keys: new Map([[keys.version, keys]]) };
    const readAt = (segment: number, into: Uint8Array, offset: number): Promise<void> =>
      reader.readAt(segment, into, offset);
    const made = new PointReader({ machine, disks: [at], index, readAt });
    this.#readers.set(no, made);
    return made;
  }
}

/** The rows of an entry; none when they can not be right, or it has none. */
export function rowsOf(content: EntryContent, disk: DiskStore): readonly StoredRow[] {
  const pageSize = disk.geometry.blockSize / limits.disk.pagesPerBlock;
  if (content.type === 'moved') return decodeMoved(content.table, pageSize, content.bodyLength)?.rows ?? [];
  if (content.type !== 'batch') return [];
  const { header, rows, bodyLength } = content;
  try {
    const bounds = { blockCount: limits.disk.blockCountMax, pageSize };
    return decodeSealedRows(rows, bounds, bodyLength).map((row) => ({ ...row, seq: header.seq }));
  } catch (error) {
    if (isProblem(error)) return [];
    throw error;
  }
}

export function rowKey(disk: DiskStore, { block, seq }: { readonly block: number; readonly seq: number }): string {
  return `${disk.no}/${block}/${seq}`;
}

/** Whether the index says of a record what its row says. */
export function saysTheSame(entry: IndexEntry, row: StoredRow): boolean {
  return (
    entry.pageMask === row.pageMask &&
    entry.codec === row.codec &&
    entry.storedLength === row.storedLength &&
    entry.rawLength === row.rawLength &&
    entry.nonce === row.nonce &&
    sameBytes(entry.leaf, row.leaf) &&
    sameBytes(entry.tag, row.tag)
  );
}

/** Of a record whose row is not where it was written, or is another one: it can be read for as long as the index is there, and no longer. */
export function rowLost(disk: DiskStore, { block, seq, segment }: IndexEntry): Problem {
  return new Problem(
    'damaged',
    `disk ${disk.name}, block ${block}, layer ${seq}: what segment ${segment} should say of it is damaged`,
    { remedy: 'while the source replicates, the block is asked of it again' },
  );
}

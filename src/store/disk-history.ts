/**
 * A disk as of several of its points at once: which versions of its blocks they select. A version (block, seq) that a thousand points share is met
 * once. Built on look-ups of the index by (block, highest seq), the one rule of a read at a point, so whatever moves or drops records behind it
 * is followed.
 */
import { geometryOf, type Geometry } from '../disk/geometry.ts';
import type { IndexEntry } from './index-codec.ts';
import type { IndexReader } from './index-reader.ts';
import type { DiskFacts } from './machine-directory.ts';
import type { MachineSurvey } from './machine-survey.ts';
import { seqsOf } from './rebuild.ts';
import { planRebuild, type RebuildTask } from './rebuild-run.ts';
import type { DiskKeys } from './vault.ts';

export interface PointOfDisk {
  readonly point: number;
  readonly geometry: Geometry;
  /** Hex. */
  readonly root: string;
  /** The highest seq it, or one before it, lists. */
  readonly maxSeq: number;
}

/** A block as the points [from, end) of the history read it; indices, not point numbers. */
export interface Version {
  readonly entry: IndexEntry;
  readonly from: number;
  readonly end: number;
}

/** Bytes of a segment. */
export interface StoredRange {
  readonly segment: number;
  readonly offset: number;
  readonly length: number;
}

/** Numbers the histories of a process (`RebuildTask.image`), downwards from −1: threads keep keys by that number, and views count upwards. */
let histories = 0;

export class DiskHistory {
  readonly disk: DiskFacts;
  /** Ascending. */
  readonly points: readonly PointOfDisk[];
  readonly #survey: MachineSurvey;
  readonly #index: IndexReader;
  readonly #number: number;

  /** Of the points `wanted` that hold the disk. */
  constructor(survey: MachineSurvey, disk: DiskFacts, wanted: (point: number) => boolean) {
    this.disk = disk;
    this.#survey = survey;
    this.#index = survey.index;
    histories -= 1;
    this.#number = histories;
    const points: PointOfDisk[] = [];
    let maxSeq = 0;
    for (const { point, disks } of survey.points.points) {
      const listed = disks.find(({ no }) => no === disk.no);
      if (!listed) continue;
      maxSeq = listed.layers?.last ?? maxSeq;
      if (!wanted(point)) continue;
      points.push({ point, geometry: geometryOf(listed.size, listed.blockSize), root: listed.root, maxSeq });
    }
    this.points = points;
  }

  /** Of the newest point. */
  get size(): number {
    return this.points.at(-1)?.geometry.size ?? 0;
  }

  /** Blocks that have a record at one of the points, ascending; some more may be among them. */
  *blocks(): Generator<number> {
    const maxSeq = this.points.at(-1)?.maxSeq ?? 0;
    for (const { block } of this.#index.entriesAt(this.disk.no, maxSeq)) yield block;
  }

  /** The versions that points [first, end) select of the block, newest first. */
  *versions(block: number, first = 0, end = this.points.length): Generator<Version> {
    for (let above = end; above > first;) {
      const entry = this.#index.lookup(this.disk.no, block, this.points[above - 1]?.maxSeq ?? 0);
      if (!entry) return;
      const from = Math.max(first, this.#firstWith(entry.seq, above));
      yield { entry, from, end: above };
      above = from;
    }
  }

  /** What a worker thread needs to rebuild these versions; neighbours are of different blocks. */
  plan(versions: readonly Version[], keys: ReadonlyMap<number, DiskKeys>): RebuildTask {
    const { no, name, blockSize } = this.disk;
    const id = Uint8Array.from(Buffer.from(this.disk.id, 'hex'));
    const disk = { machine: this.#survey.machine, no, id, name, blockSize, keys };
    const place = { image: this.#number, segments: this.#survey.segments, disk };
    const entries = versions.map(({ entry }) => entry);
    return planRebuild(place, entries, {
      get: (block, seq) => this.#index.get(no, block, seq),
      layer: (seq) => this.#index.layer(no, seq),
    });
  }

  /** Whether stored bytes of a record that holds pages of the version lie in one of the ranges. */
  liesIn({ entry }: Version, ranges: readonly StoredRange[]): boolean {
    for (const seq of seqsOf(entry)) {
      const record = seq === entry.seq ? entry : this.#index.get(this.disk.no, entry.block, seq);
      if (!record) return true;
      const { segment, payloadOffset: from, storedLength } = record;
      const hit = ranges.some(
        (range) =>
          range.segment === segment && range.offset <= from + storedLength && from < range.offset + range.length,
      );
      if (hit) return true;
    }
    return false;
  }

  /** The first point below `end` that reads as of `seq` or later; its predecessor does not. */
  #firstWith(seq: number, end: number): number {
    let [low, high] = [0, end - 1];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.points[middle]?.maxSeq ?? 0) >= seq) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

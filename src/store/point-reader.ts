/**
 * Reads blocks of a machine's disks as of a point: index look-up, payloads from the segments, the block put together and checked by
 * `rebuild.ts`, whose invariants hold here.
 *
 * A block without any record was never written: zeros. That the index lost none is proven where the root over all leaves is
 * recomputed (`verify`, and the commit).
 */
import { Problem } from '../kit/problem.ts';
import type { IndexEntry } from './index-codec.ts';
import type { RecordLookup } from './index-reader.ts';
import { BlockRebuilder, type DiskToRebuild } from './rebuild.ts';

/** Fills `into` from `offset` of segment `segment`; rejects if that many bytes are not there. */
export type ReadSegment = (segment: number, into: Uint8Array, offset: number) => Promise<void>;

/** A disk as of the point. */
export interface PointDisk extends Omit<DiskToRebuild, 'machine'> {
  /** The highest seq the point (or one before it) lists of this disk. */
  readonly maxSeq: number;
}

export interface PointReaderOptions {
  readonly machine: string;
  readonly disks: readonly PointDisk[];
  readonly index: RecordLookup;
  readonly readAt: ReadSegment;
}

/** Anything that gives whole checked blocks. */
export interface BlockSource {
  /** Fills `into` (blockSize bytes); the caller owns it throughout. @throws Problem `damaged`, `read-failed`. */
  readBlock(diskNo: number, block: number, into: Uint8Array): Promise<void>;
}

interface DiskReader {
  readonly at: PointDisk;
  readonly rebuilder: BlockRebuilder;
}

export class PointReader implements BlockSource {
  readonly #options: PointReaderOptions;
  readonly #disks: ReadonlyMap<number, DiskReader>;

  constructor(options: PointReaderOptions) {
    this.#options = options;
    const { machine, disks, index } = options;
    this.#disks = new Map(
      disks.map((at) => {
        const rebuilder = new BlockRebuilder({ ...at, machine }, (seq) => index.layer(at.no, seq));
        return [at.no, { at, rebuilder }];
      }),
    );
  }

  async readBlock(diskNo: number, block: number, into: Uint8Array): Promise<void> {
    const { at } = this.#disk(diskNo);
    if (into.byteLength !== at.blockSize) throw new RangeError(`a block has ${at.blockSize} bytes`);
    const entry = this.#options.index.lookup(diskNo, block, at.maxSeq);
    if (entry) await this.readRecord(diskNo, entry, into);
    else into.fill(0);
  }

  /** As `readBlock`, of the block as of a record the caller found in the index. */
  async readRecord(diskNo: number, entry: IndexEntry, into: Uint8Array): Promise<void> {
    const { index, readAt } = this.#options;
    const recordOf = (seq: number): IndexEntry | undefined => index.get(diskNo, entry.block, seq);
    const rebuild = this.#disk(diskNo).rebuilder.rebuild(entry, recordOf, into);
    for (let step = rebuild.next(); step.done !== true;) {
      const { segment, into: payload, offset } = step.value;
      const failure = await readAt(segment, payload, offset).then(
        () => null,
        (error: unknown) => ({ error }),
      );
      step = failure === null ? rebuild.next() : rebuild.throw(failure.error);
    }
  }

  #disk(diskNo: number): DiskReader {
    const disk = this.#disks.get(diskNo);
    if (!disk) throw new Problem('not-found', `machine ${this.#options.machine} has no disk ${diskNo} at this point`);
    return disk;
  }
}

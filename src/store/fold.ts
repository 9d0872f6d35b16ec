/**
 * Fold: takes out of the index what no kept point reads (`live-records.ts`), and counts where the rest lies, so that compaction (`compact.ts`) knows what
 * a segment is worth. One pass goes over all records of a machine; it stores nothing of its own, so whoever is interrupted begins again.
 *
 * Invariants:
 *  1. Works without keys, and on the index alone: what it takes away stays in its segment until compaction, and comes back, harmlessly, when the
 *     index is made anew.
 *  2. Small steps: at most `foldStepRecords` records are looked at before the pace says when to go on, and what changes goes into the index
 *     in turn with what is received (`MachineLog.rewrite`). No snapshot is held between steps. Memory: the versions of one block, live seqs.
 *  3. What points list when the pass begins decides. Points that come later read nothing that it takes away, since all above the newest one stays.
 */
import { limits } from '../limits.ts';
import { sealedRowBytes, codec as codecs } from '../wire/sealed.ts';
import { layerKey, readRecord, recordKey, type IndexEntry } from './index-codec.ts';
import { nodeKey } from './index-nodes.ts';
import type { IndexChange } from './index-pages.ts';
import type { IndexReader } from './index-reader.ts';
import { liveVersions } from './live-records.ts';
import type { MachineLog } from './machine-log.ts';
import type { InUse } from './points-in-use.ts';
import type { PointsView } from './points-view.ts';

/** Who folds says how fast. */
export interface FoldPace {
  /** Call it between steps, with the bytes read and written since. Answers false when it is time to stop. */
  step(bytes: number): Promise<boolean>;
}

/** What is live, as of the beginning of the pass. */
export interface LiveAccount {
  /** Segment → bytes of the live records in it, rows and payloads as they were received. */
  readonly segments: Map<number, number>;
  /** Of each disk the seqs of layers with a live record, and the highest seq that points listed. */
  readonly layers: ReadonlyMap<number, { readonly live: ReadonlySet<number>; readonly listed: number }>;
  /** Records that were taken out of the index. */
  readonly dropped: number;
}

export interface FoldParts {
  readonly log: MachineLog;
  readonly points: PointsView;
  readonly disks: readonly { readonly no: number }[];
}

/** Null when the pace said stop. @throws Problem `index-failed`. */
export async function foldIndex(parts: FoldParts, inUse: InUse, pace: FoldPace): Promise<LiveAccount | null> {
  const segments = new Map<number, number>();
  const layers = new Map<number, { live: Set<number>; listed: number }>();
  let dropped = 0;
  for (const { no } of parts.disks) {
    const listed = parts.points.listedSeq(no);
    const live = new Set<number>();
    layers.set(no, { live, listed });
    const pass = new DiskPass(no, marksOf(parts.points, no, inUse), (record) => {
      live.add(record.seq);
      segments.set(record.segment, (segments.get(record.segment) ?? 0) + sealedRowBytes + record.storedLength);
    });
    if (!(await foldDisk(parts, no, pass, pace))) return null;
    dropped += pass.dropped;
    if (!(await foldNodes(parts, no, inUse, pace))) return null;
    await forgetLayers(parts.log, no, (seq) => seq > listed || live.has(seq));
  }
  return { segments, layers, dropped };
}

/** The highest seqs up to which kept points, and retired ones in use, read the disk: ascending. */
function marksOf(view: PointsView, diskNo: number, inUse: InUse): number[] {
  const marks: number[] = [];
  let last = 0;
  for (const { point, disks } of view.points) {
    last = disks.find(({ no }) => no === diskNo)?.layers?.last ?? last;
    if (last > (marks.at(-1) ?? 0) && (!view.isRetired(point) || inUse(point))) marks.push(last);
  }
  return marks;
}

async function foldDisk({ log }: FoldParts, diskNo: number, pass: DiskPass, pace: FoldPace): Promise<boolean> {
  const index = await log.index.reader();
  let looked = 0;
  for (const { block, seq, value } of index.rawRecords(diskNo, 0)) {
    pass.take(readRecord(block, seq, value));
    looked += 1;
    if (looked % limits.store.foldStepRecords !== 0) continue;
    await log.rewrite(pass.dead());
    if (!(await pace.step(0))) return false;
  }
  pass.end();
  await log.rewrite(pass.dead());
  return pace.step(0);
}

/** The same for Merkle nodes, whose rows are by point: of each node the newest up to a kept point stays, and all above the newest of these. */
async function foldNodes({ log, points }: FoldParts, diskNo: number, inUse: InUse, pace: FoldPace): Promise<boolean> {
  const index = await log.index.reader();
  const kept = points.points.map(({ point }) => point).filter((point) => !points.isRetired(point) || inUse(point));
  let dead: IndexChange[] = [];
  let rows: { node: number; point: number }[] = [];
  const settle = (): void => {
    const live = liveVersions(
      rows.map(({ point }) => ({ seq: point, zero: false, pages: null })),
      kept,
    );
    for (const [at, { node, point }] of rows.entries())
      if (live[at] !== true) dead.push({ store: 'nodes', key: nodeKey(diskNo, node, point) });
    rows = [];
  };
  let looked = 0;
  for (const row of index.nodeRows(diskNo)) {
    if (rows[0] && rows[0].node !== row.node) settle();
    rows.push(row);
    looked += 1;
    if (looked % limits.store.foldStepRecords !== 0) continue;
    await log.rewrite(dead);
    dead = [];
    if (!(await pace.step(0))) return false;
  }
  settle();
  await log.rewrite(dead);
  return pace.step(0);
}

/** One disk's records, block by block. */
class DiskPass {
  dropped = 0;
  readonly #diskNo: number;
  readonly #marks: readonly number[];
  readonly #isLive: (record: IndexEntry) => void;
  #block: IndexEntry[] = [];
  #dead: IndexChange[] = [];

  constructor(diskNo: number, marks: readonly number[], isLive: (record: IndexEntry) => void) {
    this.#diskNo = diskNo;
    this.#marks = marks;
    this.#isLive = isLive;
  }

  take(record: IndexEntry): void {
    if (this.#block[0] && this.#block[0].block !== record.block) this.end();
    this.#block.push(record);
  }

  /** No more versions of the block come. */
  end(): void {
    const versions = this.#block;
    const live = liveVersions(
      versions.map(({ seq, codec, pages }) => ({ seq, pages, zero: codec === codecs.zero })),
      this.#marks,
    );
    versions.forEach((record, at) => {
      if (live[at] === true) this.#isLive(record);
      else this.#dead.push({ store: 'records', key: recordKey(this.#diskNo, record.block, record.seq) });
    });
    this.#block = [];
  }

  /** What is to be taken out, once. */
  dead(): IndexChange[] {
    const dead = this.#dead;
    this.#dead = [];
    this.dropped += dead.length;
    return dead;
  }
}

/** Layers of which nothing is left. */
async function forgetLayers(log: MachineLog, diskNo: number, isLive: (seq: number) => boolean): Promise<void> {
  const index: IndexReader = await log.index.reader();
  let gone: IndexChange[] = [];
  for (const seq of index.layersOf(diskNo)) {
    if (!isLive(seq)) gone.push({ store: 'layers', key: layerKey(diskNo, seq) });
    if (gone.length < limits.store.indexStepEntries) continue;
    await log.rewrite(gone);
    gone = [];
  }
  await log.rewrite(gone);
}

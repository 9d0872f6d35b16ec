/**
 * Which of the blocks that were found damaged still are: the one rule for repair, proofs and openings. A block found damaged at a point is replaced
 * once its newest record takes no page from a layer of that point or one before it. Pure, over an index.
 */
import type { IndexEntry } from './index-codec.ts';
import type { RecordLookup } from './index-reader.ts';
import { maxSeqAt } from './point-layers.ts';
import type { PointsView } from './points-view.ts';

/** Whether the block, as of this record, takes pages from a layer up to `seq`. Without a record nothing replaced it. */
export function leansOn(entry: IndexEntry | undefined, seq: number): boolean {
  if (!entry || entry.seq <= seq) return true;
  return entry.pages?.some((page) => page !== null && page <= seq) ?? false;
}

/** Blocks found damaged at some point that the newest records have not replaced, each once. */
export function unrepairedBlocks(index: RecordLookup, view: PointsView, diskNo: number): number[] {
  const found = [...damagedBefore(view, diskNo, view.points.length + 1)];
  const unrepaired = found.filter(([block, seq]) => leansOn(index.lookup(diskNo, block, Number.MAX_SAFE_INTEGER), seq));
  return unrepaired.map(([block]) => block);
}

export interface InheritedDamage {
  /** Nothing was written to these blocks since: as damaged here as they were there, whatever a read says (the index may lack records). */
  readonly same: number[];
  /** Some of their pages may be as they were: reading and the leaf decide. */
  readonly partly: number[];
}

/** Blocks found damaged at points before `point` that this point has not replaced, each once. */
export function inheritedDamage(index: RecordLookup, view: PointsView, diskNo: number, point: number): InheritedDamage {
  const maxSeq = maxSeqAt(view, diskNo, point);
  const same: number[] = [];
  const partly: number[] = [];
  for (const [block, seq] of damagedBefore(view, diskNo, point)) {
    const entry = index.lookup(diskNo, block, maxSeq);
    if (!entry || entry.seq <= seq) same.push(block);
    // A page that is zeros may be one whose record the index lost.
    else if (entry.pages?.some((page) => page === null || page <= seq)) partly.push(block);
  }
  return { same, partly };
}

/**
 * Blocks found damaged at points below `point`, each with the highest seq of the last of these: who has replaced it as of that one has
 * replaced it as of the others.
 */
function damagedBefore(view: PointsView, diskNo: number, point: number): Map<number, number> {
  const found = new Map<number, number>();
  for (const [number, disks] of view.damaged) {
    const blocks = number < point ? disks.get(diskNo) : undefined;
    if (!blocks) continue;
    const seq = maxSeqAt(view, diskNo, number);
    for (const block of blocks) found.set(block, Math.max(seq, found.get(block) ?? 0));
  }
  return found;
}
